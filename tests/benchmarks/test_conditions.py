"""The conditions that are recorded beside a number."""

import os
import stat

import pytest
import torch

from benchmarks.measure import gpu
from benchmarks.measure.gpu import GPUState, around, busy_before_this_process, busy_reason, gpu_states, ranges
from benchmarks.suite.cell import Store
from benchmarks.suite.hardware import GIB, Hardware

IDLE = GPUState(0.0, 4 * 2**20, 700.0, 345.0, 1980.0, 30.0)
AT_WORK = GPUState(97.0, 40 * GIB, 700.0, 1755.0, 1980.0, 61.0)
GPU = Hardware("cuda", "a GPU", 80 * GIB, (9, 0), {}, "GPU-1")
CPU = Hardware("cpu", "a CPU", 24 * GIB, (0, 0), {})


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A program of that name that prints these lines."""

    def install(*lines: str, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("\n".join(["#!/bin/sh", "cat <<'END'", *lines, "END", f"exit {code}"]))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


def test_the_states_of_all_gpus_are_read(nvidia_smi):
    nvidia_smi("GPU-1, 97, 40960, 700.00, 1755, 1980, 61", "GPU-2, 0, 4, [N/A], [Unknown Error], 1980, 30")
    assert gpu_states() == {"GPU-1": AT_WORK, "GPU-2": GPUState(0.0, 4 * 2**20, None, None, 1980.0, 30.0)}


def test_without_a_driver_no_state_is_known(nvidia_smi):
    nvidia_smi("NVIDIA-SMI has failed", code=9)
    assert gpu_states() == {}


def test_a_gpu_is_busy_by_utilisation_or_by_memory():
    assert busy_reason(IDLE) is None
    assert busy_reason(None) is None  # what is not known is not claimed
    assert (
        busy_reason(AT_WORK) == "the GPU was 97 % utilised and 40.0 GiB of it were in use before this was measured"
    )
    assert "in use" in busy_reason(GPUState(0.0, 2 * GIB, None, None, None, None))
    assert "utilised" in busy_reason(GPUState(50.0, 0.0, None, None, None, None))


def test_a_context_that_computes_nothing_is_not_another_program():
    """The other side of `make ab` looks like this."""
    assert busy_reason(GPUState(0.0, 600 * 2**20, None, None, None, None)) is None


@pytest.fixture
def looks(monkeypatch):
    """What a process finds when it looks again and again, and how often it has looked."""
    busy_before_this_process.cache_clear()
    monkeypatch.setattr(gpu.time, "sleep", lambda seconds: None)
    seen: list[GPUState] = []

    def find(*states: GPUState) -> list[GPUState]:
        coming = iter(states)

        def look() -> dict[str, GPUState]:
            seen.append(next(coming))
            return {"GPU-1": seen[-1]}

        monkeypatch.setattr(gpu, "gpu_states", look)
        return seen

    yield find
    busy_before_this_process.cache_clear()


def test_a_program_that_has_just_ended_does_not_make_a_gpu_busy(looks):
    looks(AT_WORK, AT_WORK, IDLE)
    assert busy_before_this_process("GPU-1") is None


def test_a_program_that_stays_makes_a_gpu_busy_for_all_cells_of_a_process(looks):
    seen = looks(*[AT_WORK] * gpu.LOOKS)
    assert "97 % utilised" in busy_before_this_process("GPU-1")
    assert busy_before_this_process("GPU-1")
    assert len(seen) == gpu.LOOKS


def test_a_process_that_uses_the_gpu_itself_cannot_tell(looks, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="its own use"):
        busy_before_this_process("GPU-1")


def test_the_suite_looks_before_it_opens_a_context(monkeypatch):
    order = []
    monkeypatch.setattr("benchmarks.suite.cell.gpu_states", lambda: order.append("look") or {"GPU-1": AT_WORK})
    monkeypatch.setattr("benchmarks.suite.cell.probe", lambda: order.append("probe") or GPU)
    assert "97 % utilised" in Store.create().busy
    assert order == ["look", "probe"]


def test_a_number_of_a_gpu_says_its_state_before_and_after_and_whether_it_was_busy(monkeypatch):
    monkeypatch.setattr(gpu, "gpu_states", lambda: {"GPU-1": AT_WORK})
    about = around(GPU, IDLE, None)["gpu"]
    assert about == {
        "power_limit_w": 700.0,
        "max_sm_clock_mhz": 1980.0,
        "sm_clock_mhz": [345.0, 1755.0],
        "temperature_c": [30.0, 61.0],
    }
    assert around(GPU, IDLE, "it was")["gpu"] == about | {"busy": "it was"}


def test_a_state_that_is_not_known_is_none(monkeypatch):
    monkeypatch.setattr(gpu, "gpu_states", dict)
    assert around(GPU, None, None)["gpu"]["temperature_c"] == [None, None]


def test_a_number_of_a_cpu_says_threads_and_cpus():
    about = around(CPU, None, None)
    assert about["threads"] == torch.get_num_threads()
    assert "gpu" not in about


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to CPUs")
def test_a_process_under_taskset_says_so():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert around(CPU, None, None)["cpus"] == str(min(before))
    finally:
        os.sched_setaffinity(0, before)


def test_ranges_are_written_as_taskset_does():
    assert ranges([3, 0, 1, 2, 8]) == "0-3,8"


def test_without_affinity_the_cpus_are_not_known(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert around(CPU, None, None)["cpus"] is None
