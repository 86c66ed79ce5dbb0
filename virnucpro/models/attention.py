"""Attention over packed proteins: each token attends to its own protein, and nothing is padded.

Shapes: T tokens of N proteins, H heads, d dimensions of a head.
"""

import functools
import itertools
import math
import threading
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from virnucpro.models.float32_mode import float32_products
from virnucpro.models.rotary import rotate_

if TYPE_CHECKING:
    from virnucpro.models.kernels import Blocks

Rotary = tuple[Tensor, Tensor, Tensor]
"""Each token's place in its protein, int32 ``[T]``, and the tables of cosines and sines by place."""


SCORES_AT_A_TIME = 2**20
"""Scores that `attend_in_bf16` holds, twice: 4 MiB each. A quarter as many made it 10 to 15 % slower."""


SCORES_OF_A_THREAD = 2**28
"""Scores of all heads that `attend_one_by_one` asks for at a time, by thread: about a second with a slow core."""

LONG, QUERIES = 768, 256
"""From so many queries on PyTorch's kernel takes so many at a time (ATen/native/cpu/FlashAttentionKernel.cpp)."""


def blocks_of(x: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> "Blocks | None":
    """What `attend` would else find out for each layer anew, for a pack whose activations are `x` ``[T, ...]``.

    Only the GPU's kernel for FP16 and BF16 asks; None elsewhere.
    """
    if not x.is_cuda or x.dtype == torch.float32:
        return None
    from virnucpro.models import kernels  # Triton comes with PyTorch's CUDA builds only

    return kernels.blocks_of(cu_seqlens, len(x), max_seqlen)


def attend(
    qkv: Tensor,
    rotary: Rotary,
    cu_seqlens: Tensor,
    max_seqlen: int,
    may_round: bool = False,
    blocks: "Blocks | None" = None,
) -> Tensor:
    """Rotary positions, and softmax attention, scaled by 1 / sqrt(d), within each protein.

    `qkv`: queries, keys and values, ``[T, 3, H, d]``, contiguous; changed in place. `cu_seqlens`: int32
    ``[N + 1]`` on the same device, 0 and where each protein ends. `max_seqlen`: at least the tokens of the
    longest. `may_round`: whether a CPU may round FP32 to BF16. `blocks`: those of `blocks_of`. Returns
    ``[T, H, d]``; on a CPU tokens behind the last protein are allowed, and get 0.

    The kernel follows from the device, the type and `may_round` alone: virnucpro's own for FP16 and BF16 on a GPU,
    PyTorch's memory-efficient attention for FP32 there. On the CPU, protein by protein, `attend_in_bf16` where
    BF16 is native and allowed (in BF16, and in FP32 with `may_round`), else `scaled_dot_product_attention`.
    """
    if qkv.is_cuda and qkv.dtype != torch.float32:
        from virnucpro.models import kernels

        return kernels.attend(qkv, *rotary, cu_seqlens, max_seqlen, blocks)
    rotate_(qkv, *rotary)
    if qkv.is_cuda:
        return attend_memory_efficient(qkv, cu_seqlens, max_seqlen)
    in_bf16 = qkv.dtype == torch.bfloat16 or (may_round and qkv.dtype == torch.float32)
    attended = (attend_in_bf16 if in_bf16 and has_bf16() else attend_one_by_one)(qkv, cu_seqlens)
    attended[int(cu_seqlens[-1]) :] = 0
    return attended


@functools.cache
def has_bf16() -> bool:
    """Whether this CPU multiplies BF16 natively, and PyTorch was built with the library that does."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


_kept = threading.local()


def room_for(scores: int) -> Tensor:
    """FP32 ``[2, at least scores]``, kept for this thread: the system would clear new memory for every layer."""
    room: Tensor | None = getattr(_kept, "room", None)
    if room is None or room.shape[1] < scores:
        with torch.inference_mode(False):
            room = _kept.room = torch.empty(2, scores, dtype=torch.float32, device="cpu")
    return room


def attend_in_bf16(qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
    """For CPUs with BF16: operands are rounded to it, scores and sums are FP32.

    The GEMMs of short heads are too small for PyTorch's fused kernel, which asks for many of a few rows; here one
    call takes all heads of a protein, as far as their scores stay in the cache.
    """
    q, k, v = qkv.float().permute(1, 2, 0, 3)  # [H, T, d]; a view of FP32 queries
    q.mul_(q.shape[-1] ** -0.5)
    heads = len(q)
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    out_by_head = out.transpose(0, 1)
    room = room_for(max(SCORES_AT_A_TIME, int(cu_seqlens.diff().max())))
    with float32_products("bf16"):
        for start, end in itertools.pairwise(cu_seqlens.tolist()):
            length = end - start
            keys, values = k[:, start:end].transpose(1, 2), v[:, start:end]
            rows = min(length, max(1, SCORES_AT_A_TIME // max(1, length)))
            together = max(1, SCORES_AT_A_TIME // max(1, rows * length))
            for first, row in itertools.product(range(0, heads, together), range(start, end, max(1, rows))):
                some, queries = (
                    slice(first, first + together),
                    q[first : first + together, row : min(row + rows, end)],
                )
                shape = (*queries.shape[:2], length)
                scores, weights = room[:, : math.prod(shape)].view(2, *shape)
                torch.bmm(queries, keys[some], out=scores)
                torch._softmax(scores, -1, False, out=weights)
                out_by_head[some, row : row + shape[1]] = torch.bmm(weights, values[some])
    return out


def attend_one_by_one(qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
    """For the CPU, where a protein is work enough to fill the cores.

    Of a long protein some heads and queries at a time, so that Python gets to see a signal meanwhile. The kernel
    takes 256 queries at a time where it gets `LONG` or more: parts that are multiples of them change no bit.
    """
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    q, k, v = qkv.permute(1, 2, 0, 3)[:, None]  # [1, H, T, d]
    for start, end in itertools.pairwise(cu_seqlens.tolist()):
        if start < end:
            own = (slice(None), slice(None), slice(start, end))
            queries, keys, values = q[own], k[own], v[own]
            for some, part in parts(end - start, out.shape[1]):
                one = F.scaled_dot_product_attention(queries[:, some, part], keys[:, some], values[:, some])
                out[start + part.start : start + part.stop, some] = one[0].transpose(0, 1)
    return out


def parts(tokens: int, heads: int) -> list[tuple[slice, slice]]:
    """Heads and queries of a protein, in parts of seconds at most; of queries no part but the only one is shorter
    than `LONG`.
    """
    most = SCORES_OF_A_THREAD * torch.get_num_threads() // max(1, tokens)
    rows = max(LONG, most // heads // QUERIES * QUERIES)
    together = max(1, most // rows) if rows < tokens else heads
    starts = range(0, max(1, tokens - LONG + 1), rows)
    queries = [slice(start, start + rows) for start in starts[:-1]] + [slice(starts[-1], tokens)]
    return [(slice(head, head + together), part) for head in range(0, heads, together) for part in queries]


def attend_memory_efficient(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """The fused GPU kernel that takes FP32; PyTorch's nested tensors reach it by this operator too."""
    queries, keys, values = (tensor.unsqueeze(0) for tensor in qkv.unbind(1))  # [1, T, H, d]
    out, *_ = torch.ops.aten._efficient_attention_forward(
        queries, keys, values, None, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, 0
    )
    return out.squeeze(0)
