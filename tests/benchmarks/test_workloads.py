"""The proteins: seeded sets, FASTA files, batches."""

import bz2
import gzip
import hashlib
import itertools
import lzma

import pytest
import zstandard

from benchmarks.suite import fragments
from benchmarks.suite.hardware import PASS_TOKENS, pass_tokens
from benchmarks.suite.program import packed, padded
from benchmarks.suite.workloads import (
    AMINO_ACIDS,
    FASTA_VARIABLE,
    FRAGMENTS,
    LENGTHS,
    copies_in_a_pass,
    joined,
    proteins,
    read_fasta,
    sample,
    tokens_in,
)
from virnucpro.data.six_frame import translate


@pytest.mark.parametrize("workload", LENGTHS)
def test_seeded_workloads_are_the_same_on_every_device(workload):
    assert proteins(workload, "cpu") == proteins(workload, "cuda")
    assert [len(protein) for _, protein in proteins(workload, "cpu")] == LENGTHS[workload]


def test_seeded_workloads_never_change():
    everything = "".join(protein for workload in LENGTHS for _, protein in proteins(workload, "cpu"))
    assert set(everything) == set(AMINO_ACIDS)
    assert hashlib.sha256(everything.encode()).hexdigest()[:16] == "1189dcf11b61c10c"


def test_mixed_is_spread_over_20_to_400_residues():
    assert min(LENGTHS["mixed"]) >= 20
    assert max(LENGTHS["mixed"]) <= 400
    assert sum(LENGTHS["mixed"]) / len(LENGTHS["mixed"]) == pytest.approx(210, abs=1)


def test_fragments_are_what_virnucpro_embed_makes_of_the_first_seeded_contigs_with_a_protein():
    contigs = [(f"fragments{number}", fragments.contig(number)) for number in range(fragments.CONTIGS[-1] + 1)]
    made = [list(translate(name, dna, chunk=500)) for name, dna in contigs]
    assert [number for number, proteins in enumerate(made) if proteins] == list(fragments.CONTIGS)
    assert proteins(FRAGMENTS, "cpu") == proteins(FRAGMENTS, "cuda") == list(itertools.chain(*made))
    assert [len(residues) for _, residues in proteins(FRAGMENTS, "cpu")] == [166] * 3
    assert {len(dna) for _, dna in contigs} == {500}


def test_all_frames_without_a_stop_codon_are_translated_as_virnucpro_embed_does():
    dna = fragments.contig(0).replace("T", "C")  # all stop codons have a T, and the other strand's an A
    found = list(fragments.translated("a", dna))
    assert found == list(translate("a", dna, chunk=500))
    assert [name[-2:] for name, _ in found] == ["F1", "F2", "F3", "R1", "R2", "R3"]


def test_tokens_are_residues_bos_and_eos():
    assert tokens_in([("a", "MKT"), ("b", "M")]) == 8


@pytest.mark.parametrize("model", PASS_TOKENS)
@pytest.mark.parametrize("workload", [*LENGTHS, FRAGMENTS])
def test_a_pass_fills_a_gpu_and_is_one_copy_on_a_cpu(workload, model):
    entries, full = proteins(workload, "cpu"), pass_tokens(model, "cuda")
    assert copies_in_a_pass(entries, pass_tokens(model, "cpu")) == 1
    assert 0.85 * full < copies_in_a_pass(entries, full) * tokens_in(entries) <= full


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_pass_holds_all_copies_sorted_by_length_in_packs_and_in_padded_batches(size):
    entries = joined([("a", "MKT"), ("b", "M" * 20)], 7)
    assert [label for label, _ in entries] == ["a"] * 7 + ["b"] * 7
    for labels in (
        [label for pack in packed(entries, 22 * size) for label in pack.sequence_ids],
        [label for batch in padded(entries, size) for label in batch[0]],
    ):
        assert labels == [label for label, _ in entries]


def fasta(tmp_path, text, **kw):
    path = tmp_path / "proteins.fasta"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_fasta_takes_wrapped_lower_case_windows_lines_and_a_stop_at_the_end(tmp_path):
    path = fasta(tmp_path, ">one first protein\r\nMKT\r\nayi\r\n\r\n>two\r\nMXBUZO.-*\r\n")
    assert read_fasta(path) == [("one", "MKTAYI"), ("two", "MXBUZO.-")]


def test_a_record_without_a_name_is_called_by_its_line(tmp_path):
    assert read_fasta(fasta(tmp_path, ">\nMK\n")) == [("line1", "MK")]


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("MKT\n", "is not FASTA"),
        (">a\nMKT\n>b\nMJ1\n", "letters that ESM-2 does not know: 1: b .*; mend or remove"),
        (">a\nMKT\n>b\n", "empty: 1: b .*; mend or remove"),
        (">a\nMK\n>a\nMKT\n", "a name that came before: 1: a; mend or remove"),
        (">big\n" + "M" * 40_000, "sequence 'big' has 40,000 residues, more than 10,000; remove or cut it"),
        (b"\x1f\x8b\x08\x00\xff", "gzip"),
        (">a\nMK>b\nMK\n", "'>'"),
    ],
)
def test_a_file_that_cannot_be_benchmarked_is_named_with_the_remedy(tmp_path, text, said):
    path = fasta(tmp_path, text)
    with pytest.raises(ValueError, match=said) as caught:
        read_fasta(path)
    assert str(path) in str(caught.value)
    assert FASTA_VARIABLE in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*gone\.fasta: No such file"):
        read_fasta(tmp_path / "gone.fasta")


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_a_compressed_file_is_read(tmp_path, compress):
    assert read_fasta(fasta(tmp_path, compress(b">a b\nMK\n>c\nm\n"))) == [("a", "MK"), ("c", "M")]


def test_a_sample_is_seeded_and_just_reaches_the_residues_asked_for():
    entries = [(str(index), "A" * (1 + index % 50)) for index in range(500)]
    drawn = sample(entries, 2_000)
    assert drawn == sample(entries, 2_000)
    assert len(set(drawn)) == len(drawn)
    total = sum(len(protein) for _, protein in drawn)
    assert total - len(drawn[-1][1]) < 2_000 <= total


def test_a_small_file_is_used_whole():
    entries = [("a", "MKT"), ("b", "MK")]
    assert sorted(sample(entries, 2_000)) == entries


def test_the_fasta_workload_reads_the_file_that_the_variable_names(tmp_path, monkeypatch):
    monkeypatch.setenv(FASTA_VARIABLE, str(fasta(tmp_path, ">one\nMKT\n")))
    assert proteins("fasta", "cpu") == [("one", "MKT")]


def test_a_relative_path_is_taken_from_the_projects_folder(tmp_path, monkeypatch):
    fasta(tmp_path, ">one\nMKT\n")
    monkeypatch.setenv("ASV_CONF_DIR", str(tmp_path))
    monkeypatch.setenv(FASTA_VARIABLE, "proteins.fasta")
    assert proteins("fasta", "cpu") == [("one", "MKT")]
