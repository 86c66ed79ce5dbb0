"""How a number is measured: warm-up until it settles, blocks, turns, fresh processes.

Nothing here knows ESM-2. A change that makes new numbers incomparable with old ones is a new
`version` of the figures that it concerns (`suite.cell.tracked`).
"""

import ctypes
import functools
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

Run = Callable[[int], None]
"""Runs that many passes over the workload, and returns when their results are on the CPU."""

Timer = Callable[[Callable[[], None]], float]
"""Seconds that one call takes."""


@dataclass(frozen=True)
class Protocol:
    """The constants of a measurement."""

    window: int = 3  # blocks
    settled: float = 0.02  # relative difference of two consecutive windows' medians
    warm_up_seconds: float = 1.5  # no new block of the warm-up begins after this
    blocks: int = 7
    block_seconds: float = 0.25
    least_blocks: int = 3
    enough_seconds: float = 5.0  # after this and `least_blocks`, no new block begins

    def enough(self, blocks: int, seconds: float) -> bool:
        """Whether so many blocks, in so many seconds, are all that is measured."""
        return blocks >= self.blocks or (blocks >= self.least_blocks and seconds >= self.enough_seconds)


PROTOCOL = Protocol()

ON_GPU = Protocol(warm_up_seconds=0.6, block_seconds=0.1, enough_seconds=1.5)
"""On an H100 blocks have no trend after the first pass: longer ones, or more warm-up, narrow nothing."""

IN_TURN = Protocol(warm_up_seconds=0.6, blocks=11, block_seconds=0.1, enough_seconds=math.inf)
"""Where two processes take turns: the shorter the blocks, the more alike is the machine in two neighbours, and the
median of many ratios forgets those that something else disturbed."""


@dataclass(frozen=True)
class Timing:
    """`samples`: seconds a pass takes, one for each block of `passes` passes; `settled` as in `WarmUp`."""

    samples: list[float]
    passes: int
    settled: bool | None


@dataclass(frozen=True)
class WarmUp:
    """Where a warm-up ended: passes in a block, and whether its last two windows agreed (None: only one ran).

    `last_pass`: seconds of its last block, where that was one pass, and so is a block after it.
    """

    passes: int
    settled: bool | None
    last_pass: float | None


def warm_up(run: Run, timer: Timer, protocol: Protocol = PROTOCOL) -> WarmUp:
    """Run until two consecutive windows' medians agree, or the time for it is over."""
    passes, spent = 1, 0.0
    previous: float | None = None
    while True:
        window: list[float] = []
        while len(window) < protocol.window and (not window or spent < protocol.warm_up_seconds):
            await_turn(WARMING)
            window.append(timer(functools.partial(run, passes)))
            spent += window[-1]
        median = statistics.median(window) / passes
        agreed = None if previous is None else abs(median - previous) < protocol.settled * median
        before, passes = passes, passes_in_a_block(median, protocol)
        if agreed or spent >= protocol.warm_up_seconds:
            return WarmUp(passes, agreed, window[-1] if before == passes == 1 else None)
        previous = median


def passes_in_a_block(seconds_of_a_pass: float, protocol: Protocol) -> int:
    """How many passes last at least a block's time."""
    return max(1, math.ceil(protocol.block_seconds / seconds_of_a_pass))


def measure(
    run: Run, timer: Timer, protocol: Protocol | None = None, after_warm_up: Callable[[], None] = lambda: None
) -> Timing:
    """Seconds of a pass: warm up, then time blocks of at least `protocol.block_seconds` until they are enough.

    A warm-up's last pass counts, too, where it is a block by itself and `sizing_counts`.
    """
    protocol = protocol or default_protocol(timer)
    if timer is cuda_timer:  # the first pass compiles kernels, or loads them: that is no pass's time
        await_turn(WARMING)
        run(1)
    warm = warm_up(run, timer, protocol)
    after_warm_up()
    block = functools.partial(run, warm.passes)
    seconds = [warm.last_pass] if warm.last_pass is not None and sizing_counts(timer) else []
    while not protocol.enough(len(seconds), sum(seconds)):
        await_turn(TIMED)
        seconds.append(timer(block))
    return Timing([each / warm.passes for each in seconds], warm.passes, warm.settled)


def alternate(
    reference: Run,
    run: Run,
    timer: Timer,
    protocol: Protocol | None = None,
    warm: Callable[[], None] | None = None,
) -> list[float]:
    """How many times faster `run` is than `reference`: a ratio for each pair of neighbouring blocks.

    Block by block in one process and each first in turn, so that drift cancels; so there is no waiting until
    speeds settle, only one pass each before the one that tells how many passes fill a block; `warm`, where it is
    given, makes these. The one that tells counts, too, where it is a block by itself and `sizing_counts`.
    """
    protocol = protocol or default_protocol(timer)
    runs = (reference, run)
    await_turn(WARMING)
    if warm:
        warm()
    else:
        for each in runs:
            each(1)
    sizing = [timer(functools.partial(each, 1)) for each in runs]
    passes = [passes_in_a_block(seconds, protocol) for seconds in sizing]
    ready = {index: sizing[index] for index in (0, 1) if passes[index] == 1 and sizing_counts(timer)}
    ratios: list[float] = []
    spent = 0.0
    while not protocol.enough(len(ratios), spent):
        await_turn(TIMED)
        seconds = [0.0, 0.0]
        for index in (0, 1) if len(ratios) % 2 == 0 else (1, 0):
            block = ready.pop(index, None) or timer(functools.partial(runs[index], passes[index]))
            seconds[index] = block / passes[index]
            spent += block
        ratios.append(seconds[0] / seconds[1])
    return ratios


TURNS = "VIRNUCPRO_BENCH_TURNS"
"""Names the socket, in the working directory, of asv_plugin/compare/turns.py."""

WARMING, TIMED = b"w", b"t"
"""What a turn is for: a block of the warm-up, or one that counts."""


@functools.cache
def referee() -> socket.socket | None:
    """Who grants turns; None where this process is measured by itself."""
    name = os.environ.get(TURNS)
    if not name or not Path(name).exists():
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(name)
    return connection


def default_protocol(timer: Timer) -> Protocol:
    """How this process is to measure what `timer` times."""
    if referee():
        return IN_TURN
    return ON_GPU if timer is cuda_timer else PROTOCOL


def sizing_counts(timer: Timer) -> bool:
    """Whether a pass that was timed to see how many fill a block may be a sample.

    It may on a GPU, where only the first pass is a slow one, and in FP32 each takes up to a second; but not where
    blocks of two processes pair.
    """
    return timer is cuda_timer and referee() is None


def await_turn(purpose: bytes) -> None:
    """Wait until the process that is compared with this one (`make ab`) waits, too; at once elsewhere.

    The turn lasts until the next one is awaited, or the process ends.
    """
    connection = referee()
    if connection:
        connection.sendall(purpose)
        if not connection.recv(1):
            raise RuntimeError("the comparison that this process was started for has ended")


def cpu_timer(call: Callable[[], None]) -> float:
    """Wall-clock seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cuda_timer(call: Callable[[], None]) -> float:
    """Seconds between two CUDA events around the call, the device idle before the first."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


TIMERS: dict[str, Timer] = {"cpu": cpu_timer, "cuda": cuda_timer}


def free_cached_memory(device: str) -> None:
    """Give back what PyTorch keeps of freed GPU memory: pieces of it, a little too large, would be reused."""
    if device == "cuda":
        torch.cuda.empty_cache()


PR_SET_PDEATHSIG = 1  # prctl(2)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Child:
    """What a fresh process sent back."""

    value: Any = None
    error: str = "it exited without output (killed, or out of memory?)"


def in_fresh_process(call: Callable[[], Result]) -> Result:
    """What `call` returns in a process of its own, forked from this one; not None.

    This one must not have computed anything with PyTorch yet: neither CUDA nor a pool of OpenMP threads
    survives a fork. Importing PyTorch, which takes seconds, is shared.
    Raises RuntimeError with the process's own traceback where it failed.
    """
    require_no_cuda("a fork of it could not use the GPU")
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, call))
    process.start()
    sender.close()
    try:
        child = receiver.recv()
    except EOFError:
        child = Child()
    process.join()
    if child.value is None:
        what = child.error.strip().splitlines()[
            -1
        ]  # of a traceback the error, which comes first in one line's room
        raise RuntimeError(
            f"a process forked to measure failed (exit code {process.exitcode}): {what}\n{child.error}"
        )
    return child.value


def in_this_process(call: Callable[[], Result]) -> Result:
    """What `call` returns in this process, which must not have used CUDA yet."""
    require_no_cuda("what it has loaded would be measured, too")
    return call()


def require_no_cuda(why: str) -> None:
    """Raise RuntimeError where this process has used CUDA."""
    if torch.cuda.is_initialized():
        raise RuntimeError(f"CUDA is initialised in this process: {why}")


def _send(sender: multiprocessing.connection.Connection, call: Callable[[], Any]) -> None:
    if sys.platform == "linux":
        # When asv's timeout kills the parent, this process must not go on beside the next cell's measurement.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        sender.send(Child(value=call()))
    except Exception:
        sender.send(Child(error=traceback.format_exc()))
