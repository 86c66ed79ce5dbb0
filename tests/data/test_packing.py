"""Packing: every residue once, in order, within the budget."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import RAGGED
from virnucpro.data.packing import pack, unpad
from virnucpro.data.tokens import RESIDUES, BatchConverter, encode

ENTRIES = st.lists(st.text(RESIDUES, min_size=1, max_size=30), max_size=30).map(
    lambda proteins: [(f"p{index}", protein) for index, protein in enumerate(proteins)]
)


@given(ENTRIES, st.integers(1, 100))
def test_every_token_is_packed_once_and_in_order(entries, budget):
    packs = list(pack(entries, budget))
    assert [name for each in packs for name in each.sequence_ids] == [name for name, _ in entries]
    packed = torch.cat([each.input_ids for each in packs]).tolist() if packs else []
    assert packed == [token for entry in entries for token in encode(*entry).tolist()]


@given(ENTRIES, st.integers(1, 100))
def test_a_pack_keeps_the_budget_unless_one_protein_alone_is_larger(entries, budget):
    for each in pack(entries, budget):
        assert len(each.input_ids) <= budget or len(each) == 1


@given(ENTRIES, st.integers(1, 100))
def test_no_pack_ends_before_it_must(entries, budget):
    for first, second in itertools.pairwise(pack(entries, budget)):
        assert len(first.input_ids) + second.lengths[0] > budget


@given(ENTRIES, st.integers(1, 100), st.integers(1, 5))
def test_a_pack_has_at_most_so_many_proteins(entries, budget, most):
    assert all(1 <= len(each) <= most for each in pack(entries, budget, max_proteins=most))


@given(ENTRIES, st.integers(1, 100))
def test_lengths_say_where_each_protein_is(entries, budget):
    for each in pack(entries, budget):
        assert each.max_seqlen == max(each.lengths)
        assert each.cu_seqlens[0] == 0
        assert each.cu_seqlens[-1] == len(each.input_ids)
        starts = each.input_ids[each.cu_seqlens[:-1].long()]
        assert starts.eq(0).all()  # BOS


@given(ENTRIES.filter(lambda entries: len(entries) > 1))
def test_halves_of_a_pack_are_the_pack(entries):
    (whole,) = pack(entries, 10_000)
    halves = whole.split()
    assert [name for half in halves for name in half.sequence_ids] == whole.sequence_ids
    assert torch.equal(torch.cat([half.input_ids for half in halves]), whole.input_ids)
    assert [length for half in halves for length in half.lengths] == whole.lengths
    for half in halves:
        assert half.cu_seqlens[0] == 0
        assert half.max_seqlen == max(half.lengths)


def test_a_pack_of_one_protein_cannot_be_split():
    (whole,) = pack(RAGGED[:1], 10)
    with pytest.raises(ValueError, match="pack of 1 proteins"):
        whole.split()


def test_a_padded_batch_becomes_the_pack_of_its_proteins():
    (expected,) = pack(RAGGED, 10_000)
    labels, _, tokens = BatchConverter()(RAGGED)
    found = unpad(labels, tokens)
    assert found.sequence_ids == expected.sequence_ids
    assert torch.equal(found.input_ids, expected.input_ids)
    assert torch.equal(found.cu_seqlens, expected.cu_seqlens)
    assert (found.cu_seqlens.dtype, found.max_seqlen) == (torch.int32, expected.max_seqlen)


def test_proteins_are_taken_as_they_are_packed():
    taken = []

    def endless():
        for index in itertools.count():
            taken.append(index)
            yield f"p{index}", "MKTAYIAK"

    next(pack(endless(), 100))
    assert len(taken) == 11  # ten of ten tokens, and the one that did not fit


def test_a_budget_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="token budget of 0"):
        next(pack(RAGGED, 0))


def test_a_wrong_letter_is_named_with_its_sequence():
    with pytest.raises(ValueError, match="sequence 'bad' has 'J'"):
        list(pack([("good", "MK"), ("bad", "MJK")], 100))
