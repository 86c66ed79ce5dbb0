"""Attention over packed proteins: each token attends to its own protein, and nothing is padded.

Shapes: T tokens of N proteins, H heads, d dimensions of a head.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Softmax attention, scaled by 1 / sqrt(d), within each protein.

    `q`, `k`, `v`: ``[T, H, d]``. `cu_seqlens`: int32 ``[N + 1]`` on the same device, 0 and where each protein
    ends. `max_seqlen`: at least the tokens of the longest. Returns ``[T, H, d]``.

    The kernel follows from the device and the type alone: FlashAttention for FP16 and BF16 on a GPU, PyTorch's
    memory-efficient attention for FP32 there, and `scaled_dot_product_attention` protein by protein on the CPU.
    """
    if not q.is_cuda:
        return attend_one_by_one(q, k, v, cu_seqlens, max_seqlen)
    if q.dtype == torch.float32:
        return attend_memory_efficient(q, k, v, cu_seqlens, max_seqlen)
    return attend_flash(q, k, v, cu_seqlens, max_seqlen)


def attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """For the CPU, where a protein is work enough to fill the cores."""
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))  # [1, H, T, d]
    ends = cu_seqlens.tolist()
    for start, end in itertools.pairwise(ends):
        if start < end:
            own = (slice(None), slice(None), slice(start, end))
            one = F.scaled_dot_product_attention(q[own], k[own], v[own])
            out[start:end] = one[0].transpose(0, 1)
    return out


def attend_memory_efficient(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """The fused GPU kernel that takes FP32; PyTorch's nested tensors reach it by this operator too."""
    queries, keys, values = (tensor.unsqueeze(0) for tensor in (q, k, v))  # [1, T, H, d]
    out, *_ = torch.ops.aten._efficient_attention_forward(
        queries, keys, values, None, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, 0
    )
    return out.squeeze(0)


def attend_flash(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """FlashAttention's kernel for packed proteins, as PyTorch carries it (2.10 and newer)."""
    return flash_kernel()(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)


@functools.cache
def flash_kernel() -> Callable[..., Any]:
    """`varlen_attn`, set so that a protein's result does not depend on its pack where this PyTorch can be."""
    from torch.nn.attention.varlen import varlen_attn

    # Otherwise it may cut a protein's keys by how long the longest protein in the pack is.
    if "num_splits" in inspect.signature(varlen_attn).parameters:
        return functools.partial(varlen_attn, num_splits=1)
    return varlen_attn
