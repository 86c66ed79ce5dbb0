"""Fidelity with a massive channel: the second figure, and in which cells' notes it is."""

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import precision
from benchmarks.measure import fidelity_massive
from benchmarks.measure.fidelity import LARGEST_ERROR
from benchmarks.measure.fidelity_massive import NOTE, second_figure
from benchmarks.suite.cell import Store
from benchmarks.suite.hardware import Hardware
from benchmarks.suite.outcomes import CellFailed, Measurement
from benchmarks.suite.workloads import fidelity_proteins
from tests.conftest import MODEL

CPU = Hardware("cpu", "a CPU", 2**34, (0, 0), {})


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Second figures, with a quarter of the proteins, and how often weights were made for them."""
    root, made = tmp_path_factory.mktemp("massive"), []
    prepare = fidelity_massive.prepare

    def counted(*arguments):
        made.append(arguments)
        prepare(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity_massive, "prepare", counted)
        patch.setattr(fidelity_massive, "fidelity_proteins", lambda _: fidelity_proteins("mixed")[:16])
        patch.setattr(fidelity_massive, "EVERY", {"cpu": 4})
        found = {name: second_figure(root, MODEL, name, CPU) for name in ("fp32", "bf16", "int8")}
    return SimpleNamespace(found=found, made=made, root=root)


def test_fp32_reads_the_weights_that_were_made(figures):
    assert figures.found["fp32"]["error_over_distance"] < 1e-5


def test_int8_is_within_the_limit_and_bf16_is_not(figures):
    int8, bf16 = (figures.found[name]["error_over_distance"] for name in ("int8", "bf16"))
    assert int8 <= LARGEST_ERROR < bf16


def test_it_tells_how_it_was_measured(figures):
    about = figures.found["int8"]
    assert (about["proteins"], about["ratio"], about["gain"]) == (4, 100, 1)
    assert about["median_distance"] > 1


def test_weights_are_made_once_for_all_precisions(figures):
    assert len(figures.made) == 1
    assert [path.name for path in figures.root.iterdir()] == [f"massive-{MODEL}"]


def test_weights_that_were_not_made_to_the_end_are_made_again(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no space")

    monkeypatch.setattr(fidelity_massive, "save", broken)
    monkeypatch.setattr(fidelity_massive, "fidelity_proteins", lambda _: fidelity_proteins("mixed")[:4])
    with pytest.raises(OSError, match="no space"):
        second_figure(tmp_path, MODEL, "bf16", CPU)
    assert list(tmp_path.iterdir()) == []


def test_an_embedding_that_is_not_finite_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / f"massive-{MODEL}").mkdir()
    torch.save(torch.eye(4).double(), tmp_path / f"massive-{MODEL}" / "fp32.pt")
    monkeypatch.setattr(fidelity_massive, "load_with", lambda *_: None)
    broken = SimpleNamespace(run=lambda _: [SimpleNamespace(embeddings=torch.full((1, 4), torch.nan))])
    monkeypatch.setattr("benchmarks.suite.program.runner", lambda _: broken)
    with pytest.raises(ArithmeticError, match="NaN or Inf"):
        second_figure(tmp_path, MODEL, "fp16", CPU)


@pytest.mark.parametrize(
    "place, value, said",
    [
        ("shutil.disk_usage", lambda _: SimpleNamespace(free=2**33), "8.0 GiB of disk are free"),
        ("os.sysconf", lambda name: 4096 if "PAGE_SIZE" in name else 2**21, "there are 8.0 GiB"),
    ],
)
def test_where_there_is_no_room_the_reason_is_told(tmp_path, monkeypatch, place, value, said):
    monkeypatch.setattr(fidelity_massive.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**40))
    monkeypatch.setattr(f"benchmarks.measure.fidelity_massive.{place}", value)
    assert said in second_figure(tmp_path, "esm2_t36_3B_UR50D", "bf16", CPU)["skipped"]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """What a cell notes of it, and how often it was measured."""
    monkeypatch.chdir(tmp_path)
    measured = []

    def second(root, model, which, hardware):
        measured.append((model, which))
        return {"error_over_distance": 0.01}

    monkeypatch.setattr(precision, "second_figure", second)

    def call(which: str, workload: str) -> dict:
        benchmark = precision.Precision()
        benchmark.parameters = (MODEL, which, workload)
        return benchmark.with_massive_channel(Store(CPU)).notes

    call.measured = measured
    return call


def test_it_is_measured_once_for_a_model_and_precision(cell):
    noted = {NOTE: {"error_over_distance": 0.01}}
    assert [cell("bf16", "short"), cell("bf16", "fasta"), cell("fp16", "short")] == [noted] * 3
    assert cell.measured == [(MODEL, "bf16"), (MODEL, "fp16")]


def test_a_failure_is_paid_for_once(cell, monkeypatch):
    def broken(*_):
        raise ArithmeticError("an embedding has NaN or Inf")

    monkeypatch.setattr(precision, "second_figure", broken)
    with pytest.raises(ArithmeticError):
        cell("fp16", "short")
    with pytest.raises(CellFailed, match="measured once, and it failed: ArithmeticError"):
        cell("fp16", "long")


@pytest.mark.parametrize("name, value", [("WEIGHTS", "pretrained"), ("referee", lambda: "make ab")])
def test_there_is_none_with_other_weights_and_in_make_ab(cell, monkeypatch, name, value):
    monkeypatch.setattr(precision, name, value)
    assert cell("bf16", "short") == {}
    assert cell.measured == []


def test_it_is_in_the_cells_notes(monkeypatch):
    benchmark = precision.Precision()
    benchmark.entries, benchmark.memory = [], Measurement(notes={"memory": 1})
    benchmark.massive = Measurement(notes={NOTE: {"error_over_distance": 0.01}})
    benchmark.fp32 = benchmark.other = SimpleNamespace(run=None, timer=None, esm2="a model")
    benchmark.parameters = (MODEL, "int8", "mixed")
    monkeypatch.setattr(precision.outputs, "fingerprint", lambda *what: {"fingerprint": what})
    monkeypatch.setattr(benchmark, "fidelity", lambda _: Measurement(notes={"fidelity": {}}))
    monkeypatch.setattr(precision, "alternate", lambda *_, warm: [1.0])
    notes = json.loads(json.dumps(benchmark.measure(Store(CPU)).notes))
    assert notes[NOTE] == {"error_over_distance": 0.01}
    assert notes["fingerprint"] == ["a model", MODEL, "int8", "cpu"]
    assert notes["weights"] == "random" and "fidelity" in notes and "memory" in notes
