"""A layer's four GEMMs, in one number format for each class.

A format decides what its GEMMs take (`normed`), and how bias, GELU and the residual are added to their results.
The encoder knows these four methods only, so a new number format is a new class here and an entry in `FORMATS`.
Shapes: T tokens, `inputs` and `outputs` of the layer.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """``x W' + b`` in the type of the weights: FP32, TF32 (where the process says so), BF16 or FP16.

    `weight` ``[outputs, inputs]`` and `bias` ``[outputs]`` have the type of the activations.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False)

    @staticmethod
    def normed(x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The layer norm of ``x + offset`` as `forward` and `gelu` take it; see `layer_norm`."""
        return layer_norm(x, offset, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``[T, inputs]`` to ``[T, outputs]``, with the bias."""
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of `forward`, as `add_to_` takes it.

        The exact erf form, as fair-esm's, but for FP16 and BF16 on a GPU: there the epilogue of cuBLASLt's GEMM
        computes the tanh form before the result is rounded. That rounding, saved, was worth more than the forms'
        difference: see docs/engine.md. (Where PyTorch is told not to use cuBLASLt it rounds, and computes tanh.)
        """
        if x.is_cuda and x.dtype != torch.float32:
            return torch._addmm_activation(self.bias, x, self.weight.t(), use_gelu=True)
        return torch.ops.aten.gelu_(self(x))

    def add_to_(self, residual: Tensor, x: Tensor) -> None:
        """Add ``x W'``, without the bias, to `residual` ``[T, outputs]`` in the GEMM's own epilogue."""
        residual.addmm_(x, self.weight.t())


FORMATS: Mapping[str, type[Linear]] = MappingProxyType({"native": Linear})
"""Number format, as `Precision.matmul` names it, to the class that computes in it."""


def layer_norm(x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The layer norm of ``x + offset``, computed in FP32; `x` ``[T, D]``, `offset` FP32 ``[D]``."""
    if x.is_cuda:
        from virnucpro.models import kernels  # Triton comes with PyTorch's CUDA builds only

        return kernels.layer_norm(x, offset, norm.weight, norm.bias, norm.eps)
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(x + offset, norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)
