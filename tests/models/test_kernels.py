"""The Triton kernels against PyTorch: on a GPU, or without one in Triton's interpreter (see conftest.py)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.conftest import NEEDS_TRITON
from virnucpro.models.attention import attend_one_by_one
from virnucpro.models.rotary import exact_frequencies, rotary_tables, rotate_

pytest.importorskip("triton", reason=NEEDS_TRITON)

from virnucpro.models import kernels
from virnucpro.models.kernels.attention import LONG, LONG_TILE, TILE, blocks_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def on_device(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


def ends_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def positions_of(lengths):
    return torch.cat([torch.arange(length) for length in lengths]).int()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [16, 24, 64])
@pytest.mark.parametrize("heads", [1, 20])
def test_rotation_equals_pytorchs(heads, head_dim, dtype):
    tables = rotary_tables(64, exact_frequencies(head_dim), torch.device("cpu"))
    qkv = (4 * torch.rand(7, 3, heads, head_dim) - 2).to(dtype)
    positions = torch.tensor([0, 1, 2, 0, 1, 0, 63], dtype=torch.int32)
    expected = rotate_(qkv.clone(), positions, *tables)
    found = kernels.rotate_(*on_device(qkv.clone(), positions, *tables)).cpu()
    assert torch.equal(found[:, 2], qkv[:, 2]), "values must be left alone"
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=0)


def test_keys_alone_can_be_rotated():
    qkv, positions = on_device(torch.randn(4, 3, 5, 64), torch.tensor([0, 1, 2, 0], dtype=torch.int32))
    tables = rotary_tables(64, exact_frequencies(64), DEVICE)
    both = kernels.rotate_(qkv.clone(), positions, *tables)
    found = kernels.rotate_(qkv.clone(), positions, *tables, queries=False)
    assert torch.equal(found[:, 1], both[:, 1])
    assert torch.equal(found[:, ::2], qkv[:, ::2])


@pytest.mark.parametrize("lengths", [[1], [64], [65, 3, 0, 130, 7], [LONG, 2, LONG + 1, 1, 832]], ids=str)
@pytest.mark.parametrize(("heads", "dim"), [(2, 16), (3, 24), (2, 64), (1, 128)])
def test_attention_equals_pytorchs(heads, dim, lengths):
    """In FP16: Triton's interpreter multiplies no BF16 matrices."""
    if DEVICE.type == "cpu" and sum(lengths) > LONG:
        heads = 1  # the interpreter takes seconds
    tables = rotary_tables(1024, exact_frequencies(dim), torch.device("cpu"))
    positions, ends = positions_of(lengths), ends_of(lengths)
    qkv = torch.randn(sum(lengths), 3, heads, dim).half()
    expected = attend_one_by_one(rotate_(qkv.clone(), positions, *tables).float(), ends)
    qkv, positions, cos, sin, ends = on_device(qkv, positions, *tables, ends)
    found = kernels.attend(qkv, positions, cos, sin, ends, max(lengths))
    assert found.dtype == torch.float16 and found.is_contiguous()
    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("others", [200, LONG + 40])
def test_attention_within_a_protein_does_not_depend_on_the_pack(others):
    tables = rotary_tables(1024, exact_frequencies(64), DEVICE)

    def attend(lengths, qkv):
        positions, ends = on_device(positions_of(lengths), ends_of(lengths))
        return kernels.attend(qkv.clone(), positions, *tables, ends, max(lengths))

    one, other = on_device(torch.randn(70, 3, 1, 64).half(), torch.randn(others, 3, 1, 64).half())
    assert torch.equal(attend([others, 70], torch.cat((other, one)))[others:], attend([70], one))


@given(st.lists(st.integers(0, 3 * LONG), min_size=1, max_size=40).filter(any), st.integers(0, 1000))
def test_each_query_is_in_one_block_of_the_tile_for_its_proteins_length(lengths, more):
    found = {}
    for tile, listed in blocks_of(ends_of(lengths), sum(lengths), max(lengths) + more):
        assert len(listed) <= sum(lengths) // tile.queries + len(lengths), "no more than a block more a protein"
        for protein, begin in listed.tolist():
            if protein >= 0:
                assert (protein, begin) not in found
                found[protein, begin] = tile
    expected = {}
    for protein, length in enumerate(lengths):
        tile = LONG_TILE if length > LONG else TILE
        expected |= {(protein, begin): tile for begin in range(0, length, tile.queries)}
    assert found == expected


@pytest.mark.parametrize("dim", [320, 480, 1280, 2560])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)]
)
def test_norm_of_the_residual_equals_pytorchs(dim, dtype, tolerance):
    weight, bias = (1 + 0.1 * torch.randn(dim)).to(dtype), (0.1 * torch.randn(dim)).to(dtype)
    x, offset = 3 * torch.randn(5, dim).to(dtype) + 2, torch.randn(dim)
    expected = nn.functional.layer_norm(x + offset, (dim,), weight.float(), bias.float(), 1e-5)
    found = kernels.layer_norm(*on_device(x, offset, weight, bias), 1e-5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float().cpu(), expected, atol=tolerance, rtol=0)


def test_no_tokens_are_no_work():
    cos, sin = rotary_tables(4, exact_frequencies(16), DEVICE)
    nowhere, ends = on_device(torch.empty(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int32))
    (ones,) = on_device(torch.ones(8))
    kernels.rotate_(torch.empty(0, 3, 2, 16, device=DEVICE), nowhere, cos, sin)
    assert kernels.layer_norm(torch.empty(0, 8, device=DEVICE), ones, ones, ones, 1e-5).shape == (0, 8)
    none = torch.empty(0, 3, 2, 16, device=DEVICE).half()
    assert kernels.attend(none, nowhere, cos, sin, ends, 0).shape == (0, 2, 16)


@pytest.mark.parametrize(
    "call",
    [
        lambda places, ones, tables: kernels.rotate_(torch.ones(4, 2, 3, 16).transpose(1, 2), places, *tables),
        lambda places, ones, tables: kernels.rotate_(torch.ones(4, 3, 2, 8), places, *tables),
        lambda places, ones, tables: kernels.layer_norm(torch.ones(8, 4).T, ones, ones, ones, 1e-5),
        lambda places, ones, tables: kernels.layer_norm(torch.ones(4, 8), ones.half(), ones, ones, 1e-5),
        lambda places, ones, tables: kernels.attend(
            torch.ones(4, 3, 2, 16), places, *tables, torch.tensor([0, 4]), 4
        ),
    ],
    ids=["strided qkv", "tables of another width", "strided rows", "FP16 offset", "FP32 attention"],
)
def test_what_the_kernels_cannot_take_is_refused(call):
    tables = rotary_tables(4, exact_frequencies(16), torch.device("cpu"))
    with pytest.raises(ValueError, match="needed, not"):
        call(torch.zeros(4, dtype=torch.int32), torch.ones(8), tables)
