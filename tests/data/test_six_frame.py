"""Six-frame translation: Biopython as the oracle, and VirNucPro's fragments and names."""

import itertools

import pytest
from Bio.Data import CodonTable
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.data.six_frame import GENETIC_CODES, MEANINGS, NUCLEOTIDES, fragments, six_frames, translate


def by_biopython(dna: str, code: int = 1) -> list[str]:
    strands = (Seq(dna), Seq(dna).reverse_complement())
    frames = [strand[frame : frame + (len(strand) - frame) // 3 * 3] for strand in strands for frame in range(3)]
    # Biopython has letters for two residues that ESM-2 lacks or that say less than X does to it
    return [str(frame.translate(code)).translate(str.maketrans("BZJ", "XXX")) for frame in frames]


@given(st.text("ACGT", max_size=200))
def test_six_frames_are_biopythons(dna):
    assert six_frames(dna) == by_biopython(dna)


@given(st.text(sorted(NUCLEOTIDES - {"U"}), max_size=60))
def test_six_frames_of_ambiguous_letters_are_biopythons(dna):
    assert six_frames(dna) == by_biopython(dna)


def test_the_genetic_codes_are_biopythons():
    assert set(GENETIC_CODES) == set(CodonTable.unambiguous_dna_by_id)
    for code, residues in GENETIC_CODES.items():
        table = CodonTable.unambiguous_dna_by_id[code].forward_table
        codons = map("".join, itertools.product("TCAG", repeat=3))
        assert residues == "".join(table.get(codon, "*") for codon in codons), code


@pytest.mark.parametrize("code", GENETIC_CODES)
@given(st.text("ACGT", max_size=100))
@settings(max_examples=20)
def test_six_frames_of_every_code_are_biopythons(code, dna):
    assert six_frames(dna, code) == by_biopython(dna, code)


@pytest.mark.parametrize("code", sorted(set(GENETIC_CODES) - {27, 28, 31}))  # whose codons with two meanings X is
@given(st.text(sorted(NUCLEOTIDES - {"U"}), max_size=60))
@settings(max_examples=20)
def test_ambiguous_letters_of_every_code_are_biopythons(code, dna):
    assert six_frames(dna, code) == by_biopython(dna, code)


@given(dna=st.text("ACGTN", max_size=120), chunk=st.integers(3, 50), code=st.sampled_from(sorted(GENETIC_CODES)))
def test_proteins_are_those_of_the_code(dna, chunk, code):
    found = dict(translate("c", dna, chunk, code))
    for number, (start, end) in enumerate(fragments(len(dna), chunk), start=1):
        for frame, protein in zip(
            ["F1", "F2", "F3", "R1", "R2", "R3"], six_frames(dna[start:end], code), strict=True
        ):
            is_open = "*" not in protein and bool(protein.strip("X"))
            assert found.get(f"c_chunk_{number}{frame}") == (protein if is_open else None)


def test_u_is_t():
    assert six_frames("AUGUUUGAC") == six_frames("ATGTTTGAC")


def test_every_letter_of_iupacs_is_known():
    assert "".join(MEANINGS) == "ACGTRYSWKMBDHVN"


def starts_by_virnucpros_rule(length: int, chunk: int) -> list[int]:
    """Its split_fasta_chunk: the surplus of the last fragment is divided by the number of fragments."""
    count = -(-length // chunk)
    surplus = count * chunk - length
    share = int(surplus / count)
    left_over = surplus - share * (count - 1)
    shifts = ([share + 1] * left_over + [share] * (count - 1 - left_over) + [0])[:count]
    return [number * chunk - sum(shifts[:number]) for number in range(count)]


@given(length=st.integers(1, 5000), chunk=st.integers(3, 700))
def test_fragments_are_virnucpros(length, chunk):
    found = list(fragments(length, chunk))
    assert [start for start, _ in found] == starts_by_virnucpros_rule(length, chunk)
    assert [end for _, end in found] == [min(start + chunk, length) for start, _ in found]


@given(length=st.integers(1, 5000), chunk=st.integers(3, 700))
def test_fragments_cover_every_nucleotide(length, chunk):
    found = list(fragments(length, chunk))
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(after <= end for (_, end), (after, _) in itertools.pairwise(found))


def test_nothing_has_no_fragment():
    assert list(fragments(0, 500)) == []


@given(dna=st.text("ACGTN", max_size=120), chunk=st.integers(3, 50))
def test_proteins_are_the_frames_without_a_stop(dna, chunk):
    expected = []
    for number, (start, end) in enumerate(fragments(len(dna), chunk), start=1):
        for frame, protein in zip(["F1", "F2", "F3", "R1", "R2", "R3"], by_biopython(dna[start:end]), strict=True):
            if protein.replace("X", "") and "*" not in protein:
                expected.append((f"contig_chunk_{number}{frame}", protein))
    assert list(translate("contig", dna, chunk)) == expected


@pytest.mark.parametrize("dna", ["", "A", "AC", "TAA", "NNNNNNNNN"])
def test_no_protein_comes_from_what_has_no_known_codon(dna):
    assert [protein for name, protein in translate("x", dna, 500) if name.endswith("F1")] == []
