"""GEMMs of quantised operands whose epilogue applies the scales, then the bias and GELU, or adds to the residual.

For operands with a scale for each row, as `quantise` makes them: ``y[t, n]`` is the sum of ``a[t, k] * w[n, k]``
over k, exact in INT32 (FP8: in the tensor cores' precision), times a's scale of t, times w's scale of n, in FP32.
To INT8's sums the product of two BF16 matrices of a few columns can be added: channels that are kept apart.
Two kernels compute it: Hopper's is persistent, with tensor descriptors (TMA) and warpgroup MMA; the portable
one, with pointers and asynchronous copies, is for Ampere and Ada.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from virnucpro.models.kernels.quantise import INTERPRETED, gelu

Digits = tuple[Tensor, Tensor]
"""BF16 ``[T, W]`` and ``[N, W]``, W a multiple of 16, whose product is added to the sums."""


@dataclass(frozen=True)
class Tile:
    """What one program of a GEMM kernel computes at a time, and how Triton is to run it."""

    rows: int
    columns: int
    depth: int
    stages: int
    warps: int
    programs: int = 1
    """Persistent programs on each multiprocessor: with two, one's epilogue runs beside the other's MMAs."""
    parts: int = 1
    """The epilogue takes this many shares of the columns in turn, which leaves shared memory for the stages."""


PAIR = Tile(rows=128, columns=128, depth=128, stages=3, warps=4, programs=2, parts=2)
PAIR_GELU = Tile(rows=128, columns=128, depth=128, stages=3, warps=4, programs=2, parts=4)
WIDE = Tile(rows=128, columns=256, depth=128, stages=4, warps=8, parts=2)
WIDE_WHOLE = Tile(rows=128, columns=256, depth=128, stages=3, warps=8, parts=1)
PORTABLE = Tile(rows=128, columns=128, depth=128, stages=3, warps=4)
"""64 KiB of shared memory on Ampere and Ada, which all of them have."""


LAUNCH_BOUND = 1e10
"""T D² below which a layer's launches take longer than its work on an H100, so that the cheaper launch wins.

Hopper's kernel takes the host 60 µs, the portable one 20 to 40. D, the model's width, is the smaller of N and K.
"""


def hopper_tile(
    tokens: int, n: int, k: int, gelu: bool, add: bool, out: torch.dtype, operands: torch.dtype
) -> Tile:
    """The fastest of 16 on an H100 for the shapes and epilogues of 650M and 3B, or within 3 % of it.

    Two small tiles on a multiprocessor hide each other's epilogue. A wide one reads less, and wins where the
    epilogue is a small part of the work: an addition after a long sum over k, for many tokens. FP32 results need
    the smallest parts for lack of shared memory.
    """
    if gelu or out.itemsize > 2:
        return PAIR_GELU
    if add and operands != torch.int8:
        return WIDE if n < 2560 else WIDE_WHOLE
    return PAIR


@triton.jit
def place_of(tile, tiles_m, tiles_n, GROUP: tl.constexpr = 8):  # type: ignore[no-untyped-def]
    """Row and column of a tile: `GROUP` rows of tiles, column by column, so that operands stay in the L2 cache."""
    first = tile // (GROUP * tiles_n) * GROUP
    rows = tl.minimum(tiles_m - first, GROUP)
    within = tile % (GROUP * tiles_n)
    return first + within % rows, within // rows


@triton.jit
def scaled(  # type: ignore[no-untyped-def]
    sums, a_scale, w_scales, bias, column, N: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr
):
    """The epilogue in FP32: sums * a_scale * w_scale + bias, and GELU of it."""
    kept = column < N
    y = sums.to(tl.float32) * a_scale[:, None] * tl.load(w_scales + column, mask=kept, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias + column, mask=kept, other=0.0).to(tl.float32)[None, :]
    if GELU:
        y = gelu(y)
    return y


@triton.jit
def load_digits(digits, row, rows, FIRST: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """16 columns of rows of ``[rows, WIDTH]``, from `FIRST` on."""
    place = digits + row.to(tl.int64)[:, None] * WIDTH + FIRST + tl.arange(0, 16)[None, :]
    x = tl.load(place, mask=(row < rows)[:, None], other=0.0)
    if INTERPRETED:  # which multiplies no BF16
        x = x.to(tl.float32)
    return x


@triton.jit
def with_digits(  # type: ignore[no-untyped-def]
    sums, a_digits, w_digits, row, tokens, column, N: tl.constexpr, WIDTH: tl.constexpr
):
    """The sums in FP32, and the products of the channels apart, which are in units of the scales."""
    sums = sums.to(tl.float32)
    for first in tl.static_range(0, WIDTH, 16):
        x = load_digits(a_digits, row, tokens, first, WIDTH)
        sums = tl.dot(x, load_digits(w_digits, column, N, first, WIDTH).T, sums)
    return sums


@triton.jit
def prefetch(digits, row, rows, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Ask for rows of digits, which are needed after the sums."""
    if not INTERPRETED:
        places = digits + tl.minimum(row, rows - 1).to(tl.int64) * WIDTH
        tl.inline_asm_elementwise(
            "prefetch.global.L1 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [places.to(tl.int64)],
            tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def put(  # type: ignore[no-untyped-def]
    out, sums, a_scale, w_scales, bias, row, column,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PARTS: tl.constexpr,
    N: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Store, or add, the results from (row, column) on through a tensor descriptor, in `PARTS` parts."""
    HALF: tl.constexpr = COLUMNS // 2
    if PARTS > 1:
        left, right = sums.reshape(ROWS, 2, HALF).permute(0, 2, 1).split()
        put(out, left, a_scale, w_scales, bias, row, column, ROWS, HALF, PARTS // 2, N, BIAS, GELU, ADD)
        put(out, right, a_scale, w_scales, bias, row, column + HALF, ROWS, HALF, PARTS // 2, N, BIAS, GELU, ADD)
    else:
        y = scaled(sums, a_scale, w_scales, bias, column + tl.arange(0, COLUMNS), N, BIAS, GELU)
        if ADD:
            if INTERPRETED:  # which has no atomic_add
                out.store([row, column], (out.load([row, column]).to(tl.float32) + y).to(out.dtype))
            else:
                out.atomic_add([row, column], y.to(out.dtype))  # in the L2 cache, while the next tile is computed
        else:
            out.store([row, column], y.to(out.dtype))


@triton.jit(do_not_specialize=["tokens"])
def hopper_kernel(  # type: ignore[no-untyped-def]
    a, w, out, a_scales, w_scales, bias, a_digits, w_digits, tokens,
    N: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PARTS: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """Every `PROGRAMS`-th tile. `a`, `w` and `out` are tensor descriptors: outside they load 0 and store none."""
    SUMS: tl.constexpr = tl.int32 if a.dtype.is_int() else tl.float32
    tiles_m, tiles_n = tl.cdiv(tokens, ROWS), tl.cdiv(N, COLUMNS)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        m, n = place_of(tile, tiles_m, tiles_n)
        sums = tl.zeros((ROWS, COLUMNS), dtype=SUMS)
        if WIDTH:
            prefetch(a_digits, m * ROWS + tl.arange(0, ROWS), tokens, WIDTH)
            prefetch(w_digits, n * COLUMNS + tl.arange(0, COLUMNS), N, WIDTH)
        for k in range(tl.cdiv(K, DEPTH)):
            rows, columns = a.load([m * ROWS, k * DEPTH]), w.load([n * COLUMNS, k * DEPTH])
            sums = tl.dot(rows, columns.T, sums, out_dtype=SUMS)
        row = m * ROWS + tl.arange(0, ROWS)
        if WIDTH:
            column = n * COLUMNS + tl.arange(0, COLUMNS)
            sums = with_digits(sums, a_digits, w_digits, row, tokens, column, N, WIDTH)
        a_scale = tl.load(a_scales + row, mask=row < tokens, other=0.0)
        put(
            out, sums, a_scale, w_scales, bias, m * ROWS, n * COLUMNS, ROWS, COLUMNS, PARTS,
            N, BIAS, GELU, ADD,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tokens"])
def portable_kernel(  # type: ignore[no-untyped-def]
    a, w, out, a_scales, w_scales, bias, a_digits, w_digits, tokens,
    N: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr, GELU: tl.constexpr, ADD: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile. Rows and columns beyond the last are computed from the last and not stored."""
    m, n = place_of(tl.program_id(0), tl.cdiv(tokens, ROWS), tl.cdiv(N, COLUMNS))
    row, column, depth = m * ROWS + tl.arange(0, ROWS), n * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    a_place = a + tl.minimum(row, tokens - 1).to(tl.int64)[:, None] * K + depth[None, :]
    w_place = w + tl.minimum(column, N - 1)[None, :] * K + depth[:, None]
    SUMS: tl.constexpr = tl.int32 if a.dtype.element_ty.is_int() else tl.float32
    sums = tl.zeros((ROWS, COLUMNS), dtype=SUMS)
    for k in range(0, K, DEPTH):
        if K % DEPTH == 0:
            rows, columns = tl.load(a_place), tl.load(w_place)
        else:
            rows = tl.load(a_place, mask=(depth < K - k)[None, :], other=0.0)
            columns = tl.load(w_place, mask=(depth < K - k)[:, None], other=0.0)
        sums = tl.dot(rows, columns, sums, out_dtype=SUMS)
        a_place += DEPTH
        w_place += DEPTH
    if WIDTH:
        sums = with_digits(sums, a_digits, w_digits, row, tokens, column, N, WIDTH)
    a_scale = tl.load(a_scales + row, mask=row < tokens, other=0.0)
    y = scaled(sums, a_scale, w_scales, bias, column, N, BIAS, GELU)
    place = out + row.to(tl.int64)[:, None] * N + column[None, :]
    kept = (row < tokens)[:, None] & (column < N)[None, :]
    if ADD:
        y += tl.load(place, mask=kept, other=0.0).to(tl.float32)
    tl.store(place, y.to(out.dtype.element_ty), mask=kept)


def int8_linear(
    a: Tensor,
    a_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    bias: Tensor,
    out_dtype: torch.dtype,
    gelu: bool = False,
    digits: Digits | None = None,
) -> Tensor:
    """``[T, N]`` of `out_dtype`: (sums * a_scale) * w_scale + bias in FP32, or the GELU (tanh form) of that.

    `a` int8 ``[T, K]`` and `w` int8 ``[N, K]``, contiguous, K and N multiples of 16; `a_scales` ``[T]`` and
    `w_scales` ``[N]`` FP32; `bias` ``[N]``. A GPU fuses the last product with the sum, which saves one rounding.
    `digits`: of the channels apart, see `Digits`. Raises ValueError for what it can't take.
    """
    out = torch.empty((len(a), len(w)), dtype=out_dtype, device=a.device)
    check(torch.int8, out, a, a_scales, w, w_scales)
    if bias.shape != w_scales.shape:
        raise ValueError(f"a bias {tuple(w_scales.shape)} is needed, not {tuple(bias.shape)}")
    launch(out, a, a_scales, w, w_scales, bias, gelu, digits=digits)
    return out


def int8_add_(
    x: Tensor, a: Tensor, a_scales: Tensor, w: Tensor, w_scales: Tensor, digits: Digits | None = None
) -> Tensor:
    """Add (sums * a_scale) * w_scale to `x` ``[T, N]``, contiguous, in place; the others as for `int8_linear`.

    On Hopper the product is rounded to `x`'s type and added in the L2 cache, so the SMs never read `x`. The error
    is at most half a unit in the last place of the product and half a one of the sum, but for FP32's own.
    """
    check(torch.int8, x, a, a_scales, w, w_scales)
    launch(x, a, a_scales, w, w_scales, digits=digits)
    return x


def fp8_add_(x: Tensor, a: Tensor, a_scales: Tensor, w: Tensor, w_scales: Tensor) -> Tensor:
    """As `int8_add_`, of float8_e4m3fn; needs compute capability 8.9. Hopper sums FP8 in less than FP32."""
    check(torch.float8_e4m3fn, x, a, a_scales, w, w_scales)
    launch(x, a, a_scales, w, w_scales)
    return x


def launch(
    out: Tensor,
    a: Tensor,
    a_scales: Tensor,
    w: Tensor,
    w_scales: Tensor,
    bias: Tensor | None = None,
    gelu: bool = False,
    hopper: bool | None = None,
    tile: Tile | None = None,
    digits: Digits | None = None,
) -> None:
    """Store the product in `out` or, without a bias, add it; by the GPU's own kernel and tile if none is given."""
    (tokens, k), n = a.shape, len(w)
    if not tokens:
        return
    add = bias is None
    width = 0 if digits is None else digits[0].shape[1]
    if digits is not None and (digits[0].shape, digits[1].shape) != ((tokens, width), (n, width)):
        raise ValueError(f"digits [T, W] and [N, W] are needed, not {[tuple(each.shape) for each in digits]}")
    vectors = (
        a_scales, w_scales, w_scales if bias is None else bias, *(digits or (a_scales, w_scales)), tokens, n, k,
        not add, gelu, add, width,
    )  # fmt: skip
    if hopper is None:
        hopper = is_hopper(a.device) and tokens * min(n, k) ** 2 >= LAUNCH_BOUND
    tile = tile or (hopper_tile(tokens, n, k, gelu, add, out.dtype, a.dtype) if hopper else PORTABLE)
    if digits is not None and hopper:
        tile = replace(tile, parts=max(4, tile.parts))  # the digits take shared memory
    tiles = triton.cdiv(tokens, tile.rows) * triton.cdiv(n, tile.columns)
    shape, options = (tile.rows, tile.columns, tile.depth), {"num_warps": tile.warps, "num_stages": tile.stages}
    with torch.cuda.device_of(a):  # Triton launches on the current device, wherever the tensors are
        if not hopper:
            portable_kernel[(tiles,)](a, w, out, *vectors, *shape, **options)
            return
        programs = tile.programs * multiprocessors(a.device)
        hopper_kernel[(min(tiles, programs),)](
            TensorDescriptor.from_tensor(a, [tile.rows, tile.depth]),
            TensorDescriptor.from_tensor(w, [tile.columns, tile.depth]),
            TensorDescriptor.from_tensor(out, [tile.rows, tile.columns // tile.parts]),
            *vectors, *shape, tile.parts, programs, **options,
        )  # fmt: skip


def check(dtype: torch.dtype, out: Tensor, a: Tensor, a_scales: Tensor, w: Tensor, w_scales: Tensor) -> None:
    """Raise ValueError unless these are operands of a product that the kernels can compute."""
    (tokens, k), n = a.shape, len(w)
    if (
        (out.shape, w.shape, a_scales.shape, w_scales.shape) != ((tokens, n), (n, k), (tokens,), (n,))
        or k % 16
        or n % 16
    ):
        shapes = [tuple(tensor.shape) for tensor in (out, a, a_scales, w, w_scales)]
        raise ValueError(f"[T, N] = [T, K] [T] x [N, K] [N], K and N multiples of 16, are needed, not {shapes}")
    types = (a.dtype, w.dtype, a_scales.dtype, w_scales.dtype)
    if types != (dtype, dtype, torch.float32, torch.float32):
        raise ValueError(f"operands {dtype} with FP32 scales are needed, not {types}")
    if not all(tensor.is_contiguous() for tensor in (out, a, a_scales, w, w_scales)):
        raise ValueError("contiguous tensors are needed, not strided ones")


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether this is a GPU of compute capability 9.x."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


@cache
def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a GPU has; Triton's interpreter has one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
