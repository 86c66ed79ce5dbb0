"""A precision beside FP32: in which processes memory is measured, and with what loaded."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import precision
from benchmarks.measure.memory import Peak
from benchmarks.suite import program
from benchmarks.suite.cell import REQUESTED, Store
from benchmarks.suite.hardware import Hardware
from tests.conftest import MODEL

PEAKS = {"fp32": Peak(300), "tf32": Peak(300), "fp16": Peak(100, libraries_grew=0.05)}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a cell on a device, and returns what was done in which order."""
    monkeypatch.chdir(tmp_path)  # where a store keeps its numbers
    done: list[str] = []

    class Embedder:
        def __init__(self, model, which, entries, hardware):
            done.append(f"load {which}")

    def peaks(model, which, workloads, hardware):
        done.append(f"peaks of {which}: {' '.join(workloads)}")
        return dict.fromkeys(workloads, PEAKS[which])

    def in_fresh_process(call):
        done.append("fork")
        return call()

    monkeypatch.setattr(precision, "Embedder", Embedder)
    monkeypatch.setattr(precision, "peak_memories", peaks)
    monkeypatch.setattr(precision, "in_fresh_process", in_fresh_process)
    monkeypatch.setattr(precision, "second_figure", lambda *_: done.append("massive channel") or {})

    def call(device: str, which: str = "fp16", workload: str = "mixed", asked: str = "") -> list[str]:
        cells = [("Precision", MODEL, which, each) for each in asked.split()]
        monkeypatch.setenv(REQUESTED, json.dumps(cells))
        done.clear()
        benchmark = precision.Precision()
        benchmark.entries, benchmark.parameters = [], (MODEL, which, workload)
        benchmark.load(Store(Hardware(device, "a device", 2**36, (9, 0), {})), *benchmark.parameters)
        assert benchmark.memory.samples == {"memory saving": [300 / PEAKS[which].amount]}
        assert benchmark.memory.notes == PEAKS[which].notes()
        return done

    return call


def test_a_cell_on_a_gpu_measures_its_own_precisions_memory_before_fp32_is_loaded(load):
    peaks = ["fork", "peaks of fp32: mixed", "peaks of fp16: mixed"]
    assert load("cuda") == [*peaks, "massive channel", "load fp16", "load fp32"]


def test_a_cell_on_a_cpu_measures_memory_in_processes_of_their_own(load):
    peaks = ["fork", "peaks of fp32: mixed", "fork", "peaks of fp16: mixed"]
    assert load("cpu", asked="short mixed") == [*peaks, "massive channel", "load fp16", "load fp32"]


def test_memory_is_measured_once_for_all_workloads_that_are_asked_for(load):
    assert load("cuda", asked="mixed short")[1] == "peaks of fp32: mixed short"
    assert load("cuda", workload="short", asked="mixed short") == ["load fp16", "load fp32"]


def test_fp32s_memory_is_measured_once_for_all_precisions(load):
    load("cuda")
    assert load("cuda", which="tf32") == ["peaks of tf32: mixed", "massive channel", "load tf32", "load fp32"]


def test_memory_beside_another_model_is_not_measured(load, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="what it has loaded would be measured, too"):
        load("cuda")


@pytest.mark.parametrize("fails, left", [("short", {"mixed": 1.0}), ("mixed", None)])
def test_only_the_first_workload_fails_with_its_peak(monkeypatch, fails, left):
    def peak(embedder):
        if embedder.entries == fails:
            raise MemoryError
        return 1.0

    monkeypatch.setattr(program, "proteins", lambda workload, device: workload)
    monkeypatch.setattr(
        program, "Embedder", lambda model, which, entries, hardware: SimpleNamespace(entries=entries)
    )
    monkeypatch.setattr(program, "peak_memory_of_a_pass", peak)
    hardware = Hardware("cuda", "a device", 2**36, (9, 0), {})
    if left is None:
        with pytest.raises(MemoryError):
            program.peak_memories(MODEL, "fp16", ["mixed", "short"], hardware)
    else:
        assert program.peak_memories(MODEL, "fp16", ["mixed", "short"], hardware) == left


def test_memory_saving_is_not_available_where_the_system_does_not_tell_memory(load, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    benchmark = precision.Precision()
    benchmark.entries, benchmark.parameters = [], (MODEL, "fp16", "mixed")
    benchmark.load(Store(Hardware("cpu", "a Mac", 2**36, (0, 0), {})), *benchmark.parameters)
    assert benchmark.memory.samples == {}
    assert "only Linux tells" in benchmark.memory.unavailable["memory saving"]
