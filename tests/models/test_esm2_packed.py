"""forward_packed against fair-esm: proteins of all kinds in one pack, in any order, in every precision."""

import copy
import functools
import subprocess
import sys
from pathlib import Path

import esm
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import MODEL, RAGGED
from virnucpro.data.packing import make_pack, pack
from virnucpro.data.tokens import encode
from virnucpro.models import attention
from virnucpro.models.attention import attend, attend_memory_efficient
from virnucpro.models.esm2 import ESM2, SHAPES, ESM2Shape, Layer, parts_of
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.formats import FORMATS
from virnucpro.models.linear import Linear, has_onednn
from virnucpro.models.precision import PRECISIONS
from virnucpro.models.rotary import RotaryTables, exact_frequencies, rotary_tables, rotate_

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)[0]


def run(model, entries, layer=6):
    """Each protein's representations ``[T, D]`` from one pack of all."""
    packed = make_pack([name for name, _ in entries], [encode(*entry) for entry in entries])
    found = model.forward_packed(packed.input_ids, packed.cu_seqlens, packed.max_seqlen, [layer])
    return dict(zip(packed.sequence_ids, found["representations"][layer].split(packed.lengths), strict=True))


@pytest.fixture(scope="module")
def expected(fair_esm_model):
    """fair-esm's representations of each protein of RAGGED alone, by layer."""
    with torch.inference_mode():
        return {
            name: fair_esm_model(torch.from_numpy(encode(name, protein))[None], repr_layers=range(7))[
                "representations"
            ]
            for name, protein in RAGGED
        }


@pytest.mark.parametrize("layer", range(7))
def test_fp32_equals_fair_esm_at_every_layer(model, expected, layer):
    for name, found in run(model, RAGGED, layer).items():
        reference = expected[name][layer][0]
        assert (found - reference).abs().max() <= 1e-5 * reference.abs().max(), name


@pytest.mark.parametrize("precision, smallest_cosine", [("bf16", 0.999), ("fp16", 0.9999)])
def test_half_precision_keeps_every_residues_direction(checkpoint, expected, precision, smallest_cosine):
    half, _ = load_esm2_model(MODEL, "cpu", precision=precision, weights=checkpoint)
    for name, found in run(half, RAGGED[:6]).items():
        cosine = torch.cosine_similarity(found.float(), expected[name][6][0], dim=-1)
        assert cosine.min() >= smallest_cosine, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_behind_the_last_protein_get_no_attention(dtype):
    qkv = torch.full((20, 3, 2, 16), torch.nan, dtype=dtype)
    qkv[:9] = torch.randn(9, 3, 2, 16, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0, 4, 9], dtype=torch.int32)
    positions = torch.arange(20, dtype=torch.int32)
    found, alone = (
        attend(tokens.clone(), (positions[: len(tokens)], *rotary_tables(20, exact_frequencies(16), CPU)), ends, 5)
        for tokens in (qkv, qkv[:9])
    )
    assert torch.equal(found[:9], alone) and found[9:].eq(0).all()


def test_a_cpus_packs_are_filled_up_and_the_filling_is_not_returned(model):
    """At most as many numbers of rows as there are multiples of `ROWS`: oneDNN keeps code for each."""
    if not has_onednn():
        pytest.skip("this PyTorch has no oneDNN")
    seen = set()

    class Rows(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_linear_pointwise" in str(func):
                seen.add(len(args[0]))
            return func(*args, **(kwargs or {}))

    for residues in (*range(1, 40, 6), 39):
        with Rows():
            found = run(model, [("one", "M" * residues), ("two", "AC")])
        assert [len(each) for each in found.values()] == [residues + 2, 4]
    assert seen == {16, 32, 48}


def tells_private_memory():
    """Linux does."""
    status = Path("/proc/self/status")
    return status.exists() and "RssAnon:" in status.read_text()


MEMORY = """
import sys
import torch
from virnucpro.data.packing import make_pack
from virnucpro.data.tokens import encode
from virnucpro.models.esm2 import SHAPES, ESM2Shape
from virnucpro.models.esm2_flash import load_esm2_model

SHAPES["a layer"] = ESM2Shape(1, 320, 20)

def private():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) / 1024

torch.set_num_threads(1)
model, _ = load_esm2_model("a layer", "cpu", precision=sys.argv[1], weights="random")
def run(length):
    pack = make_pack(["a"], [encode("a", "M" * length)])
    model.forward_packed(pack.input_ids, pack.cu_seqlens, pack.max_seqlen)
run(400)
before = private()
for length in range(200, 400):
    run(length)
print(private() - before)
"""


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.skipif(not tells_private_memory(), reason="the system does not tell private memory")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_cpus_memory_does_not_grow_with_every_length(precision):
    """oneDNN compiles code for each shape of a GEMM: 516 MiB for these lengths in FP32."""
    ran = subprocess.run([sys.executable, "-c", MEMORY, precision], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) <= 150


def twins(**shape):
    """A small model of fair-esm's and ours with the same weights."""
    torch.manual_seed(0)
    reference = esm.ESM2(num_layers=shape["layers"], embed_dim=shape["dim"], attention_heads=shape["heads"]).eval()
    model = ESM2(ESM2Shape(**shape))
    fair_esms = reference.state_dict()
    model.load_state_dict({
        name: torch.cat([fair_esms[part] for part in parts_of(name)]) for name, _ in model.named_parameters()
    })  # fmt: skip
    return reference, model


@pytest.mark.exhaustive
def test_a_protein_of_4000_residues_equals_fair_esms():
    """One layer: fair-esm's attention at this length takes seconds a layer."""
    reference, model = twins(layers=1, dim=320, heads=20)
    entries = [("one", "M"), ("long", "ACDEFGHIKLMNPQRSTVWY" * 200)]
    with torch.inference_mode():
        tokens = torch.from_numpy(encode(*entries[1]))[None]
        expected = reference(tokens, repr_layers=[1])["representations"][1][0]
    found = run(model, entries, layer=1)["long"]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_autocast_around_the_model_changes_nothing(model):
    (packed,) = pack(RAGGED[:3], 1000)
    arguments = (packed.input_ids, packed.cu_seqlens, packed.max_seqlen)
    expected = model.forward_packed(*arguments)["representations"][6]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.forward_packed(*arguments)["representations"][6], expected)


def test_results_depend_neither_on_the_pack_nor_on_the_order(model):
    together, reversed_ = run(model, RAGGED), run(model, RAGGED[::-1])
    for entry in RAGGED:
        (alone,) = run(model, [entry]).values()
        for other in (together, reversed_):
            assert (other[entry[0]] - alone).abs().max() <= 1e-5, entry[0]


def test_an_empty_pack_has_empty_representations(model):
    empty = make_pack([], [])
    found = model.forward_packed(empty.input_ids, empty.cu_seqlens, empty.max_seqlen, [0, 6])["representations"]
    assert {layer: tuple(values.shape) for layer, values in found.items()} == {0: (0, 320), 6: (0, 320)}


def test_layers_asked_for_together_are_those_asked_for_alone(model):
    (packed,) = pack(RAGGED[:4], 1000)
    arguments = (packed.input_ids, packed.cu_seqlens, packed.max_seqlen)
    together = model.forward_packed(*arguments, [0, 3, 6])["representations"]
    for layer in (0, 3, 6):
        assert torch.equal(together[layer], model.forward_packed(*arguments, [layer])["representations"][layer])


def test_the_model_gives_its_weights_by_fair_esms_names(model, fair_esm_model):
    state = fair_esm_model.state_dict()
    found = model.fair_esm_state()
    assert set(found) == {name for name in state if not name.startswith(("lm_head", "contact_head"))}
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_token_dropout_scales_the_input_by_088_without_masks(model):
    embedded = run(model, [("a", "MK")], layer=0)["a"]
    torch.testing.assert_close(embedded, model.embed_tokens(torch.from_numpy(encode("a", "MK"))) * 0.88)


def test_token_dropout_counts_each_proteins_own_masks(model):
    embedded = run(model, [("none", "MK"), ("half", "<mask>K")], layer=0)
    weight = model.embed_tokens.weight
    torch.testing.assert_close(embedded["none"][2], weight[15] * 0.88)
    torch.testing.assert_close(embedded["half"][2], weight[15] * (0.88 / (1 - 1 / 4)))
    assert embedded["half"][1].abs().max() == 0


def test_gelu_is_the_exact_erf_form():
    layer = Layer(SHAPES[MODEL], FORMATS["native"], 1e-5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.fc1.bias[0] = 1.0  # gelu(1): 0.841345 by erf, 0.841192 by tanh
        hidden = layer.fc1.gelu(torch.zeros(1, 320))
    assert hidden[0, 0].item() == pytest.approx(0.8413447, abs=1e-6)


def test_rotary_angles_are_fp32_in_half_precision():
    cos, sin = rotary_tables(1022, exact_frequencies(16), CPU)
    assert cos.dtype == sin.dtype == torch.float32
    qkv = torch.randn(1022, 3, 2, 16, generator=torch.Generator().manual_seed(0)).half()
    exact = rotate_(qkv.float(), torch.arange(1022), cos, sin)
    rounded_once = rotate_(qkv.clone(), torch.arange(1022), cos, sin)
    assert torch.equal(rounded_once, exact.half())


def test_rotary_positions_restart_at_each_protein(model):
    twice = run(model, [("a", "MKTAYIAKQR"), ("b", "MKTAYIAKQR")])
    torch.testing.assert_close(twice["a"], twice["b"], atol=1e-5, rtol=0)


def test_rotary_tables_grow_with_the_longest_protein_and_are_kept():
    tables = RotaryTables(exact_frequencies(16))
    short = tables(10, CPU)
    assert tables(1000, CPU) is short
    longer = tables(5000, CPU)
    assert len(longer[0]) >= 5000
    assert tables(10, CPU) is longer
    torch.testing.assert_close(longer[0][:1024], short[0], atol=0, rtol=0)


def test_a_token_attends_to_its_own_protein_only():
    qkv = torch.randn(7, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    ends, positions = torch.tensor([0, 3, 7], dtype=torch.int32), torch.tensor([0, 1, 2, 0, 1, 2, 3])
    rotary = (positions, *rotary_tables(4, exact_frequencies(8), CPU))
    changed = qkv.clone()
    changed[3:, 1:] = 100.0
    before, after = attend(qkv, rotary, ends, 4), attend(changed, rotary, ends, 4)
    assert torch.equal(after[:3], before[:3])
    assert not torch.equal(after[3:], before[3:])


def test_biases_kept_out_of_the_residual_are_in_what_is_returned(model, fair_esm_model):
    """Those of out_proj and fc2, large here, so that one left out or counted twice shows at every layer."""
    large, reference = copy.deepcopy(model), copy.deepcopy(fair_esm_model)
    for some in (large, reference):
        for index, layer in enumerate(some.layers):
            layer.self_attn.out_proj.bias.data.fill_(3.0 + index)
            layer.fc2.bias.data.copy_(torch.linspace(-5, 5, 320))
    entry = ("a", "MKTAYIAKQR")
    with torch.inference_mode():
        tokens = torch.from_numpy(encode(*entry))[None]
        expected = reference(tokens, repr_layers=range(7))["representations"]
    for layer in range(7):
        torch.testing.assert_close(run(large, [entry], layer)["a"], expected[layer][0], atol=1e-4, rtol=1e-5)


def test_the_gpus_fp32_attention_takes_packs_as_they_are():
    """Fake tensors of a GPU: PyTorch checks the call and the shapes, and computes nothing."""
    with FakeTensorMode():
        qkv = torch.empty(100, 3, 20, 64, device="cuda")
        out = attend_memory_efficient(qkv, torch.empty(3, dtype=torch.int32, device="cuda"), 60)
    assert (out.shape, out.dtype, out.device.type) == ((100, 20, 64), torch.float32, "cuda")
    assert out.is_contiguous()


@functools.cache
def random_on_cpu(name):
    """Random weights for every precision: made on the CPU, because a GPU draws others."""
    return load_esm2_model(name, "cpu", precision="fp32", weights="random")[0]


def fresh_on_gpu(name, precision):
    """A model with the weights of `random_on_cpu`."""
    gpu = copy.deepcopy(random_on_cpu(name)).to("cuda", PRECISIONS[precision].activations_on("cuda"))
    gpu.precision = precision
    return gpu


def on_gpu(packed):
    """The arguments of forward_packed."""
    return packed.input_ids.cuda(), packed.cu_seqlens.cuda(), packed.max_seqlen


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


class TestOnGPU:
    pytestmark = gpu

    @pytest.mark.parametrize(
        "precision, tolerance, cosine",
        [("fp32", 1e-5, 0.999999), ("tf32", None, 0.9999), ("bf16", None, 0.999), ("fp16", None, 0.9999)],
    )
    @pytest.mark.parametrize("name", [MODEL, "esm2_t12_35M_UR50D", "esm2_t33_650M_UR50D"])
    def test_every_layer_equals_the_cpus_fp32(self, name, precision, tolerance, cosine):
        """The CPU's FP32 is held to fair-esm's above."""
        long = ("4000", "ACDEFGHIKLMNPQRSTVWY" * 200)
        entries = RAGGED if name == "esm2_t33_650M_UR50D" else [*RAGGED, long]
        packed = make_pack([label for label, _ in entries], [encode(*entry) for entry in entries])
        reference, gpu = random_on_cpu(name), fresh_on_gpu(name, precision)
        layers = range(gpu.num_layers + 1)
        expected = reference.forward_packed(packed.input_ids, packed.cu_seqlens, packed.max_seqlen, layers)
        found = gpu.forward_packed(*on_gpu(packed), layers)
        for layer in layers:
            right, ours = (each["representations"][layer].float().cpu() for each in (expected, found))
            some = right.abs().amax(-1) > 0  # layer 0 has nothing for mask tokens
            assert torch.equal(some, ours.abs().amax(-1) > 0), layer
            assert torch.cosine_similarity(ours, right, dim=-1)[some].min() >= cosine, layer
            if tolerance:
                assert (ours - right).abs().max() <= tolerance * right.abs().max(), layer

    @pytest.mark.parametrize("precision, cosine", [("fp32", 0.999999), ("bf16", 0.999), ("fp16", 0.9999)])
    @pytest.mark.parametrize("head_dim", [32, 128])
    def test_heads_of_other_models_equal_fair_esms(self, head_dim, precision, cosine):
        """150M has heads of 32, 15B of 128."""
        reference, gpu = twins(layers=2, dim=256, heads=256 // head_dim)
        gpu, gpu.precision = gpu.to("cuda", PRECISIONS[precision].activations_on("cuda")), precision
        for name, protein in RAGGED:
            tokens = torch.from_numpy(encode(name, protein))[None]
            with torch.inference_mode():
                expected = reference(tokens, repr_layers=[2])["representations"][2]
            found = gpu(tokens.cuda())["representations"][2].float().cpu()
            assert torch.cosine_similarity(found, expected, dim=-1).min() >= cosine, name

    def test_an_empty_pack_has_an_empty_result(self):
        found = fresh_on_gpu(MODEL, "fp16").forward_packed(*on_gpu(make_pack([], [])))
        assert found["representations"][6].shape == (0, 320)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_gelu_in_the_products_epilogue_is_as_faithful_as_erf(self, precision, monkeypatch):
        """Layers wide enough in their values for the two forms to differ; the mean over some thousand residues."""
        name, scale = "esm2_t12_35M_UR50D", 3.0
        (packed,) = pack([(f"p{n}", "ACDEFGHIKLMNPQRSTVWY" * n) for n in range(1, 20)], 10_000)

        def representations(precision):
            model = fresh_on_gpu(name, precision)
            for layer in model.layers:
                layer.fc1.weight.data.mul_(scale)
            return model.forward_packed(*on_gpu(packed))["representations"][12].double()

        exact, fused = representations("fp32"), representations(precision)
        monkeypatch.setattr(Linear, "gelu", lambda self, x: torch.ops.aten.gelu_(self(x)))
        erf = representations(precision)
        of_fused, of_erf = (1 - torch.cosine_similarity(each, exact, dim=-1).mean() for each in (fused, erf))
        assert of_fused <= 1.02 * of_erf

    @pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("fp16", 1e-3)])
    def test_results_depend_neither_on_the_pack_nor_on_the_order(self, precision, tolerance):
        """A matrix product may choose its kernel by the number of tokens, so not bitwise."""
        model = fresh_on_gpu(MODEL, precision)

        def run(entries):
            packed = make_pack([label for label, _ in entries], [encode(*entry) for entry in entries])
            found = model.forward_packed(*on_gpu(packed))["representations"][6].float()
            return dict(zip(packed.sequence_ids, found.split(packed.lengths), strict=True))

        together, reversed_ = run(RAGGED), run(RAGGED[::-1])
        for entry in RAGGED:
            (alone,) = run([entry]).values()
            for other in (together, reversed_):
                difference = (other[entry[0]] - alone).abs().max()
                assert difference <= tolerance * alone.abs().max(), entry[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("tokens", [1535, 1536, 2305, 4100])
def test_a_long_protein_is_attended_to_in_parts_with_the_same_bits(monkeypatch, dtype, tokens):
    generator = torch.Generator().manual_seed(tokens)
    qkv = torch.randn(tokens + 9, 3, 4, 16, generator=generator).to(dtype)
    ends = torch.tensor([0, 7, 7 + tokens], dtype=torch.int32)
    expected = attention.attend_one_by_one(qkv, ends)[: 7 + tokens]
    assert attention.parts(tokens, 4) == [(slice(0, 4), slice(0, tokens))]
    for scores in (1, 2**22, 2**24):
        monkeypatch.setattr(attention, "SCORES_OF_A_THREAD", scores)
        assert torch.equal(attention.attend_one_by_one(qkv, ends)[: 7 + tokens], expected)
    monkeypatch.setattr(attention, "SCORES_OF_A_THREAD", 1)
    found = attention.parts(tokens, 4)
    lengths = [queries.stop - queries.start for heads, queries in found if heads == slice(0, 1)]
    assert len(found) == 4 * len(lengths) == 4 * (tokens // attention.LONG)
    assert sum(lengths) == tokens and min(lengths) >= attention.LONG
