"""Attention for packs.

PyTorch's works in tiles of 128 tokens, which proteins of a few hundred residues fill badly; these are smaller. The
two GEMMs take rotated queries and keys, and the softmax's shares, in the type of the activations.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from virnucpro.models.kernels.rotary import rotate_


@dataclass(frozen=True)
class Tile:
    """How much of a protein one program of the attention kernel holds, and how Triton is to run it."""

    queries: int
    keys: int
    warps: int
    stages: int


TILE = Tile(queries=64, keys=64, warps=4, stages=3)
"""The fastest of those tried on an H100 for heads of 64 and proteins of 20 to 1,022 residues."""


@triton.jit(do_not_specialize=["blocks"])  # it changes with the longest protein of a pack
def attend_kernel(  # type: ignore[no-untyped-def]
    qkv, cu_seqlens, cos, sin, out, scale, blocks,
    HEADS: tl.constexpr, HALF: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`BLOCK_M` queries of one protein and head, rotated here, over all its keys, which are rotated already.

    The softmax is kept up to date block by block of keys. `scale` has the factor log2(e), because exp2 is what the
    hardware computes. A head's two halves are padded to `BLOCK_D` / 2 each.
    """
    program = tl.program_id(0)
    block, head, protein = program % blocks, program // blocks % HEADS, program // blocks // HEADS
    start = tl.load(cu_seqlens + protein)
    length = tl.load(cu_seqlens + protein + 1) - start
    begin = block * BLOCK_M
    if begin >= length:
        return
    row: tl.constexpr = 3 * HEADS * 2 * HALF
    own = qkv + start.to(tl.int64) * row + head * 2 * HALF
    m, n, pair = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D // 2)
    if 2 * HALF == BLOCK_D:
        column = tl.arange(0, BLOCK_D)
        real = column < BLOCK_D
    else:
        padded = tl.arange(0, BLOCK_D)
        column = padded // (BLOCK_D // 2) * HALF + padded % (BLOCK_D // 2)
        real = padded % (BLOCK_D // 2) < HALF

    kept = (m < length - begin)[:, None] & (pair < HALF)[None, :]
    angle = (begin + m)[:, None] * HALF + pair[None, :]
    c = tl.load(cos + angle, mask=kept, other=0.0)
    s = tl.load(sin + angle, mask=kept, other=0.0)
    queries = own + begin.to(tl.int64) * row + m[:, None] * row + pair[None, :]
    a = tl.load(queries, mask=kept, other=0.0).to(tl.float32)
    b = tl.load(queries + HALF, mask=kept, other=0.0).to(tl.float32)
    turned = tl.join((a * c - b * s).to(qkv.dtype.element_ty), (b * c + a * s).to(qkv.dtype.element_ty))
    q = turned.permute(0, 2, 1).reshape(BLOCK_M, BLOCK_D)

    keys = own + HEADS * 2 * HALF + n[None, :] * row + column[:, None]  # [d, n]
    values = own + 2 * HEADS * 2 * HALF + n[:, None] * row + column[None, :]  # [n, d]
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for first in range(0, length, BLOCK_N):
        here = n < length - first
        k = tl.load(keys, mask=here[None, :] & real[:, None], other=0.0)
        score = tl.where(here[None, :], tl.dot(q, k), float("-inf"))
        larger = tl.maximum(largest, tl.max(score, axis=1) * scale)
        share = tl.exp2(score * scale - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(share, axis=1)
        v = tl.load(values, mask=here[:, None] & real[None, :], other=0.0)
        result = tl.dot(share.to(v.dtype), v, result * shrink[:, None])
        largest = larger
        keys += BLOCK_N * row
        values += BLOCK_N * row
    place = out + (start + begin).to(tl.int64) * (HEADS * 2 * HALF) + head * 2 * HALF
    place += m[:, None] * (HEADS * 2 * HALF) + column[None, :]
    tl.store(place, result / total[:, None], mask=(m < length - begin)[:, None] & real[None, :])


def attend(
    qkv: Tensor, positions: Tensor, cos: Tensor, sin: Tensor, cu_seqlens: Tensor, max_seqlen: int
) -> Tensor:
    """As `attention.attend`, for FP16 and BF16; `qkv` ``[T, 3, H, d]`` must be contiguous.

    Keys are rotated in place; queries while they are loaded, which is less traffic, because each is loaded once.
    """
    tokens, _, heads, dim = qkv.shape
    if qkv.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"queries, keys and values in FP16 or BF16 are needed, not {qkv.dtype}")
    rotate_(qkv, positions, cos, sin, queries=False)
    out = torch.empty((tokens, heads, dim), dtype=qkv.dtype, device=qkv.device)
    if tokens:
        blocks = triton.cdiv(max_seqlen, TILE.queries)
        with torch.cuda.device_of(qkv):
            attend_kernel[((len(cu_seqlens) - 1) * heads * blocks,)](
                qkv, cu_seqlens, cos, sin, out, dim**-0.5 * math.log2(math.e), blocks,
                heads, dim // 2, max(16, triton.next_power_of_2(dim)), TILE.queries, TILE.keys,
                num_warps=TILE.warps, num_stages=TILE.stages,
            )  # fmt: skip
    return out
