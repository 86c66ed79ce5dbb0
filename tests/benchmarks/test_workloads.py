"""The proteins: seeded sets, FASTA files, batches."""

import bz2
import gzip
import hashlib
import lzma

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _workloads
from benchmarks._hardware import PASS_TOKENS, pass_tokens
from benchmarks._workloads import (
    AMINO_ACIDS,
    BATCH_TOKENS,
    FASTA_VARIABLE,
    LENGTHS,
    LONGEST,
    chunks,
    copies_in_a_pass,
    joined,
    proteins,
    read_fasta,
    sample,
    token_batches,
    tokens_in,
)
from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.data.proteins import ProteinReader


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


def test_tokens_are_residues_bos_and_eos():
    assert tokens_in([("a", "MKT"), ("b", "M")]) == 8


@pytest.mark.parametrize("model", PASS_TOKENS)
@pytest.mark.parametrize("workload", LENGTHS)
def test_a_pass_fills_a_gpu_and_is_one_copy_on_a_cpu(workload, model):
    entries, full = proteins(workload, "cpu"), pass_tokens(model, "cuda")
    assert copies_in_a_pass(entries, pass_tokens(model, "cpu")) == 1
    assert 0.85 * full < copies_in_a_pass(entries, full) * tokens_in(entries) <= full


lengths = st.lists(st.integers(1, 300), max_size=60).map(sorted)


@given(lengths, st.integers(10, 500))
def test_batches_keep_every_protein_once_in_order_and_the_budget(sizes, budget):
    entries = [(str(index), "A" * size) for index, size in enumerate(sizes)]
    found = list(chunks(entries, budget))
    assert [entry for chunk in found for entry in chunk] == entries
    for chunk in found:
        assert len(chunk) == 1 or len(chunk) * (len(chunk[-1][1]) + 2) <= budget


def test_token_batches_hold_all_copies():
    entries = [("a", "MKT"), ("b", "M" * 20)]
    batches = token_batches(joined(entries, 1_000), lambda chunk: chunk, "cuda")
    labels = [label for chunk in batches for label, _ in chunk]
    assert labels.count("a") == labels.count("b") == 1_000
    assert all(len(chunk) * (len(chunk[-1][1]) + 2) <= BATCH_TOKENS["cuda"] for chunk in batches)


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
        ("", "holds no protein"),
        ("\n\n", "holds no protein"),
        ("MKT\n", "not a FASTA file: line 1 comes before"),
        (">a\nMKT\n>b\nMJ1\n", "sequence 'b' has '1' 'J', no amino acids; replace them by X"),
        (">a\nMKT\n>b\n", "sequence 'b' is empty; remove it"),
        (">a\nMK\n>a\nMKT\n", "2 sequences are called 'a'; rename them"),
        (">big\n" + "M" * 40_000, "sequence 'big' has 40,000 residues, more than 10,000; remove or cut it"),
        (b"\x1f\x8b\x08\x00\xff", "it is damaged"),
        (">a\nMK>b\nMK\n", "'>' inside a sequence in line 2"),
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


LINES = [
    *(b">a b\n", b" >b\n", b">c>d\n", b"\xef\xbb\xbf>e\r\n", b">\xe9\n", b">\xe2\x80\xa8f\n", b">\n"),
    *(b"MK\n", b"m k*\n", b"**\n", b"XBUZO.-\n", b"\x0cMK\x0b\n", b"MK>b\n", b"1\n", b"M\xc3\x9f\n", b"MK"),
    *(b";x\n", b"#\n", b"\n", b"\x1a", b"\xe2\x80\xa8\n", b"\r"),
]


@given(
    content=st.lists(st.sampled_from(LINES) | st.binary(max_size=3), max_size=8).map(b"".join),
    compress=st.sampled_from(
        [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress]
    ),
    copies=st.integers(1, 2),
)
def test_a_file_is_read_as_virnucpro_embed_reads_it(tmp_path_factory, content, compress, copies):
    path = tmp_path_factory.getbasetemp() / "same.fasta"
    path.write_bytes(b"".join([compress(content)] * copies))
    try:
        with Fasta(path) as records:
            expected = list(ProteinReader(records, strict=True))
    except FastaError:
        expected = None
    try:
        assert read_fasta(path) == expected
    except ValueError:
        assert expected is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "arbitrary.fasta"
    path.write_bytes(data)
    try:
        entries = read_fasta(path)
    except ValueError:
        return
    assert all(0 < len(protein) <= LONGEST for _, protein in entries)


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


def test_the_letters_are_those_of_esm2s_alphabet():
    from virnucpro.data.tokens import RESIDUES

    assert set(_workloads.LETTERS) == set(RESIDUES)


def test_a_relative_path_is_taken_from_the_projects_folder(tmp_path, monkeypatch):
    fasta(tmp_path, ">one\nMKT\n")
    monkeypatch.setenv("ASV_CONF_DIR", str(tmp_path))
    monkeypatch.setenv(FASTA_VARIABLE, "proteins.fasta")
    assert proteins("fasta", "cpu") == [("one", "MKT")]
