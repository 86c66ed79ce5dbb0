"""The engine's benchmarks: same work on both sides of a ratio, and what is skipped says why."""

import functools
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import engine, throughput
from benchmarks.measure import gemms
from benchmarks.measure.fidelity import LEAST_PROTEINS
from benchmarks.measure.timing import Protocol, alternate
from benchmarks.peers import (
    base,
    esm_cpp,
    esm_efficient,
    fair_esm,
    formats,
    onnx_runtime,
    open_vino,
    own_process,
    table,
    transformers,
)
from benchmarks.precision import Precision
from benchmarks.suite.cell import Store
from benchmarks.suite.hardware import GIB, Hardware
from benchmarks.suite.workloads import tokens_in
from tests.conftest import MODEL, NEEDS_TRITON, RAGGED, sample_of
from virnucpro.data.packing import pack
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.async_inference import AsyncInferenceRunner

ROOT = Path(__file__).parents[2]
CPU = Hardware("cpu", "a CPU", 24 * GIB, (0, 0), {})
GPU = Hardware("cuda", "a GPU", 80 * GIB, (9, 0), {})
PROTEINS = [entry for entry in RAGGED if entry[0] != "masked"]  # Peer counts letters
BUILD = {"fair-esm": fair_esm.fair_esm, "transformers": transformers.transformers}
needs_esm_cpp = pytest.mark.skipif(esm_cpp.missing() is not None, reason=f"needs esm-cpp: {esm_cpp.missing()}")
needs_esm_efficient = pytest.mark.skipif(
    esm_efficient.missing() is not None, reason=f"needs esm-efficient: {esm_efficient.missing()}"
)


@pytest.fixture(scope="module")
def model():
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")[0]


@pytest.fixture(scope="module")
def embeddings(model):
    (result,) = AsyncInferenceRunner(model).run(pack(PROTEINS, 10_000))
    return dict(zip(result.sequence_ids, result.embeddings, strict=True))


@pytest.mark.parametrize("package", BUILD)
@pytest.mark.parametrize("size", sample_of([1, 8], 1))
def test_a_peer_with_the_engines_weights_gives_its_embeddings(model, embeddings, package, size):
    pytest.importorskip(package.replace("fair-esm", "esm"), reason=f"{package} is not installed")
    encode = BUILD[package](model.shape, "fp32", "cpu", model.fair_esm_state())
    peer = base.PaddedPeer(encode, PROTEINS, "fp32", "cpu", [size])
    assert peer.check(embeddings) <= 1e-5


@needs_esm_efficient
def test_esm_efficient_with_the_engines_weights_gives_its_embeddings(model, embeddings):
    encode = esm_efficient.esm_efficient(model.shape, "fp32", "cpu", model.fair_esm_state())
    peer = esm_efficient.PackedPeer(encode, PROTEINS, "fp32", "cpu", [500])
    assert len(peer.batches[500]) > 1
    assert peer.check(embeddings) <= 1e-5


@needs_esm_efficient
def test_esm_efficients_stand_ins_are_gone_after_its_import():
    esm_efficient.import_model()
    assert not {"flash_attn", "flash_attn.bert_padding"} & set(sys.modules)


def test_an_option_that_the_stand_in_does_not_have_is_refused():
    with pytest.raises(NotImplementedError, match="causal"):
        esm_efficient.flash_attn_varlen_func(*[torch.zeros(1)] * 5, 1, 1, causal=True)


@pytest.mark.parametrize(
    "peer, precision, hardware, said",
    [
        ("esm-efficient on PyTorch's attention, packed", "fp32", GPU, "on GPUs it computes in BF16 and FP16 only"),
        ("fair-esm, sorted", "int8", GPU, "on GPUs it computes in FP32, TF32, BF16 and FP16 only"),
        ("fair-esm, sorted", "int8", CPU, "on CPUs it computes in FP32, BF16 and FP16 only"),
        ("esm-cpp, tokens to logits", "int8", GPU, "it does not run on GPUs"),
        ("esm-cpp, tokens to logits", "bf16", CPU, "on CPUs it computes in FP32 and INT8 only"),
        ("OpenVINO, sorted", "fp16", CPU, "on CPUs it computes in FP32, BF16 and INT8 only"),
        ("ONNX Runtime, sorted", "bf16", CPU, "on CPUs it computes in FP32 and INT8 only"),
    ],
)
def test_a_peer_that_cannot_run_is_named_with_the_reason(peer, precision, hardware, said):
    assert table.PEERS[peer].skip_reason(table.Case(MODEL, precision, [], hardware)) == said


def test_without_esm_cpp_it_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(esm_cpp, "find_spec", lambda name: None)
    how = table.PEERS["esm-cpp, tokens to logits"]
    assert "pip install esm-cpp==0.2.1" in how.skip_reason(table.Case(MODEL, "int8", [], CPU))


@pytest.mark.parametrize("module, peer", [(open_vino, "OpenVINO, sorted"), (onnx_runtime, "ONNX Runtime, sorted")])
def test_a_runtime_that_is_not_installed_is_named_with_the_remedy(monkeypatch, module, peer):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert "pip install" in table.PEERS[peer].skip_reason(table.Case(MODEL, "int8", [], CPU))


def test_openvino_is_not_measured_in_bf16_where_it_would_compute_in_fp32(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert "no BF16" in open_vino.lacks("bf16")
    assert open_vino.lacks("int8") is None


@pytest.mark.skipif(open_vino.missing() is not None, reason=f"needs OpenVINO: {open_vino.missing()}")
@pytest.mark.parametrize("build", [open_vino.one_by_one, open_vino.in_streams])
def test_openvino_with_the_engines_weights_gives_its_embeddings(model, embeddings, build):
    queue = build(model.shape, "fp32", "cpu", model.fair_esm_state())
    assert open_vino.OpenVinoPeer(queue, PROTEINS, "fp32", "cpu", [4]).check(embeddings) <= 1e-5


@pytest.mark.skipif(onnx_runtime.missing() is not None, reason=f"needs ONNX Runtime: {onnx_runtime.missing()}")
def test_onnx_runtime_with_the_engines_weights_gives_its_embeddings(model, embeddings):
    encode = onnx_runtime.onnx_runtime(model.shape, "fp32", "cpu", model.fair_esm_state())
    assert base.PaddedPeer(encode, PROTEINS, "fp32", "cpu", [4]).check(embeddings) <= 1e-5


def letters_alone(sizes):
    return base.PaddedPeer(lambda tokens: tokens[..., None].float(), PROTEINS, "fp32", "cpu", sizes)


def test_a_peer_in_a_process_of_its_own_gives_its_embeddings_and_tells_what_fails():
    peer = own_process.OwnProcess(letters_alone, [2])
    assert (peer.unit, peer.size) == ("batches", 2)
    assert peer.check(letters_alone([2]).embeddings()) == 0
    with pytest.raises(RuntimeError, match="TypeError"):
        peer.run("twice")
    with pytest.raises(RuntimeError, match="TypeError"):
        own_process.OwnProcess(letters_alone, "none")


@needs_esm_cpp
@pytest.mark.parametrize("precision", esm_cpp.PRECISIONS)
def test_esm_cpp_with_the_engines_weights_gives_its_embeddings(model, embeddings, precision):
    encode = esm_cpp.esm_cpp(model.shape, precision, "cpu", model.fair_esm_state())
    assert esm_cpp.EsmCppPeer(encode, PROTEINS, precision, "cpu").check(embeddings) <= 2e-2


@needs_esm_cpp
def test_esm_cpp_runs_with_random_weights_of_its_own(model):
    peer = esm_cpp.EsmCppPeer(esm_cpp.esm_cpp(model.shape, "int8", "cpu", None), PROTEINS, "int8", "cpu")
    peer.run(1)
    assert all(row.isfinite().all() for row in peer.embeddings().values())


def test_a_peer_with_other_weights_is_found_out(model, embeddings):
    peer = base.PaddedPeer(fair_esm.fair_esm(model.shape, "fp32", "cpu", None), PROTEINS, "fp32", "cpu")
    with pytest.raises(RuntimeError, match="differ from the engine's by"):
        peer.check(embeddings)


def test_a_peer_must_take_all_weights(model):
    with pytest.raises(RuntimeError, match="no parameter surprise"):
        fair_esm.fair_esm(model.shape, "fp32", "cpu", {"surprise": torch.zeros(1)})


def test_a_peer_is_run_in_its_fastest_batch_size():
    peer = base.PaddedPeer(lambda tokens: tokens, PROTEINS, "fp32", "cpu", [1, 2, 3])
    tried: list[int] = []
    peer.run = lambda passes: tried.append(peer.size)

    def timer(call):
        call()
        return {1: 3.0, 2: 1.0, 3: 2.0}[peer.size]

    peer.choose_fastest(timer)
    assert peer.size == 2
    assert set(tried) == {1, 2, 3}


def test_batch_sizes_are_tried_on_neighbours_as_sorted_batches_hold_them():
    entries = [(f"p{length}", "A" * length) for length in range(1, 101)]
    peer = base.PaddedPeer(lambda tokens: tokens, entries, "fp32", "cpu", [2, 10])
    tried = {
        size: [label for labels, _, _ in batches for label in labels] for size, batches in peer.trials.items()
    }
    assert tried[2] == tried[10] == [f"p{length}" for length in range(46, 56)]


@pytest.mark.parametrize("gemm", gemms.CPU_GEMMS)
def test_a_cpus_gemms_compute_the_same(gemm):
    x, weight, bias = torch.randn(7, 64), torch.randn(48, 64), torch.randn(48)
    torch.testing.assert_close(gemm(x, weight, bias), x @ weight.t() + bias, atol=1e-4, rtol=1e-5)


def test_the_ceiling_has_the_models_matrix_products_and_nothing_else(model, monkeypatch):
    products = gemms.LayerGEMMs(model.shape, "fp32", "cpu", tokens=7)
    assert products.gemm in gemms.CPU_GEMMS
    with monkeypatch.context() as patched, torch.profiler.profile(with_flops=True) as profile:
        patched.setattr(products, "gemm", torch.nn.functional.linear)  # of whose work the profiler knows
        products.run(1)
    flops = sum(event.flops for event in profile.key_averages())
    layers = sum(
        value.numel() for name, value in model.named_parameters() if "layers." in name and value.ndim == 2
    )
    assert flops == 2 * 7 * layers


@pytest.mark.parametrize("dtype, limit, error", [(torch.int8, 127, 1 / 254), (torch.float8_e4m3fn, 448, 1 / 16)])
def test_operands_of_eight_bits_stand_for_the_values(dtype, limit, error):
    matrix = torch.randn(5, 64)
    values, scales = gemms.eight_bits(matrix.clone(), limit, dtype)
    largest = matrix.abs().amax(1, keepdim=True)
    assert values.dtype == dtype
    assert (values.float().abs().amax(1) == limit).all()
    assert ((values.float() * scales[:, None] - matrix).abs() <= 1.01 * error * largest).all()


@pytest.mark.parametrize("precision, device", [("int8", "cuda"), ("fp8", "cuda"), ("fp32", "cpu")])
def test_a_ceilings_product_is_that_of_its_operands(precision, device):
    if precision == "int8":
        pytest.importorskip("triton", reason=NEEDS_TRITON)
    product, operand, bias_type = gemms.gemm_of(precision, device)
    x, weight = (torch.randn(rows, 64) for rows in (32, 48))
    found = product(operand(x.clone()), operand(weight.clone()), torch.zeros(48, dtype=bias_type))
    assert (found.float() - x @ weight.t()).abs().max() < 0.05 * (x @ weight.t()).abs().max()


def test_the_int8_ceiling_has_the_models_matrix_products_and_nothing_else(model):
    products = gemms.LayerGEMMs(model.shape, "int8", "cpu", tokens=7)
    sizes = []
    exact = products.gemm
    products.gemm = lambda x, weight, bias: sizes.append(exact(x, weight, bias).shape + x[0].shape[1:])
    products.run(1)
    dim = model.shape.dim
    layer = [(7, 3 * dim, dim), (7, dim, dim), (7, 4 * dim, dim), (7, dim, 4 * dim)]
    assert sizes == layer * model.shape.layers


@pytest.mark.parametrize("precision, workload", [("fp32", "mixed"), ("fp8", "mixed"), ("int8", "short")])
def test_15b_is_measured_in_few_cells_and_the_others_say_so(precision, workload):
    with pytest.raises(NotImplementedError, match="is measured in BF16 and INT8 for the workload mixed only"):
        throughput.Throughput().setup(Store(GPU), "esm2_t48_15B_UR50D", precision, workload)


@pytest.mark.parametrize(
    "benchmark, model, said",
    [
        (throughput.Throughput, MODEL, "with esm2_t33_650M_UR50D and esm2_t36_3B_UR50D only"),
        (Precision, MODEL, "with esm2_t36_3B_UR50D only"),
        (Precision, "esm2_t33_650M_UR50D", "with esm2_t36_3B_UR50D only"),
    ],
)
def test_fragments_are_measured_with_virnucpros_models_on_gpus_and_with_8m_on_cpus(benchmark, model, said):
    with pytest.raises(NotImplementedError, match=f"on GPUs fragments is measured {said}"):
        benchmark().setup(Store(GPU), model, "bf16", "fragments")
    Store(CPU).require_model(MODEL, throughput.OF_FRAGMENTS)
    Store(GPU).require_model("esm2_t36_3B_UR50D", throughput.OF_FRAGMENTS)


@pytest.mark.exhaustive
def test_a_table_of_formats_has_a_row_for_each_precision_with_its_ratio_and_fidelity(monkeypatch):
    def call(function, arguments):
        return function(*arguments)

    rng = random.Random(0)
    few = [(f"p{n}", "".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=20))) for n in range(LEAST_PROTEINS)]
    monkeypatch.setattr(formats, "fidelity_proteins", lambda workload: few)
    monkeypatch.setitem(formats.MEMORY_TOKENS, "cpu", 256)
    names = ["fp32", "int8", "fp8"]
    rows = formats.table(MODEL, names, PROTEINS, CPU, 1, call).splitlines()
    assert [row.split()[0] for row in rows[2:4]] == ["fp32", "int8"]
    assert rows[2].split()[2] == "1.00"
    assert 0.99 < float(rows[3].split()[-3]) < 1
    assert rows[3].endswith("%")
    assert rows[4] == "not measured: FP8 is a mode of NVIDIA GPUs, and this machine has none that PyTorch can use"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_cpu_is_skipped_with_the_reason(precision):
    with pytest.raises(NotImplementedError, match=r"on CPUs .* FP32 and INT8 only"):
        engine.Engine().setup(Store(CPU), MODEL, precision, "mixed")


def test_a_precision_that_a_cpu_has_no_units_for_is_not_measured_beside_its_gemms():
    slow = Store(replace(CPU, slow=("int8",)))
    with pytest.raises(NotImplementedError, match="this CPU has no units for INT8"):
        engine.Engine().setup(slow, MODEL, "int8", "mixed")


@pytest.mark.parametrize(
    "benchmark, precision, said",
    [
        (engine.Engine, "tf32", "on GPUs this is measured in FP32, FP16, INT8 and FP8 only"),
        (engine.Engine, "bf16", "on GPUs this is measured in FP32, FP16, INT8 and FP8 only"),
        (engine.OverFairEsm, "int8", "on GPUs this is measured in FP16 only"),
        (engine.OverFairEsm, "fp32", "on GPUs this is measured in FP16 only"),
        (engine.OverTransformers, "fp32", "on GPUs this is measured in FP16 only"),
    ],
)
def test_what_costs_a_gpu_more_than_it_tells_is_skipped_with_the_reason(monkeypatch, benchmark, precision, said):
    monkeypatch.setattr(transformers, "transformers_is_missing", lambda: None)
    with pytest.raises(NotImplementedError, match=said):
        benchmark().setup(Store(GPU), MODEL, precision, "mixed")


def test_without_transformers_its_comparison_is_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(transformers, "find_spec", lambda name: None)
    with pytest.raises(NotImplementedError, match="Transformers is not installed"):
        engine.OverTransformers().setup(Store(CPU), MODEL, "fp32", "mixed")


def test_one_long_protein_takes_the_place_of_some_short_ones():
    even, ragged = engine.even_and_ragged(5_000)
    assert {len(protein) for _, protein in even} == {50}
    assert [len(protein) for _, protein in ragged] == [50] * (len(ragged) - 1) + [1022]
    assert abs(tokens_in(ragged) - tokens_in(even)) <= 8 * 52


@pytest.mark.exhaustive
def test_the_engine_is_compared_with_fair_esm(tmp_path, monkeypatch, capsys):
    quick = functools.partial(alternate, protocol=Protocol(blocks=2, block_seconds=0.001))
    monkeypatch.setattr(engine, "alternate", quick)
    monkeypatch.chdir(tmp_path)  # where a store keeps its outcomes
    benchmark, store = engine.OverFairEsm(), Store(CPU)
    benchmark.setup(store, MODEL, "fp32", "mixed")
    samples = benchmark.track_speedup_over_fair_esm(store, MODEL, "fp32", "mixed")["samples"]
    assert len(samples) == 2
    assert min(samples) > 0
    assert '"peer": "fair-esm 2.0.0"' in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_engines_costs_and_its_share_of_the_ceiling_are_measured(tmp_path):
    """In a process of its own: processes are forked from it, which this one's threads would not survive."""
    code = f"""
import functools
from benchmarks import engine
from benchmarks.measure.timing import Protocol, alternate
engine.alternate = functools.partial(alternate, protocol=Protocol(blocks=2, block_seconds=0.001))
benchmark = engine.Engine()
store = benchmark.setup_cache()
cell = (store, {MODEL!r}, "fp32", "mixed")
benchmark.setup(*cell)
for metric in ("fraction_of_gemm_ceiling", "load_seconds", "compile_seconds"):
    print(min(getattr(benchmark, "track_" + metric)(*cell)["samples"]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    fraction, load, compiling = (float(line) for line in done.stdout.splitlines() if "virnucpro-cell" not in line)
    assert fraction > 0
    assert load > 0
    assert compiling >= 0


@pytest.mark.exhaustive
@pytest.mark.hours
@pytest.mark.slow
def test_the_engine_table_has_a_row_for_each_implementation_and_a_profile():
    command = [
        sys.executable,
        "-m",
        "benchmarks.peers.table",
        "--models",
        MODEL,
        "--proteins",
        "2",
        "--rounds",
        "1",
        "--profile",
    ]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if "MiB" in line]
    assert rows[0].startswith("virnucpro, tokens to embeddings on the CPU")
    assert rows[1].startswith("fair-esm, as they come, batches of 8")
    assert "random weights; 2 proteins" in printed
    assert "aten::_int_mm" in printed
