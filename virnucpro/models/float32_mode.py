"""How FP32 GEMMs are computed, which PyTorch knows for the whole process and not for a model."""

import contextlib
import os
import threading
from collections.abc import Iterator

import torch


class Turns:
    """Lets threads in at the same time only if they want the same mode; the others wait.

    The process's mode is as before when nobody is inside. Entering another mode from inside, in one thread, raises
    RuntimeError: nobody could end that wait.
    """

    def __init__(self) -> None:
        self._door = threading.Lock()  # held by who waits for another mode, so that nobody overtakes it
        self._changed = threading.Condition()
        self._mode = ""
        self._inside: list[int] = []  # threads
        self._before: list[tuple] = []  # each backend, and its setting

    @contextlib.contextmanager
    def __call__(self, mode: str) -> Iterator[None]:
        """Wait for the mode, and keep it while inside."""
        this = threading.get_ident()
        is_inside = this in self._inside
        if is_inside and mode != self._mode:
            raise RuntimeError(f"this thread is computing in {self._mode} and cannot change to {mode} meanwhile")
        with contextlib.nullcontext() if is_inside else self._door, self._changed:
            self._changed.wait_for(lambda: self._mode == mode or not self._inside)
            if not self._inside:
                self._mode, self._before = mode, [(each, each.fp32_precision) for each in backends(mode)]
                for each, _ in self._before:
                    each.fp32_precision = mode
            self._inside.append(this)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(this)
                if not self._inside:
                    self.restore()
                    self._changed.notify()

    def restore(self) -> None:
        """Give the process its mode back."""
        for each, setting in self._before:
            each.fp32_precision = setting
        self._before = []


def backends(mode: str = "ieee") -> tuple:
    """Where PyTorch keeps the mode of GEMMs: for the CPU's library and for CUDA, which has no ``bf16``."""
    library = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return (library,) if mode == "bf16" else (library, torch.backends.cuda.matmul)


TURNS = Turns()


def _after_fork() -> None:
    """The threads that were inside are in the parent: nobody would let this process's in."""
    global TURNS
    TURNS.restore()
    TURNS = Turns()


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
