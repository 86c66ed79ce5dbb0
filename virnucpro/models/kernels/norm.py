"""The layer norm of the residual in one pass."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def layer_norm_kernel(  # type: ignore[no-untyped-def]
    x, offset, weight, bias, out, eps, DIM: tl.constexpr, BLOCK: tl.constexpr
):
    """One token: the layer norm of x + offset."""
    row = tl.program_id(0).to(tl.int64) * DIM
    column = tl.arange(0, BLOCK)
    kept = column < DIM
    total = tl.load(x + row + column, mask=kept, other=0.0).to(tl.float32)
    total += tl.load(offset + column, mask=kept, other=0.0)
    mean = tl.sum(total, axis=0) / DIM
    centred = tl.where(kept, total - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / DIM
    scale = tl.load(weight + column, mask=kept, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=kept, other=0.0).to(tl.float32)
    tl.store(out + row + column, centred / tl.sqrt(variance + eps) * scale + shift, mask=kept)


def layer_norm(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The layer norm of ``x + offset``; `x` ``[T, D]``, contiguous, `offset` FP32 ``[D]``."""
    tokens, dim = x.shape
    if not x.is_contiguous() or offset.shape != (dim,) or offset.dtype != torch.float32:
        raise ValueError(
            f"contiguous [T, D] and FP32 [D] are needed, not {tuple(x.shape)} and {tuple(offset.shape)}"
        )
    out = torch.empty_like(x)
    if tokens:
        block, warps = triton.next_power_of_2(dim), 4 if dim <= 2048 else 8
        with torch.cuda.device_of(x):
            layer_norm_kernel[(tokens,)](x, offset, weight, bias, out, eps, dim, block, num_warps=warps)
    return out
