"""Fasta: what is read of good files, odd files and no FASTA at all."""

import bz2
import gzip
import lzma
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnucpro.data.fasta import Fasta, FastaError

reading_files = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(path):
    with Fasta(path) as fasta:
        return list(fasta)


@pytest.fixture
def written(tmp_path):
    def write(content: bytes, name: str = "in.fasta"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    "content, expected",
    [
        (b">a\nMKT\n", [("a", "MKT")]),
        (b">a\nMKT", [("a", "MKT")]),
        (b">a\nMK\n\nTA\n>b\nM\n", [("a", "MKTA"), ("b", "M")]),
        (b">a some words\n>b\tmore\nM\n", [("a", ""), ("b", "M")]),
        (b"\n\n> a\nMK T\t\n", [("a", "MKT")]),
        (b">a\r\nMK\r\nTA\r\n", [("a", "MKTA")]),
        (b">a\rMK\rTA\r>b\rM", [("a", "MKTA"), ("b", "M")]),
        (b"\xef\xbb\xbf>a\nM\n", [("a", "M")]),
        (b">a\nMK\n>\nM\n", [("a", "MK"), ("line3", "M")]),
        (">Hüllprotein_α\nMK\n".encode(), [("Hüllprotein_α", "MK")]),
        (b">H\xfcll\nMK\n", [("H\\xfcll", "MK")]),
        (b">a\0b\nMK\n", [("a\\x00b", "MK")]),
        (b">a\nmkT*\n", [("a", "mkT*")]),
    ],
    ids=["plain", "no last newline", "blank line", "descriptions", "white space", "Windows", "old Mac", "BOM",
         "nameless", "UTF-8", "Latin-1", "NUL", "case"],
)  # fmt: skip
def test_records_are_read(written, content, expected):
    assert read(written(content)) == expected


@pytest.mark.parametrize("name", ["in.fasta.gz", "in.fasta"], ids=["named so", "named otherwise"])
def test_gzip_is_recognised_by_its_content(written, name):
    assert read(written(gzip.compress(b">a\nMKT\n"), name)) == [("a", "MKT")]


def test_several_gzip_members_are_one_file(written):
    assert read(written(gzip.compress(b">a\nMK") + gzip.compress(b"T\n>b\nM\n"))) == [("a", "MKT"), ("b", "M")]


@pytest.mark.parametrize("content", [b">a\nMKT\n", gzip.compress(b">a\nMKT\n")], ids=["plain", "gzip"])
def test_a_dash_is_standard_input(written, content):
    before = os.dup(0)
    try:
        with written(content).open("rb") as file:
            os.dup2(file.fileno(), 0)
        assert read("-") == [("a", "MKT")]
        os.fstat(0)  # still open
    finally:
        os.dup2(before, 0)
        os.close(before)


def test_a_header_of_a_megabyte_is_read(written):
    long = "x" * 2**20
    assert read(written(f">a {long}\nMKT\n>{long}\nM\n".encode())) == [("a", "MKT"), (long, "M")]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty: it has no FASTA record"),
        (b"\n \n", "is empty"),
        (b"MKTAYI\n>a\nMK\n", "is not FASTA: it starts with 'MKTAYI"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not FASTA"),
        (b"@read/1\nACGT\n+\n!!!!\n", "is not FASTA: it starts with '@read/1"),
        (bz2.compress(b">a\nMK\n"), "compressed with bzip2: unpack it"),
        (lzma.compress(b">a\nMK\n"), "compressed with xz: unpack it"),
        (gzip.compress(b"MKT\n"), "is not FASTA"),
        (gzip.compress(b""), "is empty"),
        (gzip.compress(b">a\n" + bytes(range(65, 90)) * 4000)[:-20], "cut short or damaged"),
        (gzip.compress(b">a\nMKT\n")[:-1], "cut short or damaged"),
        (gzip.compress(b">a\nMKT\n")[:5], "cut short or damaged"),
        (gzip.compress(b">a\nMKT\n") + b"garbage", "cut short or damaged"),
    ],
)
def test_what_is_not_fasta_is_refused_by_name(written, content, message):
    path = written(content)
    with pytest.raises(FastaError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_an_endless_file_without_lines_is_refused_at_once():
    with pytest.raises(FastaError, match="/dev/zero is not FASTA"):
        Fasta("/dev/zero")


@pytest.mark.parametrize("name, message", [("missing.fasta", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, name, message):
    with pytest.raises(FastaError, match=f"cannot read .*{message}"):
        Fasta(tmp_path / name)


def test_the_fraction_read_grows_to_one(written):
    with Fasta(written(b">a\nMKT\n" * 100_000)) as fasta:
        seen = [fasta.fraction() for _ in fasta]
    assert 0 < seen[0] < 0.5 and seen == sorted(seen) and seen[-1] == 1


@reading_files
@given(content=st.binary(max_size=300), compressed=st.booleans())
def test_arbitrary_bytes_are_records_or_a_fasta_error(written, content, compressed):
    try:
        records = read(written(gzip.compress(content) if compressed else content))
    except FastaError:
        return
    assert records and all(name and not set(sequence) & set(" \n\r\t") for name, sequence in records)


@reading_files
@given(
    records=st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cc", "Zs"]), min_size=1),
            st.text("ACDEFGHIKLMNPQRSTVWYXacgt*-"),
        ),
        min_size=1,
        max_size=5,
    ),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    width=st.integers(1, 80),
)
def test_what_is_written_is_read(written, records, line_end, width):
    lines = []
    for name, sequence in records:
        lines += [f">{name}", *(sequence[start : start + width] for start in range(0, len(sequence), width))]
    assert read(written(line_end.join(lines).encode())) == records
