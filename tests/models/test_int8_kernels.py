"""Quantisation and the INT8 GEMM against PyTorch: on a GPU, or in Triton's interpreter (see conftest.py).

The interpreter rounds to BF16 and FP8 in its own ways, so results in those are compared on GPUs only.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import NEEDS_TRITON

pytest.importorskip("triton", reason=NEEDS_TRITON)

from virnucpro.models import quantised
from virnucpro.models.kernels import gemm, quantise

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's of NaN and infinity, in the interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CAPABILITY = torch.cuda.get_device_capability() if DEVICE.type == "cuda" else (9, 0)
E4M3 = torch.float8_e4m3fn
DIMS = [16, 100, 320, 480, 2560]
ON_GPU = pytest.mark.skipif(DEVICE.type == "cpu", reason="needs an NVIDIA GPU: the interpreter rounds differently")
FP8 = [
    pytest.mark.gpu,
    ON_GPU,
    pytest.mark.skipif(CAPABILITY < (8, 9), reason="needs compute capability 8.9"),
]
TYPES = [torch.int8, pytest.param(E4M3, marks=FP8)]
KERNELS = [
    pytest.param(True, id="hopper", marks=pytest.mark.skipif(CAPABILITY[0] != 9, reason="needs a Hopper GPU")),
    pytest.param(False, id="portable"),
]
TILES = {True: [gemm.PAIR, gemm.PAIR_GELU, gemm.WIDE, gemm.WIDE_WHOLE], False: [gemm.PORTABLE]}
SIZES = [(1, 16, 16), (70, 80, 96), (128, 256, 128), (131, 272, 480), (300, 48, 320)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def defined(x, dtype):
    """The module's definition in plain PyTorch, on the CPU."""
    limit, x = quantise.LIMITS[dtype], x.float().cpu()
    largest = x.abs().amax(-1)
    bounded = largest.clamp_min(quantise.SMALLEST_MAXIMUM)
    # not limit / bounded, which PyTorch computes as limit times the reciprocal
    scaled = x * torch.div(torch.full_like(bounded, limit), bounded)[:, None]
    values = scaled.round() if dtype == torch.int8 else scaled
    return values.to(dtype), torch.where(largest == 0, 0.0, bounded / limit)


def operands(tokens, n, k, largest=127):
    """Integers up to `largest`, and FP32 scales and biases."""
    a, w = (torch.randint(-largest, largest + 1, (rows, k), dtype=torch.int8) for rows in (tokens, n))
    scales = [torch.rand(tokens) / 100, torch.rand(n) / 100]
    return [each.to(DEVICE) for each in (a, scales[0], w, scales[1], torch.randn(n))]


def exact(a, w):
    """The sums in INT64, which hold any, as FP32, rounded once as INT32 sums are."""
    return (a.cpu().long() @ w.cpu().long().T).float()


def multiply(hopper, tile, out, a, a_scales, w, w_scales, bias=None, gelu=False):
    gemm.launch(out, a, a_scales, w, w_scales, bias, gelu, hopper, tile)
    return out.cpu()


def nothing(tokens, n, dtype=torch.float32):
    return torch.full((tokens, n), math.nan, dtype=dtype, device=DEVICE)


def each_tile(hopper, sizes, out=torch.float32):
    """Each tile with each size; for FP32 results with fewer stages, for lack of shared memory."""
    tiles = [replace(tile, stages=2) if out == torch.float32 else tile for tile in TILES[hopper]]
    return [(tile, *size) for tile in tiles for size in sizes]


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", DIMS)
def test_int8_has_the_bits_of_its_definition(dim, source):
    x = (torch.randn(7, dim) * torch.logspace(-3, 3, 7)[:, None]).to(source)
    x[3] = 0
    values, scales = quantise.quantise(x.to(DEVICE), torch.int8)
    expected, expected_scales = defined(x, torch.int8)
    assert torch.equal(values.cpu(), expected) and torch.equal(scales.cpu(), expected_scales)


@pytest.mark.parametrize("dim", [pytest.param(dim, marks=FP8) for dim in DIMS])
def test_fp8_has_the_bits_of_its_definition(dim):
    x = torch.randn(7, dim) * torch.logspace(-3, 3, 7)[:, None]
    values, scales = quantise.quantise(x.to(DEVICE), E4M3)
    expected, expected_scales = defined(x, E4M3)
    assert torch.equal(scales.cpu(), expected_scales)
    assert torch.equal(values.cpu().view(torch.int8), expected.view(torch.int8))


def test_int8_rounds_halves_to_even():
    x = torch.tensor([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -126.5]], device=DEVICE)
    values, scales = quantise.quantise(x, torch.int8)
    assert values.tolist() == [[127, 0, 2, 2, 0, -2, -2, -126]] and scales.tolist() == [1]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_int8_of_any_finite_row_is_as_defined(row):
    x = torch.tensor([row])
    values, scales = quantise.quantise(x.to(DEVICE), torch.int8)
    expected, expected_scales = defined(x, torch.int8)
    assert torch.equal(values.cpu(), expected) and torch.equal(scales.cpu(), expected_scales)
    assert values.cpu().float().abs().max() <= 127


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 300, 479])
def test_a_row_that_is_not_finite_has_a_scale_that_is_not(at, bad, dtype):
    x = torch.randn(3, 480)
    x[1, at] = bad
    _, scales = quantise.quantise(x.to(DEVICE), dtype)
    assert scales.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("dim", DIMS)
def test_the_norm_is_quantised(dim, dtype):
    x, offset = (3 * torch.randn(5, dim) + 2).half(), torch.randn(dim)
    weight, bias = (1 + 0.1 * torch.randn(dim)).half(), (0.1 * torch.randn(dim)).half()
    expected = F.layer_norm(x + offset, (dim,), weight.float(), bias.float(), 1e-5)
    arguments = [each.to(DEVICE) for each in (x, offset, weight, bias)]
    values, scales = (each.cpu().float() for each in quantise.layer_norm_quantised(*arguments, 1e-5, dtype))
    torch.testing.assert_close(scales, expected.abs().amax(-1) / quantise.LIMITS[dtype], rtol=1e-5, atol=0)
    error = (values * scales[:, None] - expected).abs()
    step = scales[:, None] * (0.5 if dtype == torch.int8 else 1) + (
        0 if dtype == torch.int8 else expected.abs() / 8
    )
    assert (error <= step + 1e-5).all()


def test_what_is_added_to_the_residual_is_in_it_and_in_its_norm():
    x, added, offset = torch.randn(5, 480).half(), torch.randn(5, 480).bfloat16(), torch.randn(480)
    ones, zeros = torch.ones(480), torch.zeros(480)
    x, added, offset, ones, zeros = (each.to(DEVICE) for each in (x, added, offset, ones, zeros))
    total = (x.float() + added.float()).half()
    expected = quantise.layer_norm_quantised(total, offset, ones, zeros, 1e-5, torch.int8)
    found = quantise.layer_norm_quantised(x, offset, ones, zeros, 1e-5, torch.int8, added)
    assert torch.equal(x, total)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dim", DIMS)
def test_gelu_is_quantised(dim, biased):
    h, bias = 3 * torch.randn(5, dim), torch.randn(dim)
    expected = F.gelu(h + bias if biased else h, approximate="tanh")
    values, scales = quantise.gelu_quantised(h.to(DEVICE), bias.to(DEVICE) if biased else None, torch.int8)
    error = (values.cpu().float() * scales.cpu()[:, None] - expected).abs()
    assert (error <= scales.cpu()[:, None] / 2 + 2**-10 * (1 + expected.abs())).all()


@pytest.mark.parametrize("hopper", KERNELS)
@pytest.mark.parametrize("largest", [1, 127])
def test_sums_are_exact(hopper, largest):
    for tile, tokens, n, k in each_tile(hopper, SIZES):
        a, _, w, _, _ = operands(tokens, n, k, largest)
        ones, zeros = torch.ones(tokens, device=DEVICE), torch.zeros(n, device=DEVICE)
        found = multiply(hopper, tile, nothing(tokens, n), a, ones, w, torch.ones(n, device=DEVICE), zeros)
        assert torch.equal(found, exact(a, w)), (tile, tokens, n, k)


@pytest.mark.parametrize("hopper", KERNELS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_of_15b_are_exact(hopper, sign):
    a, w = (torch.full((rows, 20480), 127, dtype=torch.int8, device=DEVICE) for rows in (2, 16))
    ones = torch.ones(16, device=DEVICE)
    found = multiply(hopper, None, nothing(2, 16), a * sign, ones[:2], w, ones, torch.zeros_like(ones))
    assert (found == sign * 20480 * 127**2).all()


@pytest.mark.parametrize("hopper", KERNELS)
def test_the_epilogue_multiplies_and_adds_in_fp32(hopper):
    """In the stated order, bit for bit; but a GPU may round the last product and the sum once."""
    for tile, tokens, n, k in each_tile(hopper, SIZES):
        a, a_scales, w, w_scales, bias = operands(tokens, n, k)
        found = multiply(hopper, tile, nothing(tokens, n), a, a_scales, w, w_scales, bias)
        scaled = exact(a, w) * a_scales.cpu()[:, None]
        expected = scaled * w_scales.cpu() + bias.cpu()
        fused = (scaled.double() * w_scales.cpu().double() + bias.cpu().double()).float()
        if DEVICE.type == "cpu":
            fused = expected
        assert ((found == expected) | (found == fused)).all(), (tile, tokens, n, k)


@pytest.mark.parametrize("hopper", KERNELS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=[pytest.mark.gpu, ON_GPU])]
)
def test_the_product_is_added_to_the_residual(hopper, dtype):
    """Within half a unit in the last place of the product and of the sum, and FP32's own roundings."""
    for tile, tokens, n, k in each_tile(hopper, SIZES, dtype):
        a, a_scales, w, w_scales, _ = operands(tokens, n, k)
        x = (3 * torch.randn(tokens, n)).to(dtype)
        found = multiply(hopper, tile, x.to(DEVICE, copy=True), a, a_scales, w, w_scales)
        product = exact(a, w).double() * a_scales.cpu().double()[:, None] * w_scales.cpu().double()
        total = x.double() + product
        allowed = (product.abs() + total.abs()) * torch.finfo(dtype).eps / 2 + product.abs() * 2**-23
        assert ((found.double() - total).abs() <= allowed).all(), (tile, tokens, n, k)


@pytest.mark.parametrize("hopper", KERNELS)
def test_a_token_does_not_depend_on_the_others(hopper):
    for tile, tokens, n, k in each_tile(hopper, SIZES[-2:]):
        a, a_scales, w, w_scales, bias = operands(tokens, n, k)
        whole = multiply(hopper, tile, nothing(tokens, n), a, a_scales, w, w_scales, bias)
        last = multiply(hopper, tile, nothing(3, n), a[-3:].clone(), a_scales[-3:].clone(), w, w_scales, bias)
        assert torch.equal(whole[-3:], last)


@pytest.mark.parametrize("hopper", KERNELS)
def test_a_token_of_zeros_has_the_bias_and_one_that_is_not_finite_is_found(hopper):
    x = torch.randn(5, 96)
    x[1], x[2, 7], x[3, 9] = 0, math.nan, math.inf
    a, a_scales = quantise.quantise(x.to(DEVICE), torch.int8)
    _, _, w, w_scales, bias = operands(5, 80, 96)
    found = multiply(hopper, None, nothing(5, 80), a, a_scales, w, w_scales, bias)
    assert torch.equal(found[1], bias.cpu())
    assert found.isfinite().all(-1).tolist() == [True, True, False, False, True]
    assert not found[2:4].isfinite().any()
    added = multiply(hopper, None, torch.zeros(5, 80, device=DEVICE), a, a_scales, w, w_scales)
    assert added.isfinite().all(-1).tolist() == [True, True, False, False, True]
    weights = w_scales.clone()
    weights[3] = math.nan
    found = multiply(hopper, None, nothing(5, 80), a, a_scales, w, weights, bias)
    assert found[0].isfinite().logical_not().nonzero().tolist() == [[3]]


def test_a_linear_layer_by_the_public_functions():
    a, a_scales, w, w_scales, bias = operands(70, 80, 96)
    product = exact(a, w) * a_scales.cpu()[:, None] * w_scales.cpu()
    y = gemm.int8_linear(a, a_scales, w, w_scales, bias, torch.float16)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.cpu().float(), product + bias.cpu(), rtol=2**-11, atol=1e-6)
    hidden = gemm.int8_linear(a, a_scales, w, w_scales, bias, torch.float32, gelu=True)
    torch.testing.assert_close(
        hidden.cpu(), F.gelu(product + bias.cpu(), approximate="tanh"), rtol=1e-3, atol=1e-3
    )
    x = torch.zeros(70, 80, device=DEVICE)
    assert gemm.int8_add_(x, a, a_scales, w, w_scales) is x
    torch.testing.assert_close(x.cpu(), product, rtol=0, atol=0)


@pytest.mark.gpu
@ON_GPU
@pytest.mark.skipif(CAPABILITY < (8, 9), reason="needs compute capability 8.9")
def test_fp8_products_are_added():
    """Of small integers, whose sums are exact in FP8's accumulators."""
    a, a_scales, w, w_scales, _ = operands(131, 80, 96, largest=7)
    x = torch.randn(131, 80)
    found = gemm.fp8_add_(x.to(DEVICE, copy=True), a.to(E4M3), a_scales, w.to(E4M3), w_scales).cpu()
    product = exact(a, w) * a_scales.cpu()[:, None] * w_scales.cpu()
    torch.testing.assert_close(found, x + product, rtol=0, atol=2**-20)


def apart_from(x, channels, width):
    """A matrix with these channels apart, as the kernels are to write it, with as many digits for `width`."""
    index = torch.tensor(channels)
    expected = quantised.quantise(x.float().cpu().clone(), torch.int8, index)
    places = F.pad(index.int(), (0, width - len(channels)), value=-1)
    kept = torch.ones(x.shape[1]).index_fill_(0, index, 0.0)
    return expected, kept.to(DEVICE, torch.float16), places.to(DEVICE)


def numbers(digits):
    """What digits of an operand stand for."""
    of_four = digits.float().cpu().unflatten(1, (-1, 4, 4))
    return (of_four[:, :, 0] + of_four[:, :, 2]).flatten(1)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("channels", [[3], [0, 2, 5, 15], [0, 1, 2, 3, 4, 5]])
def test_channels_apart_count_as_0_and_are_written_over_the_scale(dim, channels):
    x = torch.randn(5, dim).half()
    x[:, channels] *= 1000
    x[2] = 0.0
    x[2, channels[0]] = 7.0  # alone in its row
    expected, kept, places = apart_from(x, channels, 4 if len(channels) <= 4 else 8)
    values, scales, digits = quantise.quantise_apart(x.to(DEVICE), kept, places)
    assert torch.equal(values.cpu(), expected.values) and not values[:, channels].any()
    assert torch.equal(scales.cpu(), expected.scales)
    torch.testing.assert_close(numbers(digits)[:, : len(channels)], expected.apart, rtol=2**-15, atol=0)
    assert not numbers(digits)[:, len(channels) :].any()


@pytest.mark.parametrize("dim", DIMS)
def test_the_norm_is_quantised_with_channels_apart(dim):
    x, offset = torch.randn(4, dim).half(), torch.randn(dim)
    x[:, [1, 7]] += 300
    norm = torch.nn.LayerNorm(dim)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3), torch.nn.init.normal_(norm.bias)
    whole = F.layer_norm(x.float() + offset, (dim,), norm.weight, norm.bias).detach()
    expected, kept, places = apart_from(whole, [1, 7], 4)
    weight, bias = norm.weight.detach().to(DEVICE), norm.bias.detach().to(DEVICE)
    values, scales, digits = quantise.layer_norm_quantised(
        x.to(DEVICE), offset.to(DEVICE), weight, bias, 1e-5, torch.int8, apart=(weight * kept, bias * kept, places)
    )
    assert (values.cpu().int() - expected.values.int()).abs().max() <= 1 and not values[:, [1, 7]].any()
    torch.testing.assert_close(scales.cpu(), expected.scales, rtol=1e-5, atol=0)
    torch.testing.assert_close(numbers(digits)[:, :2], expected.apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hopper", KERNELS)
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("tokens, n, k", SIZES)
def test_products_of_channels_apart_are_added_to_the_sums(hopper, width, tokens, n, k):
    a, a_scales, w, w_scales, bias = operands(tokens, n, k)
    x, y = 1000 * torch.randn(tokens, width), torch.randn(n, width)
    digits = tuple(quantised.digits_of(each, of).to(DEVICE) for each, of in ((x, False), (y, True)))
    sums = exact(a, w).double() + x.double() @ y.double().T
    expected = (sums * a_scales.cpu()[:, None] * w_scales.cpu() + bias.cpu()).float()
    for tile in TILES[hopper][:2]:
        out = nothing(tokens, n)
        gemm.launch(out, a, a_scales, w, w_scales, bias, False, hopper, tile, digits)
        error = (out.cpu() - expected).abs().max() / expected.abs().max()
        assert error <= 1e-5
        residual = torch.randn(tokens, n).to(DEVICE)
        before = residual.cpu().clone()
        gemm.launch(residual, a, a_scales, w, w_scales, None, False, hopper, tile, digits)
        assert (residual.cpu() - before - (expected - bias.cpu())).abs().max() / expected.abs().max() <= 1e-5


def test_digits_of_the_wrong_shape_are_refused():
    a, a_scales, w, w_scales, bias = operands(4, 16, 16)
    digits = torch.zeros(4, 16, dtype=torch.bfloat16), torch.zeros(15, 16, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="digits"):
        gemm.int8_linear(a, a_scales, w, w_scales, bias, torch.float32, digits=tuple(d.to(DEVICE) for d in digits))


def test_no_tokens_are_no_work():
    a, a_scales, w, w_scales, bias = operands(0, 80, 96)
    assert quantise.quantise(a.float(), torch.int8)[0].shape == (0, 96)
    assert quantise.gelu_quantised(a.float(), None, torch.int8)[1].shape == (0,)
    vector = torch.ones(96, device=DEVICE)
    values, _ = quantise.layer_norm_quantised(a.float(), vector, vector, vector, 1e-5, torch.int8)
    assert values.shape == (0, 96)
    assert gemm.int8_linear(a, a_scales, w, w_scales, bias, torch.float16).shape == (0, 80)
    assert gemm.int8_add_(torch.ones(0, 80, device=DEVICE), a, a_scales, w, w_scales).shape == (0, 80)


A, A_SCALES, W, W_SCALES, BIAS = (
    torch.ones(4, 32, dtype=torch.int8),
    torch.ones(4),
    torch.ones(16, 32, dtype=torch.int8),
    torch.ones(16),
    torch.ones(16),
)
ONES = torch.ones(32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: quantise.quantise(torch.ones(4, 8), torch.int16),
        lambda: quantise.quantise(torch.ones(8, 4).T, torch.int8),
        lambda: quantise.quantise(torch.ones(8), torch.int8),
        lambda: quantise.gelu_quantised(torch.ones(4, 8), torch.ones(4), torch.int8),
        lambda: quantise.layer_norm_quantised(torch.ones(4, 32), ONES.half(), ONES, ONES, 1e-5, torch.int8),
        lambda: quantise.layer_norm_quantised(
            torch.ones(4, 32), ONES, ONES, ONES, 1e-5, torch.int8, torch.ones(5, 32)
        ),
        lambda: gemm.int8_linear(A[:, :8].clone(), A_SCALES, W[:, :8].clone(), W_SCALES, BIAS, torch.half),
        lambda: gemm.int8_linear(A, A_SCALES, W[:10], W_SCALES[:10], BIAS[:10], torch.half),
        lambda: gemm.int8_linear(A, A_SCALES[:3], W, W_SCALES, BIAS, torch.half),
        lambda: gemm.int8_linear(A, A_SCALES, W, W_SCALES, BIAS[:8], torch.half),
        lambda: gemm.int8_linear(A, A_SCALES.half(), W, W_SCALES, BIAS, torch.half),
        lambda: gemm.int8_linear(A.float(), A_SCALES, W, W_SCALES, BIAS, torch.half),
        lambda: gemm.int8_add_(torch.ones(16, 4).T, A, A_SCALES, W, W_SCALES),
        lambda: gemm.int8_add_(torch.ones(4, 8), A, A_SCALES, W, W_SCALES),
        lambda: gemm.fp8_add_(torch.ones(4, 16), A, A_SCALES, W, W_SCALES),
    ],
    ids=[
        "another type", "strided rows", "one dimension", "bias of another width", "FP16 offset",
        "other tokens added", "K not a multiple of 16", "N not a multiple of 16", "scales of other tokens",
        "bias of another N", "FP16 scales", "FP32 operand", "strided residual", "residual of another N",
        "INT8 as FP8",
    ],
)  # fmt: skip
def test_what_the_kernels_cannot_take_is_refused(call):
    with pytest.raises(ValueError, match="needed, not"):
        call()
