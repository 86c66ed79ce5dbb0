"""Attention over packed proteins: each token attends to its own protein, and nothing is padded.

Shapes: T tokens of N proteins, H heads, d dimensions of a head.
"""

import functools
import itertools
import math
import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from virnucpro.models.float32_mode import current_mode, float32_products
from virnucpro.models.rotary import rotate_

Rotary = tuple[Tensor, Tensor, Tensor]
"""Each token's place in its protein, int32 ``[T]``, and the tables of cosines and sines by place."""


SCORES_AT_A_TIME = 2**20
"""Scores that `attend_in_bf16` holds, twice: 4 MiB each. A quarter as many made it 10 to 15 % slower."""


def attend(qkv: Tensor, rotary: Rotary, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Rotary positions, and softmax attention, scaled by 1 / sqrt(d), within each protein.

    `qkv`: queries, keys and values, ``[T, 3, H, d]``, contiguous; changed in place. `cu_seqlens`: int32
    ``[N + 1]`` on the same device, 0 and where each protein ends. `max_seqlen`: at least the tokens of the
    longest. Returns ``[T, H, d]``.

    The kernel follows from the device, the type and the mode of FP32 products alone: virnucpro's own for FP16 and
    BF16 on a GPU, PyTorch's memory-efficient attention for FP32 there. On the CPU, protein by protein,
    `attend_in_bf16` where BF16 is native and allowed (in BF16, and in FP32 where `float32_products` says so), else
    `scaled_dot_product_attention`.
    """
    if qkv.is_cuda and qkv.dtype != torch.float32:
        from virnucpro.models import kernels  # Triton comes with PyTorch's CUDA builds only

        return kernels.attend(qkv, *rotary, cu_seqlens, max_seqlen)
    rotate_(qkv, *rotary)
    if qkv.is_cuda:
        return attend_memory_efficient(qkv, cu_seqlens, max_seqlen)
    in_bf16 = qkv.dtype == torch.bfloat16 or (qkv.dtype == torch.float32 and current_mode() == "bf16")
    if in_bf16 and has_bf16():
        return attend_in_bf16(qkv, cu_seqlens)
    return attend_one_by_one(qkv, cu_seqlens)


@functools.cache
def has_bf16() -> bool:
    """Whether this CPU multiplies BF16 natively, and PyTorch was built with the library that does."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


WIDTHS = 16
"""`attend_in_bf16` fills proteins up to a multiple of so many tokens.

oneDNN compiles code for each shape of a product, half a MiB and more, and keeps that of 1,024. Proteins of fewer
than twice as many tokens stay as they are: they have few shapes, and filling them up would cost most.
"""

MOST_KEPT = 2**24  # values, 64 MiB

_kept = threading.local()


def room_for(use: str, *shape: int) -> Tensor:
    """FP32 scratch space, kept for this thread: the system would clear new memory for every layer.

    What is larger than `MOST_KEPT` is not kept.
    """
    size = math.prod(shape)
    if size > MOST_KEPT:
        return torch.empty(shape)
    room: Tensor | None = getattr(_kept, use, None)
    if room is None or len(room) < size:
        setattr(_kept, use, None)  # not both at a time
        with torch.inference_mode(False):
            room = torch.empty(size)
        setattr(_kept, use, room)
    return room[:size].view(shape)


def attend_in_bf16(qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
    """For CPUs with BF16: operands are rounded to it, scores and sums are FP32.

    The GEMMs of short heads are too small for PyTorch's fused kernel, which asks for many of a few rows; here one
    call takes all heads of a protein, as far as their scores stay in the cache.
    """
    wide, places = widened(qkv, cu_seqlens)
    q, k, v = wide.permute(1, 2, 0, 3)  # [H, tokens, d]
    q.mul_(q.shape[-1] ** -0.5)
    heads = len(q)
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    out_by_head = out.transpose(0, 1)
    with float32_products("bf16"):
        for start, length, begin, width in places:
            keys, values = k[:, begin : begin + width].transpose(1, 2), v[:, begin : begin + width]
            at_once = min(width, max(WIDTHS, SCORES_AT_A_TIME // width // WIDTHS * WIDTHS))
            together = max(1, SCORES_AT_A_TIME // (at_once * width))
            for head, row in itertools.product(range(0, heads, together), range(0, length, at_once)):
                some = slice(head, head + together)
                queries = q[some, begin + row : begin + min(row + at_once, width)]
                shape = (*queries.shape[:2], width)
                scores, weights = room_for("scores", 2, *shape)
                torch.bmm(queries, keys[some], out=scores)
                if length < width:
                    scores[:, :, length:].fill_(-math.inf)
                torch._softmax(scores, -1, False, out=weights)
                real = min(at_once, length - row)
                attended = torch.bmm(weights, values[some])[:, :real]
                out_by_head[some, start + row : start + row + real] = attended
    return out


def widened(qkv: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, list[list[int]]]:
    """FP32 `qkv` with zeros behind each protein, so that its width is a multiple of `WIDTHS`.

    Proteins of fewer than ``2 * WIDTHS`` tokens stay as they are. Returns ``[sum of widths, 3, H, d]``, and for
    each protein that has tokens ``[start, length, begin, width]``: where it is in `qkv` and where in the result.
    """
    lengths = cu_seqlens.diff().long()
    widths = torch.where(lengths < 2 * WIDTHS, lengths, (lengths + WIDTHS - 1) // WIDTHS * WIDTHS)
    starts, begins = cu_seqlens[:-1].long(), widths.cumsum(0) - widths
    rows = torch.arange(len(qkv)) + torch.repeat_interleave(begins - starts, lengths, output_size=len(qkv))
    wide = room_for("qkv", int(widths.sum()), *qkv.shape[1:])
    behind = torch.ones(len(wide), dtype=torch.bool).index_fill_(0, rows, False).nonzero()[:, 0]
    wide.index_copy_(0, rows, qkv.float()).index_fill_(0, behind, 0.0)
    return wide, torch.stack((starts, lengths, begins, widths), dim=1)[lengths > 0].tolist()


def attend_one_by_one(qkv: Tensor, cu_seqlens: Tensor) -> Tensor:
    """For the CPU, where a protein is work enough to fill the cores."""
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    q, k, v = qkv.permute(1, 2, 0, 3)[:, None]  # [1, H, T, d]
    for start, end in itertools.pairwise(cu_seqlens.tolist()):
        if start < end:
            own = (slice(None), slice(None), slice(start, end))
            one = F.scaled_dot_product_attention(q[own], k[own], v[own])
            out[start:end] = one[0].transpose(0, 1)
    return out


def attend_memory_efficient(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """The fused GPU kernel that takes FP32; PyTorch's nested tensors reach it by this operator too."""
    queries, keys, values = (tensor.unsqueeze(0) for tensor in qkv.unbind(1))  # [1, T, H, d]
    out, *_ = torch.ops.aten._efficient_attention_forward(
        queries, keys, values, None, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, 0
    )
    return out.squeeze(0)
