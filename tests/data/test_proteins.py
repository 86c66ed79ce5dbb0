"""ProteinReader: what is embedded, skipped, cut and named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.data.fasta import FastaError
from virnucpro.data.proteins import NAMES_KEPT, Names, ProteinReader
from virnucpro.data.tokens import RESIDUES


@pytest.mark.parametrize(
    "written, embedded",
    [
        ("MKT", "MKT"),
        ("mkT", "MKT"),
        ("MKT*", "MKT"),
        ("XBUZO", "XBUZO"),
        ("MK-T.A", "MK-T.A"),
    ],
    ids=["plain", "lower case", "stop at the end", "rare letters", "gaps"],
)
def test_these_are_embedded(written, embedded):
    reader = ProteinReader([("a", written)])
    assert list(reader) == [("a", embedded)]
    assert not reader.skipped


@pytest.mark.parametrize(
    "written, reason",
    [("", "empty"), ("*", "empty"), ("M*K", "letters"), ("MJK", "letters"), ("MK1", "letters"), ("Mß", "letters")],
    ids=["empty", "only a stop", "stop inside", "J", "digit", "non-ASCII"],
)
def test_these_are_skipped_counted_and_named(written, reason):
    reader = ProteinReader([("a", written), ("b", "MK")])
    assert list(reader) == [("b", "MK")]
    ((what, tally),) = reader.skipped.items()
    assert what.startswith(reason) and (tally.count, tally.names) == (1, ["a"])
    assert reader.records == 2


@pytest.mark.parametrize("records", [[("a", "")], [("a", "MJK")], [("a", "MK"), ("a", "ML")]])
def test_strict_makes_it_an_error_that_names_the_sequence(records):
    with pytest.raises(FastaError, match="'a'"):
        list(ProteinReader(records, strict=True))


def test_sequences_of_one_name_are_all_kept_and_counted():
    reader = ProteinReader([("a", "MK"), ("b", "M"), ("a", "ML"), ("a", "MK")])
    assert list(reader) == [("a", "MK"), ("b", "M"), ("a", "ML"), ("a", "MK")]
    assert (reader.repeated.count, reader.repeated.names) == (2, ["a", "a"])


def test_a_longer_protein_is_cut_and_counted():
    reader = ProteinReader([("long", "M" * 40_000), ("fits", "M" * 1022)], max_length=1022)
    assert [len(protein) for _, protein in reader] == [1022, 1022]
    assert (reader.truncated.count, reader.truncated.names) == (1, ["long"])


def test_without_a_limit_nothing_is_cut():
    reader = ProteinReader([("long", "M" * 40_000)])
    assert [len(protein) for _, protein in reader] == [40_000]


def test_only_the_first_names_are_kept_and_long_ones_are_shortened():
    reader = ProteinReader([("n" * 1_000_000, "")] * 2 + [(str(number), "") for number in range(100)])
    assert list(reader) == []
    tally = reader.skipped["empty"]
    assert tally.count == 102 and len(tally.names) == NAMES_KEPT
    assert tally.names[0].endswith("... (1,000,000 characters)") and len(tally.names[0]) < 120


def test_dna_is_translated():
    reader = ProteinReader([("contig", "atgaaaacc"), ("protein", "MKE")], chunk=500)
    assert ("contig_chunk_1F1", "MKT") in list(reader)
    assert reader.skipped["letters that are no nucleotides"].names == ["protein"]


def test_dna_without_translation_is_warned_of(caplog):
    list(ProteinReader([("contig", "ACGT" * 20), ("other", "ACGT" * 20)]))
    assert [record.getMessage() for record in caplog.records] == [
        "contig looks like DNA and is embedded as a protein: should this be --translate six-frame?"
    ]


@given(st.lists(st.tuples(st.text(), st.text())))
def test_whatever_comes_out_esm2_can_embed(records):
    reader = ProteinReader(records, max_length=50)
    out = list(reader)
    assert all(0 < len(protein) <= 50 and set(protein) <= set(RESIDUES) for _, protein in out)
    assert len(out) + sum(tally.count for tally in reader.skipped.values()) == len(records)


@given(st.lists(st.text()))
def test_names_knows_what_came_before(words):
    names = Names()
    assert [names.add(word) for word in words] == [word not in words[:index] for index, word in enumerate(words)]


def test_names_grows():
    names = Names()
    assert all(names.add(str(number)) for number in range(5_000))
    assert not any(names.add(str(number)) for number in range(5_000))
