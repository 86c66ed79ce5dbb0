"""Embeddings that two commits are compared by: what is left, and which faults the bounds tell from rounding."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asv_plugin.outputs import Output, difference
from benchmarks.measure import outputs
from benchmarks.measure.outputs import (
    BOUNDS,
    EVERY,
    EVERY_WHERE_SLOW,
    FINGERPRINT,
    FOLDER,
    every,
    fingerprint,
    leave,
)
from benchmarks.measure.seeded import write_checkpoint
from benchmarks.suite.hardware import PRECISIONS, Hardware
from benchmarks.suite.program import embed
from benchmarks.suite.workloads import fidelity_proteins
from tests.conftest import MODEL, sample_of
from virnucpro.models import esm2
from virnucpro.models.esm2 import SHAPES
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.precision import PRECISIONS as TABLE
from virnucpro.models.rotary import exact_frequencies, rotate_
from virnucpro.pipeline import async_inference

CPU = Hardware("cpu", "a CPU", 2**34, (0, 0), {})
FEW = fidelity_proteins("mixed")[:4]
SOME = fidelity_proteins("mixed")[::8]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("seeded") / f"{MODEL}.pt", SHAPES[MODEL], "cpu")


@pytest.fixture(scope="module")
def load(checkpoint):
    """A model in a precision with the suite's checkpoint, the same one each time."""
    models: dict = {}

    def call(precision: str):
        if precision not in models:
            models[precision] = load_esm2_model(MODEL, "cpu", precision=precision, weights=checkpoint)[0]
        return models[precision]

    return call


def test_the_checkpoint_is_the_same_each_time_and_its_frequencies_are_exact(load, checkpoint, tmp_path):
    again = write_checkpoint(tmp_path / "again.pt", SHAPES[MODEL], "cpu")
    states = [torch.load(path, weights_only=False)["model"] for path in (checkpoint, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert load("fp32").constants.frequencies == exact_frequencies(16)


def test_each_precision_of_the_suite_has_a_bound_on_each_device_that_computes_in_it():
    assert set(BOUNDS["cuda"]) == set(PRECISIONS)
    assert set(BOUNDS["cpu"]) == {name for name in PRECISIONS if TABLE[name].on_cpu}


def moved(base: torch.Tensor, head: torch.Tensor, precision: str) -> float:
    """As `make ab` has it of two commits' embeddings."""
    rows = [Output("m", BOUNDS["cpu"][precision], each.double().numpy()) for each in (base, head)]
    return difference(*rows).moved


def half_of_the_layers(model, patch) -> None:
    patch.setattr(model, "num_layers", len(model.layers[::2]))
    patch.setitem(model._modules, "layers", model.layers[::2])


def rotary(change: Callable) -> Callable:
    def fault(model, patch) -> None:
        tables = model.rotary_tables
        patch.setattr(model, "rotary_tables", lambda *of: change(*tables(*of)))

    return fault


def eos_in_the_mean(model, patch) -> None:
    def mean(representations, cu_seqlens):
        return torch.stack([representations[a + 1 : b].float().mean(0) for a, b in pairs(cu_seqlens)])

    patch.setattr(async_inference, "mean_over_residues", mean)


def no_token_dropout(model, patch) -> None:
    patch.setattr(model, "constants", dataclasses.replace(model.constants, token_dropout=False))


def pairs(cu_seqlens: torch.Tensor) -> list[tuple[int, int]]:
    return list(itertools.pairwise(cu_seqlens.tolist()))


FAULTS = {
    "half of the layers": half_of_the_layers,
    "rotary tables shifted by a row, round the end": rotary(lambda cos, sin: (cos.roll(1, 0), sin.roll(1, 0))),
    "cosines shifted by a row": rotary(lambda cos, sin: (cos.roll(1, 0), sin)),
    "frequencies shifted by one": rotary(lambda cos, sin: (cos.roll(1, 1), sin.roll(1, 1))),
    "EOS in the mean": eos_in_the_mean,
    "no token dropout": no_token_dropout,
}


@pytest.fixture(scope="module")
def right(load):
    """What a precision computes of proteins, by these words."""
    found: dict = {}

    def call(precision: str, proteins: str):
        if (precision, proteins) not in found:
            found[precision, proteins] = embed(load(precision), {"few": FEW, "some": SOME}[proteins])
        return found[precision, proteins]

    return call


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("precision", sample_of(["fp32", "bf16", "fp16", "int8"], "fp32", "int8"))
def test_a_fault_moves_embeddings_beyond_what_rounding_explains(load, right, monkeypatch, precision, fault):
    expected = right(precision, "few")
    FAULTS[fault](load(precision), monkeypatch)
    assert moved(expected, embed(load(precision), FEW), precision) > 1.5 * BOUNDS["cpu"][precision]


def test_a_fault_of_one_precision_is_none_of_another(load, right, monkeypatch):
    expected = right("int8", "few"), right("fp32", "few")
    half_of_the_layers(load("int8"), monkeypatch)
    assert moved(expected[0], embed(load("int8"), FEW), "int8") > 10 * BOUNDS["cpu"]["int8"]
    assert moved(expected[1], embed(load("fp32"), FEW), "fp32") <= BOUNDS["cpu"]["fp32"]


def attend_in_fp32(qkv, rotary, cu_seqlens, max_seqlen, may_round=False, blocks=None):
    """Attention by plain GEMMs, which round and sum otherwise than PyTorch's kernel."""
    rotate_(qkv, *rotary)
    attended = torch.zeros_like(qkv[:, 0])
    queries, keys, values = qkv.float().permute(1, 2, 0, 3)
    for start, end in pairs(cu_seqlens):
        scores = queries[:, start:end] @ keys[:, start:end].transpose(1, 2) * queries.shape[-1] ** -0.5
        attended[start:end] = (scores.softmax(-1) @ values[:, start:end]).transpose(0, 1).to(qkv.dtype)
    return attended


def other_attention(model, patch) -> None:
    patch.setattr(esm2, "attend", attend_in_fp32)


def positions_counted_from_one(model, patch) -> None:
    """The same function: only distances count."""
    rotary(lambda cos, sin: (cos[1:], sin[1:]))(model, patch)


def other_packs(model, patch) -> None:
    patch.setattr("benchmarks.suite.program.PACK_TOKENS", 1)


def other_library(model, patch) -> None:
    patch.setattr(torch.backends.mkldnn, "enabled", False)


ROUNDING = {
    "attention": other_attention,
    "positions": positions_counted_from_one,
    "packs": other_packs,
    "no oneDNN": other_library,
}


@pytest.mark.parametrize("other", ROUNDING)
@pytest.mark.parametrize("precision", sample_of(["fp32", "bf16", "fp16", "int8"], "fp32"))
def test_what_changes_only_rounding_is_within_the_bound(load, right, monkeypatch, precision, other):
    expected = right(precision, "some")
    ROUNDING[other](load(precision), monkeypatch)
    found = moved(expected, embed(load(precision), SOME), precision)
    print(f"{precision}, {other}: {found:.2g} of {BOUNDS['cpu'][precision]}")
    assert found <= BOUNDS["cpu"][precision]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", sample_of(["fp32", "tf32", "bf16", "fp16", "int8", "fp8"], "fp16", "int8"))
@pytest.mark.parametrize("model", sample_of(["esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D"], "esm2_t6_8M_UR50D"))
def test_on_a_gpu_a_model_agrees_with_itself_in_other_packs(tmp_path, monkeypatch, precision, model):
    path = write_checkpoint(tmp_path / f"{model}.pt", SHAPES[model], "cuda")
    bound, proteins = BOUNDS["cuda"][precision], fidelity_proteins("mixed")
    first = embed(load_esm2_model(model, "cuda", precision=precision, weights=path)[0], proteins)
    again = load_esm2_model(model, "cuda", precision=precision, weights=path)[0]
    found = {"again": moved_by(first, embed(again, proteins), bound)}
    for tokens in (1, 1_000, 100_000):
        monkeypatch.setattr("benchmarks.suite.program.PACK_TOKENS", tokens)
        found[f"packs of {tokens}"] = moved_by(first, embed(again, proteins), bound)
    fp32 = load_esm2_model(model, "cuda", precision="fp32", weights=path)[0]
    print(
        f"{model}, {precision}: {found}, bound {bound}; from FP32 {moved_by(embed(fp32, proteins), first, bound)}"
    )
    eos_in_the_mean(again, monkeypatch)
    print(f"EOS in the mean: {moved_by(first, embed(again, proteins), bound)}")
    assert max(found.values()) <= bound


def moved_by(base: torch.Tensor, head: torch.Tensor, bound: float) -> float:
    return difference(*(Output("m", bound, each.double().numpy()) for each in (base, head))).moved


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a side's folder, as `make ab` makes it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "all/HEAD").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(outputs, "in_fresh_process", lambda call: call())
    monkeypatch.setattr(outputs, "fidelity_proteins", lambda workload: FEW * 8)
    Path(FOLDER).symlink_to(tmp_path / "all/HEAD")
    return tmp_path / "all"


def test_embeddings_are_left_once_and_the_checkpoint_beside_both_sides(here, monkeypatch):
    leave(MODEL, "fp32", CPU)
    (path,) = (here / "HEAD").iterdir()
    content = json.loads(path.read_text())
    assert (content["of"], content["bound"]) == (f"{MODEL} in FP32", 1e-4)
    assert len(content["rows"]) == len(FEW) * 8 // EVERY
    assert Output.read(content) is not None
    written = [each.stat().st_mtime_ns for each in (path, here / f"{MODEL}.pt")]
    leave(MODEL, "fp32", CPU)
    path.unlink()
    leave(MODEL, "fp32", CPU)
    assert path.stat().st_mtime_ns > written[0]
    assert (here / f"{MODEL}.pt").stat().st_mtime_ns == written[1]


def test_a_cpu_embeds_fewer_proteins_where_it_is_slow_and_a_gpu_all(here):
    slow = dataclasses.replace(CPU, slow=tuple(EVERY_WHERE_SLOW))
    assert [every(precision, slow) for precision in ("fp32", "bf16", "fp16", "int8")] == [4, 8, 8, 16]
    assert every("int8", CPU) == 4
    gpu = dataclasses.replace(slow, device="cuda")
    assert [every(precision, gpu) for precision in BOUNDS["cuda"]] == [1] * 6
    leave(MODEL, "bf16", slow)
    assert len(json.loads((here / f"HEAD/{MODEL}-bf16.json").read_text())["rows"]) == len(FEW) * 8 // 8


def test_nothing_is_left_where_nobody_compares(here):
    Path(FOLDER).unlink()
    leave(MODEL, "fp32", CPU)
    assert list(here.rglob("*.*")) == []


@pytest.mark.parametrize(
    "where, error, said",
    [
        ("no_room", None, {"skipped": "no disk"}),
        ("load_with", ValueError("broken\nand more"), {"failed": "broken"}),
    ],
)
def test_why_there_are_no_embeddings_is_left(here, monkeypatch, where, error, said):
    def instead(*_):
        if error:
            raise error
        return "no disk"

    monkeypatch.setattr(outputs, where, instead)
    leave(MODEL, "fp32", CPU)
    assert json.loads((here / f"HEAD/{MODEL}-fp32.json").read_text()) == {"of": f"{MODEL} in FP32", **said}


def test_a_fingerprint_is_small_and_tells_faults_from_nothing(load, monkeypatch):
    model = load("fp32")
    first, again = (fingerprint(model, MODEL, "fp32", "cpu")[FINGERPRINT] for _ in range(2))
    assert first == again
    assert len(json.dumps(first)) < 700
    assert first["of"] == f"{MODEL} in FP32, random weights"
    half_of_the_layers(model, monkeypatch)
    other = Output.read(fingerprint(model, MODEL, "fp32", "cpu")[FINGERPRINT])
    assert difference(Output.read(first), other).is_change
