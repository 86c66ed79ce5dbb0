"""A GPU's energy, and what decides a number besides the program: threads, CPUs, the state of the GPU.

Energy is NVML's counter, read through its C library: a package would rename asv's environments. The counter, in
millijoules since the driver was loaded, is the whole board's (on some products the whole module's, CPU included).
The sensor behind it samples a part of the time only (Yang et al., arXiv:2312.02741): hence at least `SECONDS` of
the same passes.
"""

import ctypes
import functools
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..suite.hardware import GIB, Hardware
from ..suite.outcomes import Measurement
from .timing import TIMED, await_turn

ENERGY = "energy"
ENERGY_WORKLOAD = "mixed"
"""The workload for which it is measured: each costs seconds."""

SECONDS = 2.0

LIBRARY = "libnvidia-ml.so.1"

BUSY_PERCENT = 10
BUSY_BYTES = GIB
"""Above these a GPU works for another program. An idle one has 0 % and, with a desktop or a program that opened it
and computes nothing (as the other side of `make ab` at first), a few hundred MiB."""

LOOKS, SECONDS_BETWEEN = 4, 0.4
"""Utilisation is of the last second: that of a program which has just ended goes away."""

QUERY = ("uuid", "utilization.gpu", "memory.used", "power.limit", "clocks.sm", "clocks.max.sm", "temperature.gpu")


@dataclass(frozen=True)
class GPUState:
    """A GPU by nvidia-smi: percent, bytes, watts, MHz and degrees Celsius; None for what that does not tell."""

    utilisation: float | None
    memory_used: float | None
    power_limit: float | None
    sm_clock: float | None
    max_sm_clock: float | None
    temperature: float | None


def gpu_states() -> dict[str, GPUState]:
    """All GPUs of this machine by UUID; none where nvidia-smi does not tell. Opens no context."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(map(parse_state, printed.splitlines()))


def parse_state(line: str) -> tuple[str, GPUState]:
    """UUID and state from a line of nvidia-smi's."""
    uuid, *fields = (field.strip() for field in line.split(","))
    numbers: list[float | None] = [
        float(field) if field.replace(".", "", 1).isdigit() else None for field in fields
    ]
    utilisation, mebibytes, *others = numbers
    return uuid, GPUState(utilisation, None if mebibytes is None else mebibytes * 2**20, *others)


def busy_reason(state: GPUState | None) -> str | None:
    """How others use a GPU, from its state while this suite has opened no context; None for an idle one."""
    if state is None:
        return None
    utilisation, used = state.utilisation or 0.0, state.memory_used or 0.0
    if utilisation < BUSY_PERCENT and used < BUSY_BYTES:
        return None
    memory = f"{used / GIB:.1f} GiB of it were in use"
    return f"the GPU was {utilisation:.0f} % utilised and {memory} before this was measured"


@functools.cache  # a later look would find what this process itself does
def busy_before_this_process(uuid: str) -> str | None:
    """`busy_reason` for the first call, which must come before this process opens a context."""
    if torch.cuda.is_initialized():
        raise RuntimeError("CUDA is initialised in this process: its own use of the GPU would count as another's")
    for look in range(LOOKS):
        time.sleep(SECONDS_BETWEEN if look else 0)
        reason = busy_reason(gpu_states().get(uuid))
        if reason is None:
            return None
    return reason


def around(hardware: Hardware, before: GPUState | None, busy: str | None) -> dict[str, Any]:
    """Notes on the conditions of a measurement that has just ended; `before`: the GPU's state when it began."""
    notes: dict[str, Any] = {"threads": torch.get_num_threads(), "cpus": usable_cpus()}
    if hardware.device == "cuda":
        after = gpu_states().get(hardware.uuid)
        notes["gpu"] = {
            "power_limit_w": after and after.power_limit,
            "max_sm_clock_mhz": after and after.max_sm_clock,
            "sm_clock_mhz": [state and state.sm_clock for state in (before, after)],
            "temperature_c": [state and state.temperature for state in (before, after)],
        } | ({"busy": busy} if busy else {})
    return notes


def usable_cpus() -> str | None:
    """The CPUs that this process may use, as taskset writes them (``0-3,8``); None where that is not known."""
    return ranges(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, consecutive ones as a range."""
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


class NoCounter(Exception):
    """This GPU's energy cannot be read; says why."""


@functools.cache
def nvml() -> ctypes.CDLL:
    """NVIDIA's management library, initialised."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise NoCounter(f"NVML, which counts a GPU's energy, cannot be loaded: {error}") from error
    if library.nvmlInit_v2() != 0:
        raise NoCounter("NVML, which counts a GPU's energy, cannot be initialised")
    return library


def joules(uuid: str) -> float:
    """The counter of a GPU, named by its UUID as nvidia-smi prints it. Raises NoCounter."""
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    if nvml().nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
        raise NoCounter(f"NVML does not know the GPU {uuid}")
    if nvml().nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)) != 0:
        raise NoCounter("this GPU has no energy counter (NVML has it from Volta on)")
    return millijoules.value / 1000


def energy_reason(hardware: Hardware, workload: str, busy: str | None) -> str | None:
    """Why energy is not measured for a cell; None where it is."""
    if hardware.device != "cuda":
        return "energy is measured on NVIDIA GPUs"
    if workload != ENERGY_WORKLOAD:
        return f"energy is measured for the workload {ENERGY_WORKLOAD} only"
    if busy:
        return f"energy would count other programs' work: {busy}"
    return None


def energy(
    run: Callable[[int], None], tokens: int, seconds: float, hardware: Hardware, workload: str, busy: str | None
) -> Measurement:
    """Joules for 1,000 tokens over `SECONDS` of steady passes, or why there are none.

    `run` embeds a pass of `tokens` so many times, and a pass takes about `seconds`; it is warm already.
    """
    reason = energy_reason(hardware, workload, busy)
    if reason:
        return Measurement(unavailable={ENERGY: reason})
    await_turn(TIMED)  # the other side of `make ab` waits until this process asks for another turn, or ends
    try:
        return Measurement({ENERGY: [float(f"{measure_joules(run, tokens, seconds, hardware.uuid):.6g}")]})
    except NoCounter as error:
        return Measurement(unavailable={ENERGY: str(error)})


def measure_joules(run: Callable[[int], None], tokens: int, seconds: float, uuid: str) -> float:
    """Joules for 1,000 tokens of passes that last at least `SECONDS`, and end before the counter is read."""
    passes = max(1, round(SECONDS / 10 / seconds))
    done = 0
    torch.cuda.synchronize()
    before, start = joules(uuid), time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        run(passes)
        torch.cuda.synchronize()
        done += passes
    return (joules(uuid) - before) / (done * tokens) * 1000
