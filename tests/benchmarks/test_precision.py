"""A precision beside FP32: in which processes memory is measured, and with what loaded."""

import pytest

from benchmarks import precision
from benchmarks._cells import Store
from benchmarks._hardware import Hardware
from tests.conftest import MODEL

PEAKS = {"fp32": 300.0, "fp16": 100.0}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads an FP16 cell on a device, and returns what was done in which order."""
    monkeypatch.chdir(tmp_path)  # where a store keeps its numbers

    def call(device: str):
        done: list[str] = []

        class Embedder:
            def __init__(self, model, which, entries, hardware):
                done.append(f"load {which}")
                self.precision = which

        def here(embedder):
            done.append(f"peak of {embedder.precision}")
            return PEAKS[embedder.precision]

        def alone(model, which, entries, hardware):
            done.append(f"process for the peak of {which}")
            return PEAKS[which]

        monkeypatch.setattr(precision, "Embedder", Embedder)
        monkeypatch.setattr(precision, "peak_memory_of_a_pass", here)
        monkeypatch.setattr(precision, "peak_memory_alone", alone)
        benchmark = precision.Precision()
        benchmark.entries = []
        benchmark.load(Store(Hardware(device, "a device", 2**36, (9, 0), {})), MODEL, "fp16", "mixed")
        assert benchmark.memory_saving == 3.0
        return done

    return call


def test_a_cell_on_a_gpu_measures_its_own_precisions_memory_before_fp32_is_loaded(load):
    assert load("cuda") == ["process for the peak of fp32", "load fp16", "peak of fp16", "load fp32"]


def test_a_cell_on_a_cpu_measures_memory_in_processes_of_their_own(load):
    processes = ["process for the peak of fp32", "process for the peak of fp16"]
    assert load("cpu") == [*processes, "load fp16", "load fp32"]


def test_fp32s_memory_is_measured_once_for_all_precisions(load):
    load("cuda")
    assert "process for the peak of fp32" not in load("cuda")
