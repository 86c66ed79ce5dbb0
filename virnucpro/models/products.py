"""How the process computes the products of FP32 matrices."""

import contextlib
from collections.abc import Iterator

import torch


def float32_mode() -> str:
    """How FP32 GEMMs are computed on the CPU now: see `float32_products`."""
    return torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


@contextlib.contextmanager
def float32_products(mode: str | None) -> Iterator[None]:
    """Choose how FP32 GEMMs are computed and restore it after; None leaves it alone.

    ``ieee`` or ``tf32``; ``bf16``, which CPUs alone have, rounds the operands to BF16 and sums in FP32.

    The setting belongs to the process, not to a model, so two models in one process each need their own.
    Attention is not affected: PyTorch's memory-efficient kernel, the fused one that takes FP32 on a GPU, computes
    each FP32 product from three TF32 ones, with an error near FP32's own.
    """
    if mode is None:
        yield
        return
    backends = [torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    if mode != "bf16":
        backends.append(torch.backends.cuda.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = mode
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting
