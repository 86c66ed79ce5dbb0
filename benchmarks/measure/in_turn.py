"""What the tables of `make engine` share: implementations timed in turn, and memory in processes of their own."""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .memory import PeakMemory, unavailable
from .timing import TIMERS, Run

Fresh = Callable[[Callable[..., Any], tuple[Any, ...]], Any]
"""Calls a function in a process that has done nothing else."""

MIB = 1024**2


@dataclass(frozen=True)
class Row:
    """One implementation: passes over the proteins, and how many tokens one pass counts as."""

    name: str
    run: Callable[[int], None]
    tokens: int


def in_turn(rows: list[Row], device: str, rounds: int) -> dict[str, list[float]]:
    """Tokens/s of each implementation in each round."""
    timer = TIMERS[device]
    speeds: dict[str, list[float]] = {row.name: [] for row in rows}
    for row in rows:
        row.run(1)
    for number in range(rounds):
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            show(f"  round {number + 1} of {rounds}: {row.name}")
            speeds[row.name].append(row.tokens / timer(functools.partial(row.run, 1)))
    show("")
    return speeds


def show(progress: str) -> None:
    """On a terminal, what is going on, instead of what was."""
    if sys.stderr.isatty():
        print(f"\r{progress:90}\r", end="", file=sys.stderr, flush=True)


def peak_memory(load: Callable[[], Run], device: str) -> str:
    """What the thing that is loaded takes at the peak of a pass, weights included.

    Nothing where this system does not tell. To be called in a process that has done nothing else.
    """
    if unavailable(device):
        return ""
    torch.ones(1, device=device)
    before = memory_in_use(device)
    run = load()
    peak = PeakMemory(device)
    run(1)
    return f"{(peak.read().amount - before) / MIB:,.0f} MiB"


def memory_in_use(device: str) -> int:
    """Bytes in use now, of the kind whose peak is measured."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return PeakMemory(device).read().amount
