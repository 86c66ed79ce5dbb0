"""Rotary positions in one pass over queries and keys."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def rotate_kernel(  # type: ignore[no-untyped-def]
    qkv, positions, cos, sin,
    HEADS: tl.constexpr, HALF: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One token: `COUNT` of its heads from `FIRST` on; its queries, keys and values lie one after the other."""
    token = tl.program_id(0).to(tl.int64)
    head, pair = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    angle = tl.load(positions + token) * HALF + pair
    c = tl.load(cos + angle, mask=pair < HALF, other=0.0)[None, :]
    s = tl.load(sin + angle, mask=pair < HALF, other=0.0)[None, :]
    kept = (head < COUNT)[:, None] & (pair < HALF)[None, :]
    first = qkv + token * (3 * HEADS * 2 * HALF) + (FIRST + head)[:, None] * (2 * HALF) + pair[None, :]
    a = tl.load(first, mask=kept, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=kept, other=0.0).to(tl.float32)
    tl.store(first, a * c - b * s, mask=kept)
    tl.store(first + HALF, b * c + a * s, mask=kept)


def rotate_(qkv: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, queries: bool = True) -> Tensor:
    """As `rotary.rotate_`, in one pass; without `queries` only the keys. `qkv` ``[T, 3, H, d]``, contiguous."""
    tokens, _, heads, head_dim = qkv.shape
    half = head_dim // 2
    if not qkv.is_contiguous() or cos.shape[1] != half:
        raise ValueError(f"contiguous [T, 3, H, d] and tables of d / 2 columns are needed, not {tuple(qkv.shape)}")
    if tokens:
        first, count = (0, 2 * heads) if queries else (heads, heads)
        block_h, block_d = triton.next_power_of_2(count), triton.next_power_of_2(half)
        with torch.cuda.device_of(qkv):  # Triton launches on the current device, wherever the tensors are
            rotate_kernel[(tokens,)](
                qkv, positions, cos, sin, heads, half, first, count, block_h, block_d, num_warps=4
            )
    return qkv
