"""Throughput: where peak memory is measured."""

import pytest

from benchmarks import throughput
from benchmarks.measure.memory import Peak
from benchmarks.suite.cell import Store
from benchmarks.suite.hardware import Hardware
from benchmarks.throughput import Throughput
from tests.conftest import MODEL


@pytest.fixture
def loaded(monkeypatch):
    """Loads a cell on a device; returns the benchmark and what was done in which order."""
    done: list[str] = []

    def in_fresh_process(call):
        done.append("fork")
        return call()

    def peaks(model, precision, workloads, hardware):
        return {workload: Peak(100) for workload in workloads}

    monkeypatch.setattr(throughput, "in_fresh_process", in_fresh_process)
    monkeypatch.setattr(throughput, "peak_memories", peaks)
    monkeypatch.setattr(throughput, "Embedder", lambda *cell: done.append("load"))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)

    def call(device: str) -> tuple[Throughput, list[str]]:
        benchmark = Throughput()
        benchmark.entries = []
        benchmark.load(Store(Hardware(device, "a device", 2**36, (9, 0), {})), MODEL, "fp32", "mixed")
        return benchmark, done

    return call


def test_on_a_cpu_memory_is_measured_in_a_process_of_its_own_before_the_model_is_loaded(loaded):
    benchmark, done = loaded("cpu")
    assert done == ["fork", "load"]
    assert benchmark.peak.measurement().samples == {"peak memory": [100.0]}


def test_on_a_gpu_memory_is_that_of_the_timed_passes(loaded):
    benchmark, done = loaded("cuda")
    assert done == ["load"]
    assert benchmark.peak is None


def test_where_the_system_does_not_tell_memory_speed_is_measured_still(loaded, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    benchmark, done = loaded("cpu")
    assert done == ["load"]
    assert "only Linux tells" in benchmark.memory.measurement().unavailable["peak memory"]
