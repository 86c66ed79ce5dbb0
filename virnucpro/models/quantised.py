"""GEMMs of 8-bit numbers: weights with a scale for each output channel, activations with one for each token.

The definition, on every device, in FP32, every operation rounded to nearest even: for a row of a weight or of an
activation, ``a = max(max |row|, 2**-100)``, ``scale = a / limit``, ``value = round(x * (limit / a))``, with limit
127 (INT8) or 448 (e4m3). A row of zeros has scale 0; one with a NaN or an infinity has a scale that is not finite,
so that nothing computed from it is. A product is ``(sum of values * activation's scale) * weight's scale + bias``.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro.errors import DeviceError
from virnucpro.models.evening import even_out_
from virnucpro.models.linear import Linear, layer_norm, parameter

LIMITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest magnitude that each type is used for."""

SMALLEST_MAXIMUM = 2.0**-100
"""A row whose largest magnitude is smaller is quantised as if this were it: ``limit / a`` stays finite."""


class Quantised(NamedTuple):
    """`values` ``[T, K]`` of an 8-bit type with FP32 `scales` ``[T]``; they mean ``values * scales[:, None]``."""

    values: Tensor
    scales: Tensor


def quantise(x: Tensor, dtype: torch.dtype) -> Quantised:
    """`x` ``[T, K]`` in 8 bits, by plain operators. FP32 `x` is used as scratch space."""
    x = x.float()
    largest = torch.maximum(x.amax(-1), x.amin(-1).neg_())  # of magnitudes; NaN where there is one
    limit = torch.full_like(largest, LIMITS[dtype])  # a plain number would be divided by as a product
    at_least = largest.clamp_min(SMALLEST_MAXIMUM)
    scales = (at_least / limit).masked_fill_(largest == 0, 0.0)
    x = x.mul_((limit / at_least)[:, None])
    return Quantised((x.round_() if dtype == torch.int8 else x).to(dtype), scales)


class EightBitLinear(Linear):
    """What the 8-bit formats share: parameters and how they come from FP32.

    `weight` ``[outputs, inputs]`` of `format`, `weight_scales` FP32 ``[outputs]``, `bias` ``[outputs]`` in the
    type of the activations.
    """

    format: torch.dtype

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.weight = parameter(torch.empty(outputs, inputs, dtype=self.format))
        self.weight_scales = parameter(torch.empty(outputs))

    @staticmethod
    def prepare_(values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Even out outlier channels; see `evening`."""
        return even_out_(values)

    def load_(self, values: Tensor, bias: Tensor, dtype: torch.dtype, divisors: Tensor | None = None) -> None:
        """Quantise FP32 `values`, which are overwritten; `dtype` is the activations'."""
        self.divisors = None if divisors is None else parameter(divisors)
        quantised = quantise(values, self.format)
        self.weight, self.weight_scales = map(parameter, quantised)
        self.bias = parameter(bias.to(dtype))

    def plain_weight(self) -> Tensor:
        """The weight that `forward` stands for, in FP32."""
        return self.weight.float() * self.weight_scales[:, None]

    @classmethod
    def normed(cls, x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Quantised:  # type: ignore[override]
        """The layer norm of ``x + offset``, quantised."""
        if x.is_cuda:
            from virnucpro.models.kernels.quantise import layer_norm_quantised

            return Quantised(*layer_norm_quantised(x, offset, norm.weight, norm.bias, norm.eps, cls.format))
        return quantise(layer_norm(x, offset, norm), cls.format)

    @classmethod
    def operand(cls, x: Tensor) -> Quantised:  # type: ignore[override]
        """`x` ``[T, inputs]``, quantised; on the CPU it is used as scratch space."""
        if x.is_cuda:
            from virnucpro.models.kernels.quantise import quantise as quantise_on_gpu

            return Quantised(*quantise_on_gpu(x, cls.format))
        return quantise(x, cls.format)


class Int8Linear(EightBitLinear):
    """INT8 with sums in INT32: Triton kernels on a GPU, oneDNN's product (`torch._int_mm`) on the CPU."""

    format = torch.int8

    def load_(self, values: Tensor, bias: Tensor, dtype: torch.dtype, divisors: Tensor | None = None) -> None:
        """As `EightBitLinear.load_`; RuntimeError on a CPU whose INT8 products are wrong."""
        if values.device.type == "cpu":
            check_int8_products()
        super().load_(values, bias, dtype, divisors)

    def forward(self, x: Quantised) -> Tensor:  # type: ignore[override]
        """``[T, inputs]`` to ``[T, outputs]`` in the bias's type, with the bias."""
        if x.values.is_cuda:
            from virnucpro.models.kernels.gemm import int8_linear

            return int8_linear(*x, self.weight, self.weight_scales, self.bias, self.bias.dtype)
        product = self.row_scaled(x)
        return torch.addcmul(self.bias, product, self.weight_scales, out=product)

    def gelu(self, x: Quantised) -> Quantised:  # type: ignore[override]
        """GELU of `forward`, quantised: the tanh form in the GEMM's epilogue on a GPU, the erf form on the CPU."""
        if x.values.is_cuda:
            from virnucpro.models.kernels.gemm import int8_linear

            hidden = int8_linear(*x, self.weight, self.weight_scales, self.bias, self.bias.dtype, gelu=True)
            return self.operand(hidden)
        return quantise(torch.ops.aten.gelu_(self(x)), self.format)

    def add_to_(self, residual: Tensor, x: Quantised) -> None:  # type: ignore[override]
        """Add the product, without the bias, to `residual` ``[T, outputs]``."""
        if residual.is_cuda:
            from virnucpro.models.kernels.gemm import int8_add_

            int8_add_(residual, *x, self.weight, self.weight_scales)
        else:
            residual.addcmul_(self.row_scaled(x), self.weight_scales)

    def row_scaled(self, x: Quantised) -> Tensor:
        """The exact sums times each token's scale: FP32 ``[T, outputs]``."""
        sums = torch._int_mm(x.values, self.weight.t())
        product = sums.view(torch.float32).copy_(sums)  # in the same memory, number for number
        return product.mul_(x.scales[:, None])


@functools.cache
def check_int8_products() -> None:
    """Raise DeviceError unless `torch._int_mm` is exact here for the largest values.

    On CPUs without VNNI pairs of products were added in 16 bits, which saturate (PyTorch issue 136746).
    """
    signs = torch.randint(0, 2, (65, 352), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    left, right = 254 * signs.short() - 127, 127 * torch.ones(352, 48, dtype=torch.int16)
    right[:, ::2] = left[:24].t()
    sums = torch._int_mm(left.to(torch.int8), right.to(torch.int8).t().contiguous().t())
    if not torch.equal(sums.long(), left.long() @ right.long()):
        raise DeviceError(
            "PyTorch's INT8 products are wrong on this CPU (see PyTorch issue 136746): use another precision"
        )


class Fp8Linear(EightBitLinear):
    """e4m3, summed by the tensor cores, on a GPU of compute capability 8.9 or newer: PyTorch's `scaled_mm`."""

    format = torch.float8_e4m3fn

    def forward(self, x: Quantised) -> Tensor:  # type: ignore[override]
        """``[T, inputs]`` to BF16 ``[T, outputs]``, with the bias."""
        return self.product(x, self.bias.to(torch.bfloat16))

    def gelu(self, x: Quantised) -> Quantised:  # type: ignore[override]
        """GELU, the tanh form, of `forward`, quantised; the bias is added in FP32."""
        from virnucpro.models.kernels.quantise import gelu_quantised

        return Quantised(*gelu_quantised(self.product(x), self.bias, self.format))

    def add_to_(self, residual: Tensor, x: Quantised) -> None:  # type: ignore[override]
        """Add the product, without the bias, to `residual` ``[T, outputs]``, in a Triton kernel's epilogue."""
        from virnucpro.models.kernels.gemm import fp8_add_

        fp8_add_(residual, *x, self.weight, self.weight_scales)

    def product(self, x: Quantised, bias: Tensor | None = None) -> Tensor:
        """The library's GEMM: BF16 ``[T, outputs]``, which is all that it offers with a scale for each row."""
        a, b = x.values, self.weight.t()
        scales = x.scales[:, None], self.weight_scales[None]
        if hasattr(F, "scaled_mm"):
            row_wise = F.ScalingType.RowWise
            return F.scaled_mm(
                a, b, scales[0], row_wise, scales[1], row_wise,
                bias=bias, output_dtype=torch.bfloat16, use_fast_accum=True,
            )  # fmt: skip
        return torch._scaled_mm(a, b, *scales, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)
