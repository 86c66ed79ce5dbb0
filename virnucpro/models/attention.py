"""Attention over packed proteins: each token attends to its own protein, and nothing is padded.

Shapes: T tokens of N proteins, H heads, d dimensions of a head.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from virnucpro.models.rotary import rotate_

Rotary = tuple[Tensor, Tensor, Tensor]
"""Each token's place in its protein, int32 ``[T]``, and the tables of cosines and sines by place."""


def attend(qkv: Tensor, rotary: Rotary, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Rotary positions, and softmax attention, scaled by 1 / sqrt(d), within each protein.

    `qkv`: queries, keys and values, ``[T, 3, H, d]``, contiguous; changed in place. `cu_seqlens`: int32
    ``[N + 1]`` on the same device, 0 and where each protein ends. `max_seqlen`: at least the tokens of the
    longest. Returns ``[T, H, d]``.

    The kernel follows from the device and the type alone: virnucpro's own for FP16 and BF16 on a GPU, PyTorch's
    memory-efficient attention for FP32 there, and `scaled_dot_product_attention` protein by protein on the CPU.
    """
    if qkv.is_cuda and qkv.dtype != torch.float32:
        from virnucpro.models import kernels  # Triton comes with PyTorch's CUDA builds only

        return kernels.attend(qkv, *rotary, cu_seqlens, max_seqlen)
    rotate_(qkv, *rotary)
    if qkv.is_cuda:
        return attend_memory_efficient(qkv, cu_seqlens, max_seqlen)
    return attend_one_by_one(qkv, cu_seqlens)


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
