"""Triton kernels for the two steps of a layer that only move memory: rotary positions, and residual with norm.

PyTorch alone reads and writes the activations three to five times for each of them; these do it once. They compute
in FP32 and store in the type of the activations. Nothing is tuned or compiled for a number of tokens, so a pack of
a new size runs the kernels that are there. Tested without a GPU through Triton's interpreter.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def rotate_kernel(  # type: ignore[no-untyped-def]
    qkv, positions, cos, sin, HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr
):
    """One token: all heads of its query and its key, which lie side by side in front of its value."""
    token = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    angle = tl.load(positions + token) * HALF + pair
    c = tl.load(cos + angle, mask=pair < HALF, other=0.0)[None, :]
    s = tl.load(sin + angle, mask=pair < HALF, other=0.0)[None, :]
    kept = (head < 2 * HEADS)[:, None] & (pair < HALF)[None, :]
    first = qkv + token * (3 * HEADS * 2 * HALF) + head[:, None] * (2 * HALF) + pair[None, :]
    a = tl.load(first, mask=kept, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=kept, other=0.0).to(tl.float32)
    tl.store(first, a * c - b * s, mask=kept)
    tl.store(first + HALF, b * c + a * s, mask=kept)


@triton.jit
def add_layer_norm_kernel(  # type: ignore[no-untyped-def]
    x, update, weight, bias, out, eps, DIM: tl.constexpr, BLOCK: tl.constexpr
):
    """One token: x becomes x + update, and out its layer norm."""
    row = tl.program_id(0).to(tl.int64) * DIM
    column = tl.arange(0, BLOCK)
    kept = column < DIM
    total = tl.load(x + row + column, mask=kept, other=0.0).to(tl.float32)
    total += tl.load(update + row + column, mask=kept, other=0.0).to(tl.float32)
    tl.store(x + row + column, total, mask=kept)
    mean = tl.sum(total, axis=0) / DIM
    centred = tl.where(kept, total - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / DIM
    scale = tl.load(weight + column, mask=kept, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=kept, other=0.0).to(tl.float32)
    tl.store(out + row + column, centred / tl.sqrt(variance + eps) * scale + shift, mask=kept)


def rotate_(qkv: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotary.rotate_`, in one pass over queries and keys; `qkv` ``[T, 3, H, d]`` must be contiguous."""
    tokens, _, heads, head_dim = qkv.shape
    half = head_dim // 2
    if not qkv.is_contiguous() or cos.shape[1] != half:
        raise ValueError(f"contiguous [T, 3, H, d] and tables of d / 2 columns are needed, not {tuple(qkv.shape)}")
    if tokens:
        block_h, block_d = triton.next_power_of_2(2 * heads), triton.next_power_of_2(half)
        with torch.cuda.device_of(qkv):  # Triton launches on the current device, wherever the tensors are
            rotate_kernel[(tokens,)](qkv, positions, cos, sin, heads, half, block_h, block_d, num_warps=4)
    return qkv


def add_layer_norm_(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Add `update` to `x` in place and return the layer norm of the sum; both ``[T, D]``, contiguous."""
    if not (x.is_contiguous() and update.is_contiguous() and x.shape == update.shape):
        raise ValueError(f"contiguous [T, D] of one shape are needed, not {tuple(x.shape)}, {tuple(update.shape)}")
    tokens, dim = x.shape
    out = torch.empty_like(x)
    if tokens:
        block, warps = triton.next_power_of_2(dim), 4 if dim <= 2048 else 8
        with torch.cuda.device_of(x):
            add_layer_norm_kernel[(tokens,)](x, update, weight, bias, out, eps, dim, block, num_warps=warps)
    return out
