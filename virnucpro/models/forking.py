"""Whether this thread can compute on the CPU: after a fork it may wait for ever.

The thread that forked believes that OpenMP's threads, with which PyTorch computed in the parent, are still there.
They are not, and the next operator that is split among them waits for them. Another thread of the child starts its
own.
"""

import os
import threading

import torch

from virnucpro.errors import DeviceError

_computed = False  # this process, or a parent before the fork, by this package
_forked: int | None = None  # the thread that came out of a fork
_stuck = False  # whether the parent had computed then


def _after_fork() -> None:
    global _forked, _stuck
    _forked, _stuck = threading.get_ident(), _computed


os.register_at_fork(after_in_child=_after_fork)


def came_out_of_a_fork() -> bool:
    """Whether this thread did, so that another one should compute: who knows what the parent did with PyTorch."""
    return _forked == threading.get_ident()


def check_can_compute(device: torch.device) -> None:
    """Raise DeviceError where this thread would wait for ever for a CPU; remembers that it computed."""
    global _computed
    if device.type != "cpu":
        return  # CUDA itself refuses to be used after a fork
    if _stuck and came_out_of_a_fork() and torch.get_num_threads() > 1:
        raise DeviceError(
            "this process was forked from one that had computed, and PyTorch would wait for its threads for ever: "
            "start processes by multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in this one"
        )
    _computed = True
