"""Energy: what is measured where, by a counter that a test replaces."""

import itertools

import pytest

from benchmarks.measure import gpu
from benchmarks.suite.hardware import Hardware

GPU = Hardware("cuda", "a GPU", 2**36, (9, 0), {}, "GPU-1")
CPU = Hardware("cpu", "a CPU", 2**34, (0, 0), {})


@pytest.fixture
def counter(monkeypatch):
    """A GPU that takes 50 J between two looks at its counter, and a clock that is 0.5 s on at each look."""
    looks, ticks = itertools.count(1000, 50), itertools.count()
    monkeypatch.setattr(gpu.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu, "joules", lambda uuid: float(next(looks)))
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(ticks) / 2)


def test_joules_are_for_a_thousand_tokens_of_all_passes(counter):
    passes = []
    found = gpu.energy(passes.append, 500, 0.01, GPU, "mixed", None)
    tokens = 500 * sum(passes)
    assert found.samples == {"energy": [pytest.approx(50 / tokens * 1000, rel=1e-5)]}
    assert len(passes) == 3  # at 0.5, 1.0 and 1.5 s


@pytest.mark.parametrize(
    ("hardware", "workload", "busy", "reason"),
    [
        (CPU, "mixed", None, "energy is measured on NVIDIA GPUs"),
        (GPU, "short", None, "energy is measured for the workload mixed only"),
        (GPU, "mixed", "the GPU was 37 % utilised", "would count other programs' work: the GPU was 37 % utilised"),
    ],
)
def test_what_is_not_measured_says_why(hardware, workload, busy, reason):
    found = gpu.energy(lambda passes: pytest.fail("ran"), 500, 0.01, hardware, workload, busy)
    assert reason in found.unavailable["energy"] and not found.samples


def test_a_gpu_without_a_counter_is_not_available(monkeypatch):
    def no_library(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(gpu.ctypes, "CDLL", no_library)
    monkeypatch.setattr(gpu.torch.cuda, "synchronize", lambda: None)
    gpu.nvml.cache_clear()
    found = gpu.energy(lambda passes: None, 500, 0.01, GPU, "mixed", None)
    assert "libnvidia-ml.so.1: cannot open" in found.unavailable["energy"]


@pytest.mark.gpu
def test_the_counter_of_a_gpu_grows_while_it_works():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    work = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def run(passes):
        for _ in range(passes):
            work @ work

    assert 0.1 < gpu.measure_joules(run, 1000, 0.002, uuid) < 100
