"""Rotary position embedding (Su et al., arXiv:2104.09864), in FP32 whatever the model's precision.

Shapes: T tokens, H heads, d dimensions of a head.
"""

import torch
from torch import Tensor

Frequencies = tuple[float, ...]
"""How fast each pair of a head's dimensions turns, radians a position: d / 2 numbers that FP32 holds exactly."""


def exact_frequencies(head_dim: int, base: float = 10_000.0) -> Frequencies:
    """``base ** (-2 i / d)`` in FP32, as fair-esm and Transformers compute it where a checkpoint stores none."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return tuple((1.0 / base**exponents).tolist())


def rotary_tables(length: int, frequencies: Frequencies, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles, FP32 ``[length, d / 2]``, one row a position."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    angles = places[:, None] * torch.tensor(frequencies, device=device, dtype=torch.float32)
    return angles.cos(), angles.sin()


class RotaryTables:
    """The tables of a model's frequencies, computed once for a device, and longer when a longer protein comes."""

    def __init__(self, frequencies: Frequencies):
        self.frequencies = frequencies
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tables ``[at least length, head_dim / 2]``."""
        tables = self._tables.get(device)
        if tables is None or len(tables[0]) < length:
            longer = max(1024, 1 << (length - 1).bit_length())
            with torch.inference_mode(False):  # what inference mode makes cannot be used outside of it
                tables = self._tables[device] = rotary_tables(longer, self.frequencies, device)
        return tables


def rotate_(qkv: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate queries and keys in place.

    `qkv`: ``[T, 3, H, d]``, contiguous, any floating type; values are left alone. `positions`: ``[T]``, the place
    of each token in its protein. `cos`, `sin`: FP32 ``[length, d / 2]``. Returns `qkv`.
    """
    if qkv.is_cuda:
        from virnucpro.models import kernels  # Triton comes with PyTorch's CUDA builds only

        return kernels.rotate_(qkv, positions, cos, sin)
    cos, sin = cos[positions, None, None], sin[positions, None, None]  # [T, 1, 1, d / 2]
    first, second = qkv[:, :2].float().chunk(2, dim=-1)
    turned_first = (first * cos).addcmul_(second, sin, value=-1)
    turned_second = (second * cos).addcmul_(first, sin)
    half = qkv.shape[-1] // 2
    qkv[:, :2, :, :half] = turned_first
    qkv[:, :2, :, half:] = turned_second
    return qkv
