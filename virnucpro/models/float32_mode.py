"""How FP32 GEMMs are computed, which PyTorch knows for the whole process and not for a model."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator

import torch


class FairLock:
    """Lets threads in at the same time only if they want the same mode; the others queue.

    The process's mode is as before when nobody is inside. Entering another mode from inside, in one thread, raises
    RuntimeError: nobody could end that wait.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._mode = ""
        self._inside: list[int] = []  # threads
        self._before: list[str] = []

    @contextlib.contextmanager
    def __call__(self, mode: str) -> Iterator[None]:
        """Wait for the mode, and keep it while inside."""
        self._enter(mode)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, mode: str) -> None:
        this = threading.get_ident()
        with self._changed:
            if this in self._inside and mode != self._mode:
                raise RuntimeError(
                    f"this thread is computing in {self._mode} and cannot change to {mode} meanwhile"
                )
            if this not in self._inside:
                self._wait_for(mode)
            if not self._inside:
                self._mode, self._before = mode, [backend.fp32_precision for backend in backends(mode)]
                for backend in backends(mode):
                    backend.fp32_precision = mode
            self._inside.append(this)
            self._changed.notify_all()  # who waits next may want the same mode

    def _wait_for(self, mode: str) -> None:
        ticket = object()
        self._waiting.append(ticket)
        try:
            self._changed.wait_for(lambda: self._waiting[0] is ticket and (not self._inside or self._mode == mode))
        finally:
            self._waiting.remove(ticket)

    def _leave(self) -> None:
        with self._changed:
            self._inside.remove(threading.get_ident())
            if not self._inside:
                for backend, setting in zip(backends(self._mode), self._before, strict=True):
                    backend.fp32_precision = setting
            self._changed.notify_all()


def backends(mode: str = "ieee") -> tuple:
    """Where PyTorch keeps the mode of GEMMs: for the CPU's library and for CUDA, which has no ``bf16``."""
    library = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return (library,) if mode == "bf16" else (library, torch.backends.cuda.matmul)


def current_mode() -> str:
    """How FP32 GEMMs are computed on the CPU now."""
    return backends()[0].fp32_precision


TURNS = FairLock()


def _after_fork() -> None:
    """The threads that were inside are in the parent: nobody would let this process's in."""
    for backend, setting in zip(backends(TURNS._mode), TURNS._before if TURNS._inside else (), strict=False):
        backend.fp32_precision = setting
    TURNS.__init__()  # type: ignore[misc]


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def float32_products(mode: str | None) -> Iterator[None]:
    """Choose how FP32 GEMMs are computed and restore it after; None leaves it alone.

    ``ieee`` or ``tf32``; or ``bf16``, on CPUs alone, which rounds the operands to BF16 and sums in FP32.
    The setting belongs to the process, not to a model: threads that need different ones take turns (of the host's
    part: a GPU's kernels are chosen when they are started). Attention is not affected: PyTorch's memory-efficient
    kernel, the fused one that takes FP32 on a GPU, computes each FP32 product from three TF32 ones, with an error
    near FP32's own.
    """
    if mode is None:
        yield
        return
    with TURNS(mode):
        yield
