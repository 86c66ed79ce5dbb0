"""Tokens are fair-esm's."""

import re

import esm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import RAGGED
from virnucpro.data.tokens import RESIDUES, BatchConverter, encode

ALPHABET = esm.Alphabet.from_architecture("ESM-1b")
PROTEIN = st.lists(st.sampled_from([*RESIDUES, "<mask>"]), min_size=1, max_size=40).map("".join)


@given(st.lists(PROTEIN, min_size=1, max_size=5), st.sampled_from([None, 1, 10]))
def test_the_converter_makes_fair_esms_tokens(proteins, truncation):
    entries = [(f"p{index}", protein) for index, protein in enumerate(proteins)]
    expected = ALPHABET.get_batch_converter(truncation)(entries)
    found = BatchConverter(truncation)(entries)
    assert found[:2] == expected[:2]
    assert torch.equal(found[2], expected[2])


def test_an_empty_batch_gives_no_rows():
    labels, proteins, tokens = BatchConverter()([])
    assert (labels, proteins, tuple(tokens.shape), tokens.dtype) == ([], [], (0, 2), torch.int64)


@pytest.mark.parametrize("letter", ["J", "m", "*", " ", "1", "#", "é", "蛋", "\x00", "<", "<pad>"])
def test_a_letter_that_esm2_does_not_know_is_named_with_its_sequence(letter):
    said = rf"sequence 'bad' has .*{re.escape(repr(letter[0]))}.*replace other letters by X"
    with pytest.raises(ValueError, match=said):
        BatchConverter()([RAGGED[0], ("bad", "M" + letter + "K")])


@given(st.text(max_size=20))
def test_any_text_is_tokenised_or_refused_with_its_name(text):
    try:
        tokens = encode("name", text)
    except ValueError as error:
        assert "sequence 'name'" in str(error)
    else:
        assert tokens.min() >= 0
