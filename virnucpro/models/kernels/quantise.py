"""Triton kernels that quantise activations to INT8 or FP8 (e4m3), symmetrically, with a scale for each token.

A token's values are quantised in the pass that produces them: after a layer norm, after GELU, or by themselves.
The definition, in FP32, every operation rounded to nearest even and none fused:

    a = max(max |row|, 2**-100);  scale = a / limit;  value = round(x * (limit / a))

with limit 127 (INT8) or 448 (FP8). The quotient limit / a is a true one: ``torch.div`` of two tensors, where
``127 / tensor`` would be 127 times the reciprocal, whose last bit differs. A row of zeros has scale 0. One with a
NaN or an infinity has a scale that is NaN or infinite, so whatever is computed from it is not finite either.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LIMITS = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""The largest magnitude that each type is used for. INT8's -128 never occurs."""

SMALLEST_MAXIMUM = 2.0**-100
"""A row whose largest magnitude is smaller, but not 0, is quantised as if this were it: limit / a stays finite."""

SMALLEST_MAXIMUM_BITS = tl.constexpr((127 - 100) << 23)
SMALLEST_BESIDE_BITS = tl.constexpr((127 - 40) << 23)
"""The same beside channels apart, which over the scale must be finite; a row of zeros gets its scale."""
ROUNDER = tl.constexpr(1.5 * 2.0**23)  # adding it leaves an FP32 number's nearest integer in the lowest bits
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """tanh by the GPU's own instruction (relative error 2**-11); the interpreter has none."""
    if INTERPRETED:
        return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    else:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def gelu(x):  # type: ignore[no-untyped-def]
    """GELU, tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415), in FP32."""
    half = 0.5 * x
    return half + half * tanh(x * (0.7978845608028654 + 0.035677408136300125 * (x * x)))


@triton.jit
def magnitude(x):  # type: ignore[no-untyped-def]
    """The bits of \\|x\\|, which order as \\|x\\| does, with infinity above all numbers and NaN above infinity."""
    return tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)


@triton.jit
def quantised(x, inverse, TYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """x * inverse, rounded to nearest even, as `TYPE`."""
    scaled = x * inverse[:, None]
    if TYPE.is_int():
        return (scaled + ROUNDER).to(tl.int32, bitcast=True).to(TYPE)  # the lowest byte
    else:
        return scaled.to(TYPE)


@triton.jit
def store_quantised(  # type: ignore[no-untyped-def]
    first, second, values, scales, row, rows, LIMIT: tl.constexpr, APART: tl.constexpr,
    DIM: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """Quantise and store rows whose first `HEAD` columns are `first` and whose others are `second`.

    Returns what they were multiplied by.
    """
    bits = magnitude(first)
    if TAIL:
        bits = tl.maximum(bits, magnitude(second))
    if APART:
        largest = tl.maximum(bits, SMALLEST_BESIDE_BITS).to(tl.float32, bitcast=True)
        scale = tl.div_rn(largest, LIMIT)
    else:
        largest = tl.maximum(bits, SMALLEST_MAXIMUM_BITS).to(tl.float32, bitcast=True)
        scale = tl.where(bits == 0, 0.0, tl.div_rn(largest, LIMIT))
    inverse = tl.div_rn(LIMIT, largest)
    tl.store(scales + row, scale, mask=row < rows)
    column = tl.arange(0, HEAD)[None, :]
    place = values + row.to(tl.int64)[:, None] * DIM
    TYPE: tl.constexpr = values.dtype.element_ty
    tl.store(place + column, quantised(first, inverse, TYPE), mask=(row < rows)[:, None])
    if TAIL:
        column = HEAD + tl.arange(0, TAIL)[None, :]
        kept = (row < rows)[:, None] & (column < DIM)
        tl.store(place + column, quantised(second, inverse, TYPE), mask=kept)
    return inverse


@triton.jit
def apart_of(x, channels, row, DIM: tl.constexpr, APART: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of one row the channels apart, each four of them four times, in FP32 ``[1, 4 APART]``.

    Also their numbers, and where there are some; elsewhere it is 0.
    """
    digit = tl.arange(0, 4 * APART)
    channel = tl.load(channels + digit // 16 * 4 + digit % 4)[None, :]
    there = channel >= 0
    return (
        tl.load(x + row.to(tl.int64)[:, None] * DIM + channel, mask=there, other=0.0).to(tl.float32),
        channel,
        there,
    )


@triton.jit
def store_digits(digits, y, inverse, row, APART: tl.constexpr):  # type: ignore[no-untyped-def]
    """y, from `apart_of`, over the scale, of each four as high, high, low, low: high + low is the number."""
    y = y * inverse[:, None]
    high = y.to(tl.bfloat16)
    low = (y - high.to(tl.float32)).to(tl.bfloat16)
    digit = tl.arange(0, 4 * APART)[None, :]
    tl.store(digits + row.to(tl.int64)[:, None] * (4 * APART) + digit, tl.where(digit % 16 < 8, high, low))


@triton.jit
def load_columns(  # type: ignore[no-untyped-def]
    x, row, rows, DIM: tl.constexpr, START: tl.constexpr, WIDTH: tl.constexpr
):
    """`WIDTH` columns of rows of `DIM` from column `START` on, in FP32; 0 where there are none."""
    column = START + tl.arange(0, WIDTH)[None, :]
    kept = (row < rows)[:, None] & (column < DIM)
    return tl.load(x + row.to(tl.int64)[:, None] * DIM + column, mask=kept, other=0.0).to(tl.float32)


@triton.jit
def load_vector(v, DIM: tl.constexpr, START: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """`WIDTH` elements of a vector of `DIM` from `START` on, in FP32, as a row."""
    column = START + tl.arange(0, WIDTH)
    return tl.load(v + column, mask=column < DIM, other=0.0).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["rows"])
def quantise_kernel(  # type: ignore[no-untyped-def]
    x, bias, values, scales, rows, kept, channels, digits,
    LIMIT: tl.constexpr, GELU: tl.constexpr, BIAS: tl.constexpr, APART: tl.constexpr,
    DIM: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`ROWS` rows: quantise x, or GELU(x), or GELU(x + bias); x with `APART` channels apart, 0 in `kept`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = load_columns(x, row, rows, DIM, 0, HEAD)
    second = first
    if TAIL:
        second = load_columns(x, row, rows, DIM, HEAD, TAIL)
    if BIAS:
        first += load_vector(bias, DIM, 0, HEAD)
        if TAIL:
            second += load_vector(bias, DIM, HEAD, TAIL)
    if GELU:
        first = gelu(first)
        if TAIL:
            second = gelu(second)
    if APART:
        tl.static_assert(ROWS == 1 and not GELU and not BIAS)
        first *= load_vector(kept, DIM, 0, HEAD)
        if TAIL:
            second *= load_vector(kept, DIM, HEAD, TAIL)
    inverse = store_quantised(first, second, values, scales, row, rows, LIMIT, APART, DIM, HEAD, TAIL)
    if APART:
        y, _, _ = apart_of(x, channels, row, DIM, APART)
        store_digits(digits, y, inverse, row, APART)


@triton.jit(do_not_specialize=["rows"])
def layer_norm_kernel(  # type: ignore[no-untyped-def]
    x, added, offset, weight, bias, values, scales, rows, eps, gain, shift, channels, digits,
    LIMIT: tl.constexpr, ADDED: tl.constexpr, APART: tl.constexpr,
    DIM: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`ROWS` rows: x += added, if there is any; then quantise the layer norm of x + offset.

    With `APART` channels apart `weight` and `bias` are 0 there, and the norm's own are `gain` and `shift`.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = load_columns(x, row, rows, DIM, 0, HEAD)
    second = first
    if TAIL:
        second = load_columns(x, row, rows, DIM, HEAD, TAIL)
    if ADDED:
        first = (first + load_columns(added, row, rows, DIM, 0, HEAD)).to(x.dtype.element_ty)
        place = x + row.to(tl.int64)[:, None] * DIM
        tl.store(place + tl.arange(0, HEAD)[None, :], first, mask=(row < rows)[:, None])
        first = first.to(tl.float32)
        if TAIL:
            second = (second + load_columns(added, row, rows, DIM, HEAD, TAIL)).to(x.dtype.element_ty)
            column = HEAD + tl.arange(0, TAIL)[None, :]
            tl.store(place + column, second, mask=(row < rows)[:, None] & (column < DIM))
            second = second.to(tl.float32)
    first += load_vector(offset, DIM, 0, HEAD)
    total = tl.sum(first, axis=1)
    if TAIL:
        second += load_vector(offset, DIM, HEAD, TAIL)
        total += tl.sum(second, axis=1)
    mean = (total / DIM)[:, None]
    first -= mean
    squares = tl.sum(first * first, axis=1)
    if TAIL:
        second = tl.where((HEAD + tl.arange(0, TAIL) < DIM)[None, :], second - mean, 0.0)
        squares += tl.sum(second * second, axis=1)
    shrink = (1.0 / tl.sqrt(squares / DIM + eps))[:, None]
    first = first * shrink * load_vector(weight, DIM, 0, HEAD) + load_vector(bias, DIM, 0, HEAD)
    if TAIL:
        second = second * shrink * load_vector(weight, DIM, HEAD, TAIL) + load_vector(bias, DIM, HEAD, TAIL)
    inverse = store_quantised(first, second, values, scales, row, rows, LIMIT, APART, DIM, HEAD, TAIL)
    if APART:
        tl.static_assert(ROWS == 1 and not ADDED)
        y, channel, there = apart_of(x, channels, row, DIM, APART)
        y = y + tl.load(offset + channel, mask=there, other=0.0) - mean
        y = y * shrink * tl.load(gain + channel, mask=there, other=0.0).to(tl.float32)
        y += tl.load(shift + channel, mask=there, other=0.0).to(tl.float32)
        store_digits(digits, y, inverse, row, APART)


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` ``[T, K]``, contiguous, FP32, FP16 or BF16, as ``(values [T, K] of dtype, scales [T] FP32)``.

    `dtype` is int8 or float8_e4m3fn. The definition is this module's. Raises ValueError for anything else.
    """
    values, scales = outputs(x, dtype)
    if len(x):
        launch_quantise(x, x, values, scales, False, False)
    return values, scales


def quantise_apart(x: Tensor, kept: Tensor, channels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `quantise`, to INT8, with channels apart: they count as 0, and are written as digits ``[T, 4 A]`` BF16.

    `channels`: int32 ``[A]``, -1 for none, A a power of two of at least 4; `kept` ``[K]``: 0 there, 1 elsewhere.
    """
    values, scales = outputs(x, torch.int8)
    digits = torch.empty((len(x), 4 * len(channels)), dtype=torch.bfloat16, device=x.device)
    if len(x):
        launch_quantise(x, x, values, scales, False, False, (kept, channels, digits))
    return values, scales, digits


def gelu_quantised(h: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `quantise`, of GELU(h + bias) (the tanh form) in FP32; `h` ``[T, K]``, `bias` ``[K]`` or none."""
    values, scales = outputs(h, dtype)
    if bias is not None and bias.shape != h.shape[1:]:
        raise ValueError(f"a bias [K] is needed, not {tuple(bias.shape)} for {tuple(h.shape)}")
    if len(h):
        launch_quantise(h, h if bias is None else bias, values, scales, True, bias is not None)
    return values, scales


def launch_quantise(
    x: Tensor,
    bias: Tensor,
    values: Tensor,
    scales: Tensor,
    gelu: bool,
    biased: bool,
    apart: tuple[Tensor, Tensor, Tensor] | None = None,
) -> None:
    """Run `quantise_kernel` over all rows; `apart`: as for `quantise_apart`, and the digits."""
    rows, dim = x.shape
    width = 0 if apart is None else len(apart[1])
    head, tail = blocks(dim)
    with torch.cuda.device_of(x):  # Triton launches on the current device, wherever the tensors are
        quantise_kernel[(rows,)](
            x, bias, values, scales, rows, *(apart or (x, x, x)), LIMITS[values.dtype], gelu, biased, width,
            dim, head, tail, 1,
            num_warps=warps_for(head), enable_fp_fusion=False,
        )  # fmt: skip


def layer_norm_quantised(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    added: Tensor | None = None,
    apart: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, ...]:
    """As `quantise`, of the layer norm of ``x + offset`` in FP32.

    `x` ``[T, D]``, contiguous; `offset` FP32 ``[D]``; `weight` and `bias` ``[D]``. With `added`, ``[T, D]``,
    `x` is first replaced by ``x + added`` in its own type, in the same pass. With `apart`, `weight` and `bias`
    with zeros at the channels apart and `channels` as for `quantise_apart`, digits are returned, too.
    """
    values, scales = outputs(x, dtype)
    rows, dim = x.shape
    if offset.shape != (dim,) or offset.dtype != torch.float32:
        raise ValueError(f"an FP32 offset [D] is needed, not {offset.dtype} {tuple(offset.shape)}")
    if added is not None and (added.shape != x.shape or not added.is_contiguous()):
        raise ValueError(f"contiguous {tuple(x.shape)} to add are needed, not {tuple(added.shape)}")
    zeroed, width, digits = (weight, bias), 0, values
    if apart is not None:
        zeroed, width = apart[:2], len(apart[2])
        digits = torch.empty((rows, 4 * width), dtype=torch.bfloat16, device=x.device)
    if rows:
        head, tail = blocks(dim)
        with torch.cuda.device_of(x):
            layer_norm_kernel[(rows,)](
                x, x if added is None else added, offset, *zeroed, values, scales, rows, eps, weight, bias,
                x if apart is None else apart[2], digits,
                LIMITS[dtype], added is not None, width, dim, head, tail, 1,
                num_warps=warps_for(head), enable_fp_fusion=False,
            )  # fmt: skip
    return (values, scales) if apart is None else (values, scales, digits)


def outputs(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Room for the values and scales of `x`, which is checked."""
    if dtype not in LIMITS:
        raise ValueError(f"int8 or float8_e4m3fn is needed, not {dtype}")
    if x.ndim != 2 or not x.is_contiguous():
        raise ValueError(f"contiguous [T, K] is needed, not {tuple(x.shape)}")
    return torch.empty_like(x, dtype=dtype), torch.empty(len(x), dtype=torch.float32, device=x.device)


def warps_for(head: int) -> int:
    """Warps for a row: one holds 2,048 and more columns in its registers, and one alone needs no barriers.

    On an H100 the passes over 1,280 to 10,240 columns then run at 2.9 to 3.1 TB/s, the norm at 2.1 to 2.6.
    """
    return max(1, min(8, head // 2048))


def blocks(dim: int) -> tuple[int, int]:
    """Two powers of two, or one and 0, that cover `dim` columns. They fit ESM-2's sizes, but for 480, exactly."""
    head = 1 << (dim.bit_length() - 1)
    return head, triton.next_power_of_2(dim - head) if dim > head else 0
