"""GEMMs of 8-bit numbers: weights with a scale for each output channel, activations with one for each token.

INT8 keeps the few input channels that stand out apart (`apart` finds them): they count as 0 in both operands, and
are written, over the scales, as two BF16 numbers each, whose products are added to the sums (`digits_of`).

The definition, on every device, in FP32, every operation rounded to nearest even: for a row of a weight or of an
activation, ``a = max(max |row|, 2**-100)``, ``scale = a / limit``, ``value = round(x * (limit / a))``, with limit
127 (INT8) or 448 (e4m3). A row of zeros has scale 0; one with a NaN or an infinity has a scale that is not finite,
so that nothing computed from it is. A product is
``((sum of values + sum of digits) * activation's scale) * weight's scale + bias``.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro.errors import DeviceError
from virnucpro.models.linear import Linear, layer_norm, parameter

LIMITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest magnitude that each type is used for."""

SMALLEST_MAXIMUM = 2.0**-100
"""A row whose largest magnitude is smaller is quantised as if this were it: ``limit / a`` stays finite."""

SMALLEST_BESIDE = 2.0**-40
"""The same beside channels apart: those over the scale must be finite, too. A row of zeros gets its scale."""

FOUR = 4
"""So many channels at a time kernels take, as 16 digits; the digits of what is filled up are 0."""


class Quantised(NamedTuple):
    """`values` ``[T, K]`` of an 8-bit type with FP32 `scales` ``[T]``; they mean ``values * scales[:, None]``.

    `apart`: the channels apart over the scales, FP32 ``[T, A]``, or from a kernel their digits; None without any.
    """

    values: Tensor
    scales: Tensor
    apart: Tensor | None = None


def quantise(x: Tensor, dtype: torch.dtype, apart: Tensor | None = None) -> Quantised:
    """`x` ``[T, K]`` in 8 bits, by plain operators. FP32 `x` is used as scratch space.

    `apart`: int64 ``[A]``, the channels to keep apart.
    """
    x = x.float()
    aside = None
    if apart is not None:
        aside = x[:, apart]
        x.index_fill_(1, apart, 0.0)
    largest = torch.maximum(x.amax(-1), x.amin(-1).neg_())  # of magnitudes; NaN where there is one
    limit = torch.full_like(largest, LIMITS[dtype])  # a plain number would be divided by as a product
    at_least = largest.clamp_min(SMALLEST_MAXIMUM if aside is None else SMALLEST_BESIDE)
    scales, inverse = at_least / limit, (limit / at_least)[:, None]
    if aside is None:
        scales.masked_fill_(largest == 0, 0.0)
    x = x.mul_(inverse)
    values = (x.round_() if dtype == torch.int8 else x).to(dtype)
    return Quantised(values, scales, None if aside is None else aside.mul_(inverse))


def digits_of(x: Tensor, of_weight: bool, together: int = FOUR) -> Tensor:
    """FP32 ``[R, A]`` as BF16 ``[R, 4 A]``: high, high, low, low; of a weight high, low, high, low.

    ``high + low`` is the number up to 2^-16 of it: a row times a weight's row is the product of the numbers. So
    many channels stand `together`; the last ones are filled up with 0.
    """
    x = F.pad(x, (0, -x.shape[1] % together))
    high = x.bfloat16()
    low = (x - high.float()).bfloat16()
    order = (high, low, high, low) if of_weight else (high, high, low, low)
    return torch.stack([part.unflatten(1, (-1, together)) for part in order], dim=2).flatten(1)


class EightBitLinear(Linear):
    """What the 8-bit formats share: parameters and how they come from FP32.

    `weight` ``[outputs, inputs]`` of `format`, `weight_scales` FP32 ``[outputs]``, `bias` ``[outputs]`` in the
    type of the activations.
    """

    format: torch.dtype

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.weight = parameter(torch.empty(outputs, inputs, dtype=self.format))
        self.weight_scales = parameter(torch.empty(outputs, dtype=torch.float32))

    def load_(self, values: Tensor, bias: Tensor, dtype: torch.dtype, apart: Sequence[int] = ()) -> None:
        """Quantise FP32 `values`, which are overwritten; `dtype` is the activations'."""
        quantised = quantise(values, self.format)
        self.weight, self.weight_scales = parameter(quantised.values), parameter(quantised.scales)
        self.bias = parameter(bias.to(dtype))

    def plain_weight(self) -> Tensor:
        """The weight that `forward` stands for, in FP32."""
        return self.weight.float() * self.weight_scales[:, None]

    def normed(self, x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Quantised:  # type: ignore[override]
        """The layer norm of ``x + offset``, quantised."""
        if x.is_cuda:
            from virnucpro.models.kernels.quantise import layer_norm_quantised

            return Quantised(*layer_norm_quantised(x, offset, norm.weight, norm.bias, norm.eps, self.format))
        return quantise(layer_norm(x, offset, norm), self.format)

    def operand(self, x: Tensor | Quantised) -> Quantised:  # type: ignore[override]
        """`x` ``[T, inputs]``, quantised, if `gelu` has not done it; on the CPU it is used as scratch space."""
        if isinstance(x, Quantised):
            return x
        if x.is_cuda:
            from virnucpro.models.kernels.quantise import quantise as quantise_on_gpu

            return Quantised(*quantise_on_gpu(x, self.format))
        return quantise(x, self.format)


class Int8Linear(EightBitLinear):
    """INT8 with sums in INT32: Triton kernels on a GPU, oneDNN's product (`torch._int_mm`) on the CPU.

    `channels`: int64, the input channels apart. Where there are some, `digits` ``[outputs, 4 A]`` are their
    weights over the scales, and `weight` is 0 there. `kept` ``[inputs]`` and `places` say the same to kernels,
    `columns` are the digits for the CPU, FP32 ``[4 A, outputs]``.
    """

    format = torch.int8
    channels: Tensor
    kept: Tensor
    places: Tensor
    columns: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.register_buffer("channels", torch.empty(0, dtype=torch.int64))
        self.register_parameter("digits", None)
        self._zeroed: tuple[Tensor, Tensor] | None = None

    def load_(self, values: Tensor, bias: Tensor, dtype: torch.dtype, apart: Sequence[int] = ()) -> None:
        """As `EightBitLinear.load_`, with the channels `apart`; RuntimeError on a CPU with wrong INT8 products."""
        if values.device.type == "cpu":
            check_int8_products()
        self.channels = torch.tensor(sorted(apart), dtype=torch.int64, device=values.device)
        if not apart:
            super().load_(values, bias, dtype)
            return
        inputs = values.shape[1]
        quantised = quantise(values, self.format, self.channels)
        assert quantised.apart is not None
        self.weight, self.weight_scales = parameter(quantised.values), parameter(quantised.scales)
        self.digits = parameter(digits_of(quantised.apart, True))
        self.bias = parameter(bias.to(dtype))
        kept = torch.ones(inputs, dtype=torch.float16, device=values.device).index_fill_(0, self.channels, 0.0)
        places = F.pad(self.channels.int(), (0, -len(apart) % FOUR), value=-1)
        columns = digits_of(quantised.apart, True, len(apart)).float().t().contiguous()
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def plain_weight(self) -> Tensor:
        """The weight that `forward` stands for, in FP32."""
        plain = super().plain_weight()
        if self.digits is not None:
            digits = self.digits.float().unflatten(1, (-1, 4, FOUR))
            aside = (digits[:, :, 0] + digits[:, :, 1]).flatten(1) * self.weight_scales[:, None]
            plain[:, self.channels] = aside[:, : len(self.channels)]
        return plain

    def normed(self, x: Tensor, offset: Tensor, norm: nn.LayerNorm) -> Quantised:  # type: ignore[override]
        """The layer norm of ``x + offset``, quantised."""
        if self.digits is None:
            return super().normed(x, offset, norm)
        if not x.is_cuda:
            return quantise(layer_norm(x, offset, norm), self.format, self.channels)
        from virnucpro.models.kernels.quantise import layer_norm_quantised

        if self._zeroed is None:  # the norm's gain and bias, so that it gives the zeros by itself
            with torch.inference_mode(False), torch.no_grad():
                self._zeroed = norm.weight * self.kept, norm.bias * self.kept
        return Quantised(
            *layer_norm_quantised(
                x, offset, norm.weight, norm.bias, norm.eps, self.format, apart=(*self._zeroed, self.places)
            )
        )

    def operand(self, x: Tensor | Quantised) -> Quantised:  # type: ignore[override]
        """`x` ``[T, inputs]``, quantised; on the CPU it is used as scratch space."""
        if self.digits is None or isinstance(x, Quantised):
            return super().operand(x)
        if not x.is_cuda:
            return quantise(x, self.format, self.channels)
        from virnucpro.models.kernels.quantise import quantise_apart

        return Quantised(*quantise_apart(x, self.kept, self.places))

    def forward(self, x: Quantised) -> Tensor:  # type: ignore[override]
        """``[T, inputs]`` to ``[T, outputs]`` in the bias's type, with the bias."""
        if x.values.is_cuda:
            return self.on_gpu(x, gelu=False)
        product = self.row_scaled(x)
        return torch.addcmul(self.bias, product, self.weight_scales, out=product)

    def gelu(self, x: Quantised) -> Tensor:  # type: ignore[override]
        """GELU of `forward`: the tanh form in the GEMM's epilogue on a GPU, the erf form on the CPU."""
        if x.values.is_cuda:
            return self.on_gpu(x, gelu=True)
        gelu: Tensor = torch.ops.aten.gelu_(self(x))
        return gelu

    def add_to_(self, residual: Tensor, x: Quantised) -> None:  # type: ignore[override]
        """Add the product, without the bias, to `residual` ``[T, outputs]``."""
        if residual.is_cuda:
            from virnucpro.models.kernels.gemm import int8_add_

            int8_add_(residual, x.values, x.scales, self.weight, self.weight_scales, self.both(x))
        else:
            residual.addcmul_(self.row_scaled(x), self.weight_scales)

    def on_gpu(self, x: Quantised, gelu: bool) -> Tensor:
        """`forward`, or the tanh form of its GELU, by a kernel."""
        from virnucpro.models.kernels.gemm import int8_linear

        weight = self.weight, self.weight_scales
        return int8_linear(x.values, x.scales, *weight, self.bias, self.bias.dtype, gelu, self.both(x))

    def both(self, x: Quantised) -> tuple[Tensor, Tensor] | None:
        """The digits of an operand and of the weight; None where no channel is apart."""
        return None if self.digits is None or x.apart is None else (x.apart, self.digits)

    def row_scaled(self, x: Quantised) -> Tensor:
        """The sums times each token's scale: FP32 ``[T, outputs]``."""
        sums = torch._int_mm(x.values, self.weight.t())
        product = sums.view(torch.float32).copy_(sums)  # in the same memory, number for number
        if x.apart is not None:  # exact however FP32 products are computed: BF16 holds the digits
            product.addmm_(digits_of(x.apart, False, len(self.channels)).float(), self.columns)
        return product.mul_(x.scales[:, None])


@functools.cache
def check_int8_products() -> None:
    """Raise DeviceError unless `torch._int_mm` is exact here for the largest values.

    On CPUs without VNNI pairs of products were added in 16 bits, which saturate (PyTorch issue 136746).
    """
    generator = torch.Generator("cpu").manual_seed(0)
    signs = torch.randint(0, 2, (65, 352), generator=generator, dtype=torch.int8, device="cpu")
    left, right = 254 * signs.short() - 127, 127 * torch.ones(352, 48, dtype=torch.int16, device="cpu")
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

        fp8_add_(residual, x.values, x.scales, self.weight, self.weight_scales)

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
