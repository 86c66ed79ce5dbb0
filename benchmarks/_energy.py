"""Energy of a GPU by NVML's counter, through its C library: a package would rename asv's environments.

The counter, in millijoules since the driver was loaded, is the whole board's (on some products the whole module's,
CPU included). The sensor behind it samples a part of the time only (Yang et al., arXiv:2312.02741): hence at least
`SECONDS` of the same passes.
"""

import ctypes
import functools
import time
from collections.abc import Callable

import torch

from ._hardware import Hardware
from ._outcomes import Measurement
from ._protocol import TIMED, await_turn

FIGURE = "energy"
WORKLOAD = "mixed"
"""The workload for which it is measured: each costs seconds."""

SECONDS = 2.0

LIBRARY = "libnvidia-ml.so.1"


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
    if workload != WORKLOAD:
        return f"energy is measured for the workload {WORKLOAD} only"
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
        return Measurement(unavailable={FIGURE: reason})
    await_turn(TIMED)  # the other side of `make ab` waits until this process asks for another turn, or ends
    try:
        return Measurement({FIGURE: [float(f"{measure_joules(run, tokens, seconds, hardware.uuid):.6g}")]})
    except NoCounter as error:
        return Measurement(unavailable={FIGURE: str(error)})


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
