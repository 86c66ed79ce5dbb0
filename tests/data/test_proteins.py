"""ProteinReader: what is embedded, skipped, cut and named."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.data.fasta import Fasta
from virnucpro.data.proteins import NAMES_KEPT, SHARE_OF_DNA, SHORTEST_DNA, Names, ProteinReader, RecordError
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
    with pytest.raises(RecordError, match="'a'"):
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


def test_dna_without_translation_is_warned_of_once_and_counted_wherever_it_comes(caplog):
    reader = ProteinReader([("protein", "MKTAYIAK" * 5), ("contig", "ACGT" * 20), ("more", "acgtnryACGT" * 20)])
    assert len(list(reader)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "contig looks like DNA and is embedded as a protein: should this be --translate six-frame?"
    ]
    assert reader.like_dna.names == ["contig"]


@given(st.text(RESIDUES, min_size=1, max_size=200))
def test_what_looks_like_dna_has_the_letters_of_dna(protein):
    reader = ProteinReader([("x", protein)])
    list(reader)
    share = sum(protein.count(letter) for letter in "ACGTUN") / len(protein)
    assert reader.like_dna.count == (share >= SHARE_OF_DNA and len(protein) >= SHORTEST_DNA)


NO_PROTEIN = [
    ("N" * 40, "no codon that is known"),
    ("NNANNCNNGNNT", "no codon that is known"),
    ("", "empty"),
    ("A", "under three nucleotides"),
    ("AC", "under three nucleotides"),
    ("TTAATTAATTAA" * 10, None),  # a stop codon in each frame
    ("NTTAATTAATTAANNN", None),
    ("ATGQ", "letters that are no nucleotides"),
]


@pytest.mark.parametrize("dna, reason", NO_PROTEIN)
def test_dna_that_gives_no_protein_is_counted_and_named(dna, reason):
    skipped = []
    reader = ProteinReader([("contig", dna), ("good", "ATGAAAACC")], chunk=60, on_skip=skipped.append)
    assert {name.partition("_")[0] for name, _ in reader} == {"good"}
    tally = reader.skipped[reason] if reason else reader.without_open_frame
    assert (tally.count, tally.names) == (1, ["contig"])
    assert [(each.name, each.reason) for each in skipped] == [("contig", reason or "no open reading frame")]
    with pytest.raises(RecordError, match=f"'contig' cannot be embedded: {skipped[0].reason}"):
        list(ProteinReader([("contig", dna)], chunk=60, strict=True))


DNA = st.one_of(
    st.text("ACGT", max_size=60),
    st.text("N", max_size=60),
    st.text("ACGTN", max_size=4),
    st.lists(st.sampled_from(["TAA", "TAG", "TGA", "TTA", "CTA", "TCA"]), max_size=30).map("".join),
    st.text("acgtunRYSWKMBDHV-*Q1ß ", max_size=30),
)


@given(st.lists(st.tuples(st.text(max_size=3), DNA), max_size=20), st.integers(3, 40))
def test_every_record_is_accounted_for(records, chunk):
    skipped = []
    reader = ProteinReader(records, chunk=chunk, on_skip=skipped.append)
    frames = [name.rpartition("_chunk_")[0] for name, _ in reader]
    tallies = [*reader.skipped.values(), reader.without_open_frame]
    assert reader.records == len(records)
    assert reader.embedded + sum(tally.count for tally in tallies) == len(records)
    assert len(skipped) == len(records) - reader.embedded
    assert {name for name, _ in records} == set(frames) | {each.name for each in skipped}
    strict = ProteinReader(records, chunk=chunk, strict=True)
    if skipped or len({name for name, _ in records}) < len(records):
        with pytest.raises(RecordError):
            list(strict)
    else:
        assert len(list(strict)) == len(frames) and strict.embedded == len(records)


@pytest.mark.parametrize(
    "sequence, chunk, detail, line",
    [
        ("MK\nT1M\nJ", None, "'1' in line 3", 3),
        ("MK\n;\n\nTA\nJ*", None, "'J' in line 6", 6),
        ("M*K", None, "'*' in line 2", 2),
        ("MK\xe9K", None, r"'\xe9' in line 2", 2),
        ("", None, "line 1", 1),
        ("ACG\nACZ", 500, "'Z' in line 3", 3),
        ("NNN\nNNN", 500, "line 1", 1),
        ("TTAATTAATTAA", 500, "line 1", 1),
    ],
)
def test_the_letter_and_the_line_of_what_is_skipped_are_told(tmp_path, sequence, chunk, detail, line):
    path = tmp_path / "in.fasta"
    path.write_bytes(f">bad\n{sequence}\n".encode("latin-1"))
    skipped = []
    with Fasta(path) as fasta:
        list(ProteinReader(fasta, chunk=chunk, on_skip=skipped.append))
    assert [(each.detail, each.file, each.line) for each in skipped] == [(f"{detail} of {path}", str(path), line)]
    with Fasta(path) as fasta, pytest.raises(RecordError, match=re.escape(f"({detail} of {path})")):
        list(ProteinReader(fasta, chunk=chunk, strict=True))


def test_where_there_are_no_lines_the_place_in_the_sequence_is_told():
    with pytest.raises(RecordError, match=r"'a' .*\('1' in place 3\)"):
        list(ProteinReader([("a", "MK1")], strict=True))


def test_control_characters_in_names_are_shown_as_escapes():
    reader = ProteinReader([("a\x1b[2J\x07", "")])
    list(reader)
    assert str(reader.skipped["empty"]) == r"1: a\x1b[2J\x07"


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
