"""A layer's four GEMMs, in one number format for each class.

A format decides how weights are stored, what its GEMMs take (`normed`, `operand`), and how bias, GELU and the
residual are added to their results. The encoder knows these methods only, so a new number format is a subclass of
`Linear` and an entry in `formats.FORMATS`.
Shapes: T tokens, `inputs` and `outputs` of the layer.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """``x W' + b`` in the type of the weights: FP32, TF32 (where the process says so), BF16 or FP16.

    `weight` ``[outputs, inputs]`` and `bias` ``[outputs]`` have the type of the activations.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = parameter(torch.empty(outputs, inputs, dtype=torch.float32))
        self.bias = parameter(torch.empty(outputs, dtype=torch.float32))

    def load_(self, values: Tensor, bias: Tensor, dtype: torch.dtype, apart: Sequence[int] = ()) -> None:
        """Store the FP32 weight `values`; `dtype` is the activations'. `apart` is INT8's."""
        self.weight, self.bias = parameter(values.to(dtype)), parameter(bias.to(dtype))

    def plain_weight(self) -> Tensor:
        """The weight that `forward` stands for."""
        return self.weight

    def normed(self, x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The layer norm of ``x + offset`` as `forward` and `gelu` take it; see `layer_norm`."""
        return layer_norm(x, offset, norm)

    def operand(self, x: Tensor) -> Tensor:
        """`x` ``[T, inputs]``, which has not come out of `normed`, as `add_to_` takes it."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """``[T, inputs]`` to ``[T, outputs]``, with the bias."""
        if by_onednn(x):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of `forward`, as the next GEMM's `operand` takes it.

        The exact erf form, as fair-esm's, but for FP16 and BF16 on a GPU: there the epilogue of cuBLASLt's GEMM
        computes the tanh form before the result is rounded. That rounding, saved, was worth more than the forms'
        difference: see docs/engine.md. (Where PyTorch is told not to use cuBLASLt it rounds, and computes tanh.)
        """
        if x.is_cuda and x.dtype != torch.float32:
            return torch._addmm_activation(self.bias, x, self.weight.t(), use_gelu=True)
        if by_onednn(x):
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return torch.ops.aten.gelu_(self(x))

    def add_to_(self, residual: Tensor, x: Tensor) -> None:
        """Add ``x W'``, without the bias, to `residual` ``[T, outputs]``, in the GEMM's epilogue if it can."""
        if by_onednn(x):
            residual.add_(torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], ""))
        else:
            residual.addmm_(x, self.weight.t())


def parameter(values: Tensor) -> nn.Parameter:
    """`values` as a parameter for inference."""
    return nn.Parameter(values, requires_grad=False)


def by_onednn(x: Tensor) -> bool:
    """Whether oneDNN computes a GEMM of `x` and its epilogue: FP32 on CPUs.

    PyTorch itself asks MKL, which is half as fast on AMD; with BF16 and FP16 it asks oneDNN, too.
    """
    return x.device.type == "cpu" and x.dtype == torch.float32 and has_onednn()


@functools.cache
def has_onednn() -> bool:
    """Whether this PyTorch was built with oneDNN."""
    return torch.backends.mkldnn.is_available()


def layer_norm(x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The layer norm of ``x + offset``, computed in FP32; `x` ``[T, D]``, `offset` FP32 ``[D]``."""
    if x.is_cuda:
        from virnucpro.models import kernels  # Triton comes with PyTorch's CUDA builds only

        return kernels.layer_norm(x, offset, norm.weight, norm.bias, norm.eps)
    weight, bias = norm.weight.float(), norm.bias.float()
    return F.layer_norm(x + offset, norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)
