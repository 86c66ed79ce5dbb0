"""Attention for packs.

PyTorch's works in tiles of 128 tokens, which proteins of a few hundred residues fill badly, and on as many tiles
of each protein as the longest has; here tiles follow a protein's length, and only those that exist are computed.
The two GEMMs take rotated queries and keys, and the softmax's shares, in the type of the activations. The result
for a protein does not depend on the rest of its pack.
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
    """How much of a protein one program of the attention kernel holds, and how Triton is to run it.

    `part_first`: the block of keys that the protein does not fill is the first instead of the last, so that the
    loop's blocks need no masks; this pays from about ten blocks on.
    """

    queries: int
    keys: int
    warps: int
    stages: int
    part_first: bool = False


TILE = Tile(queries=64, keys=64, warps=4, stages=3)
LONG_TILE = Tile(queries=128, keys=64, warps=8, stages=3, part_first=True)
"""The fastest of those tried on an H200 for heads of 64, up to `LONG` tokens and above."""

LONG = 768

Blocks = tuple[tuple[Tile, Tensor], ...]
"""For each tile the blocks of queries of a pack: int32 ``[B, 2]``, protein and first query of each."""


def blocks_of(cu_seqlens: Tensor, tokens: int, max_seqlen: int) -> Blocks:
    """The blocks of a pack of so many `tokens`; `cu_seqlens` and `max_seqlen` as for `attend`."""
    lengths = cu_seqlens.diff()
    blocks = [(TILE, list_blocks(lengths, tokens, TILE.queries, 0, min(LONG, max_seqlen)))]
    if max_seqlen > LONG:
        blocks.append((LONG_TILE, list_blocks(lengths, tokens, LONG_TILE.queries, LONG, max_seqlen)))
    return tuple(blocks)


def list_blocks(lengths: Tensor, tokens: int, size: int, above: int, most: int) -> Tensor:
    """Protein and first query of each block of `size` queries: int32 ``[B, 2]``.

    Of proteins with more than `above` and at most `most` tokens. `lengths`: tokens of each protein, int32 ``[N]``,
    on any device. `tokens`: their sum. The host does not wait for the device, so the list has room for as many
    blocks as there can be; where there are fewer, the protein is -1.
    """
    counted = (lengths > above) & (lengths <= most)
    blocks = torch.where(counted, (lengths + (size - 1)) // size, 0)
    ends = blocks.cumsum(0)
    proteins = min(len(lengths), tokens // (above + 1))
    room = min((tokens + (size - 1) * proteins) // size, proteins * triton.cdiv(most, size))
    place = torch.arange(room, device=lengths.device)
    protein = torch.searchsorted(ends, place, right=True)
    exists = protein < len(lengths)
    protein.clamp_(max=len(lengths) - 1)
    begin = (place - (ends - blocks)[protein]) * size
    return torch.stack((protein.where(exists, -1), begin), dim=1).int()


@triton.jit
def attend_kernel(  # type: ignore[no-untyped-def]
    qkv, blocks, cu_seqlens, cos, sin, out, scale,
    HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PART_FIRST: tl.constexpr,
):  # fmt: skip
    """`BLOCK_M` queries of one protein and head, rotated here, over all its keys, which are rotated already.

    The softmax is kept up to date block by block of keys. `scale` has the factor log2(e), because exp2 is what the
    hardware computes. A head's two halves are padded to `BLOCK_D` / 2 each.
    """
    program = tl.program_id(0)
    head = program % HEADS
    protein = tl.load(blocks + program // HEADS * 2)
    if protein < 0:
        return
    begin = tl.load(blocks + program // HEADS * 2 + 1)
    start = tl.load(cu_seqlens + protein)
    length = tl.load(cu_seqlens + protein + 1) - start
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
    part = 0
    if PART_FIRST:
        part = (length - 1) % BLOCK_N + 1
        here = n < part
        k = tl.load(keys, mask=here[None, :] & real[:, None], other=0.0)
        v = tl.load(values, mask=here[:, None] & real[None, :], other=0.0)
        score = tl.where(here[None, :], tl.dot(q, k), float("-inf"))
        largest = tl.max(score, axis=1) * scale
        share = tl.exp2(score * scale - largest[:, None])
        total = tl.sum(share, axis=1)
        result = tl.dot(share.to(v.dtype), v)
        keys += part * row
        values += part * row
    for first in range(part, length, BLOCK_N):
        if PART_FIRST:
            score = tl.dot(q, tl.load(keys, mask=real[:, None], other=0.0))
        else:
            here = n < length - first
            k = tl.load(keys, mask=here[None, :] & real[:, None], other=0.0)
            score = tl.where(here[None, :], tl.dot(q, k), float("-inf"))
        larger = tl.maximum(largest, tl.max(score, axis=1) * scale)
        share = tl.exp2(score * scale - larger[:, None])
        shrink = tl.exp2(largest - larger)
        total = total * shrink + tl.sum(share, axis=1)
        largest = larger
        v = tl.load(values, mask=real[None, :] if PART_FIRST else here[:, None] & real[None, :], other=0.0)
        result = tl.dot(share.to(v.dtype), v, result * shrink[:, None])
        keys += BLOCK_N * row
        values += BLOCK_N * row
    place = out + (start + begin).to(tl.int64) * (HEADS * 2 * HALF) + head * 2 * HALF
    place += m[:, None] * (HEADS * 2 * HALF) + column[None, :]
    tl.store(place, result / total[:, None], mask=(m < length - begin)[:, None] & real[None, :])


def attend(
    qkv: Tensor,
    positions: Tensor,
    cos: Tensor,
    sin: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    blocks: Blocks | None = None,
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
        with torch.cuda.device_of(qkv):  # Triton launches on the current device, wherever the tensors are
            for tile, listed in blocks or blocks_of(cu_seqlens, tokens, max_seqlen):
                attend_kernel[(len(listed) * heads,)](
                    qkv, listed, cu_seqlens, cos, sin, out, dim**-0.5 * math.log2(math.e),
                    heads, dim // 2, max(16, triton.next_power_of_2(dim)),
                    tile.queries, tile.keys, tile.part_first,
                    num_warps=tile.warps, num_stages=tile.stages,
                )  # fmt: skip
    return out
