"""Fasta: what is read of good files, odd files and no FASTA at all."""

import bz2
import gzip
import io
import lzma
import os
import random
import sys
import threading
import time

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virnucpro.data.compression import PIECE, Decompressed
from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.data.records import Held

reading_files = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


PRINTABLE = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])


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
        (b" >a\nMK\n\t>b\nM\n", [("a", "MK"), ("b", "M")]),
        (b"\xef\xbb\xbf>a\nMK\n\xef\xbb\xbf>b\nM\n", [("a", "MK"), ("b", "M")]),
        (b">a\nMK\n \xef\xbb\xbf\xef\xbb\xbf >b\nM\n", [("a", "MK"), ("b", "M")]),
        (b"\xef\xbb\xbf\n>a\nM\n", [("a", "M")]),
        (b">sp|P1| a>b -> c\nMK\n>x>y\nM\n", [("sp|P1|", "MK"), ("x>y", "M")]),
        (b">gi|1| one\x01gi|2| >two\nMK\n", [("gi|1|", "MK")]),
        (b"; a > b\n#c\n>a\nMK\n;>no\n # no\nTA\n>b\nM\n#", [("a", "MKTA"), ("b", "M")]),
        (b">a\r\nMK\r\n\x1a", [("a", "MK")]),
    ],
    ids=["plain", "no last newline", "blank line", "descriptions", "white space", "Windows", "old Mac", "BOM",
         "nameless", "UTF-8", "Latin-1", "NUL", "case", "space before >", "BOM of a joined file",
         "BOMs and spaces", "BOM alone", "> in headers", "NCBI's joined headers", "comments", "end of a DOS file"],
)  # fmt: skip
def test_records_are_read(written, content, expected):
    assert read(written(content)) == expected


@pytest.mark.parametrize(
    "content, line",
    [
        (b">a\nMKTAYIA>b\nMKV", 2),
        (b">a\nMK\nMKTAYIA\xef\xbb\xbf>b c\nMKV", 3),
        (b">a x>y\n;\nMK >b\r\nMKV", 3),
        (b">a\nMK\n\xe2\x80\x8b>b\nMKV", 3),
    ],
    ids=["joined", "joined with a BOM", "space between", "an invisible letter between"],
)
def test_a_record_inside_a_sequence_is_an_error_that_names_both_and_the_line(written, content, line):
    with pytest.raises(
        FastaError, match=rf"'>' inside the sequence of 'a' in line {line}, where 'b' seems to begin"
    ):
        read(written(content))


@reading_files
@given(before=st.text(PRINTABLE, min_size=1, max_size=5), after=st.text(PRINTABLE, max_size=5))
def test_no_header_is_lost_in_a_sequence(written, before, after):
    content = f">a\n{before}>{after}\n"
    try:
        records = read(written(content.encode()))
    except FastaError as error:
        assert "in line 2" in str(error) and "'a'" in str(error)
        return
    assert len(records) == (1 if before.startswith((";", "#")) else 2)


def zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


COMPRESS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.mark.parametrize("compress", COMPRESS.values(), ids=COMPRESS)
@pytest.mark.parametrize("name", ["in.fasta.gz", "in.fasta"], ids=["named so", "named otherwise"])
def test_a_compression_is_recognised_by_its_content(written, compress, name):
    content = b">a\nMKT\n>b\n" + bytes(random.Random(1).choices(b"ACDEFGHIKLMNPQRSTVWY\n", k=300_000))
    assert read(written(compress(content), name)) == read(written(content, "plain"))


@pytest.mark.parametrize("first", COMPRESS.values(), ids=COMPRESS)
@pytest.mark.parametrize("second", COMPRESS.values(), ids=COMPRESS)
def test_members_one_after_the_other_are_one_file(written, first, second):
    content = first(b">a\nMK") + first(b"") + second(b"T\n>b\nM\n")
    assert read(written(content)) == [("a", "MKT"), ("b", "M")]


def test_a_zstd_frame_that_is_to_be_skipped_is_skipped(written):
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert read(written(skippable + zstd(b">a\nMK\n") + skippable)) == [("a", "MK")]


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress], ids=["gzip", "xz"])
def test_zero_bytes_pad_compressed_files(written, compress):
    assert read(written(compress(b">a\nMK") + bytes(4096) + compress(b"T\n") + bytes(512))) == [("a", "MKT")]


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:7],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole + whole[:-1],
        lambda whole: whole + b"garbage",
        lambda whole: whole + b">b\nMK\n",
        lambda whole: whole[:-20] + bytes(20 * [7]),
    ],
    ids=["beginning", "half", "last byte", "second member", "garbage after", "text after", "other bytes"],
)
def test_compressed_data_that_are_cut_short_or_damaged_are_an_error(written, name, damage):
    whole = COMPRESS[name](b">a\n" + bytes(random.Random(1).choices(b"ACDEFGHIKLMNPQRSTVWY\n", k=20_000)) + b"\n")
    path = written(damage(whole))
    with pytest.raises(FastaError, match=f"{path} is a {name} file that is cut short or damaged"):
        read(path)


def test_without_a_library_for_zstd_the_remedy_is_told(written, monkeypatch):
    content = zstd(b">a\nMK\n")
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FastaError, match=r"compressed with zstd, which needs .* pip install zstandard"):
        read(written(content))


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_a_bomb_is_unpacked_a_piece_at_a_time(compress):
    packed = compress(bytes(50_000_000))
    stream = Decompressed(io.BufferedReader(io.BytesIO(packed[10:])), packed[:10])
    total, buffer = 0, bytearray(65_536)
    while count := stream.readinto(buffer):
        total += count
        assert len(stream._unpacked) <= 2_000 * PIECE
    assert total == 50_000_000


def test_a_pipe_that_brings_bytes_one_by_one_is_recognised(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write():
        with pipe.open("wb", buffering=0) as file:
            for byte in gzip.compress(b">a\nMKT\n", mtime=0):
                file.write(bytes([byte]))
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    assert read(pipe) == [("a", "MKT")]
    writer.join()


def test_several_files_are_read_one_after_the_other(written):
    paths = [
        written(b">a\nMK", "one"),
        written(gzip.compress(b">b\nM\n", mtime=0), "two"),
        written(b">c\nMKT\n", "three"),
    ]
    with Fasta(*paths) as fasta:
        found = [(record, record.line, record.file, fasta.fraction()) for record in fasta]
    assert [record for record, *_ in found] == [("a", "MK"), ("b", "M"), ("c", "MKT")]
    assert [(line, file) for _, line, file, _ in found] == [(1, str(path)) for path in paths]
    fractions = [fraction for *_, fraction in found]
    assert fractions == sorted(fractions) and 0 < fractions[0] < fractions[1] < fractions[2] == 1


@pytest.mark.parametrize("content, message", [(None, "No such file"), (b"MK\n", "is not FASTA")])
def test_a_later_file_is_looked_at_before_the_first_is_read(written, tmp_path, content, message):
    first = written(b">a\nMK\n")
    second = tmp_path / "second"
    if content is not None:
        second.write_bytes(content)
    with pytest.raises(FastaError, match=message):
        Fasta(first, second)


def test_standard_input_is_one_input():
    with pytest.raises(FastaError, match="standard input is named more than once"):
        Fasta("-", "-")


@pytest.mark.parametrize("letter, line", [("M", 4), ("K", 4), ("T", 6)])
def test_a_record_knows_the_line_of_each_letter(written, letter, line):
    with Fasta(written(b";\n>a\n\nM K\n#\nT\n>b\nM\n>c\nM\n")) as fasta:
        fasta.hold(Held(known=frozenset("MKT") - {letter}))
        first, second, _ = fasta
    assert (first.line, first.wrong) == (2, (line, repr(letter)))
    assert (second.line, second.line_of(0)) == (7, 8)
    with pytest.raises(IndexError):
        second.line_of(1)


@pytest.mark.parametrize("content", [b">a\nMKT\n", gzip.compress(b">a\nMKT\n", mtime=0)], ids=["plain", "gzip"])
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


@pytest.mark.parametrize("change", ["nothing", "cut", "grown", "touched"])
def test_standard_input_that_is_a_file_is_watched_too(tmp_path, change):
    path = tmp_path / "in.fasta"
    path.write_text("".join(f">p{number}\n{'MKT' * 100}\n" for number in range(1_000)))
    before = os.dup(0)
    try:
        with path.open("rb") as file:
            os.dup2(file.fileno(), 0)
        with Fasta("-") as fasta:
            records = iter(fasta)
            next(records)
            match change:
                case "cut":
                    os.truncate(path, 200_000)
                case "grown":
                    with path.open("a") as file:
                        file.write(">more\nMKT\n")
                case "touched":
                    os.utime(path)
            if change == "nothing":
                assert len(list(records)) == 999
            else:
                with pytest.raises(FastaError, match="standard input was changed while it was read"):
                    list(records)
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
        (b"\xef\xbb\xbf\n\n", "is empty"),
        (b"; only\n# comments\n", "is empty"),
        (b"; a comment\nMKT\n", "is not FASTA: it starts with 'MKT'"),
        (b"@read/1\nACGT\n+\n!!!!\n", "is not FASTA but maybe FASTQ"),
        (">a\nMK\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (b"PK\x03\x04" + bytes(26), "compressed with zip: unpack it"),
        (b"\x04\x22\x4d\x18" + bytes(26), "compressed with lz4: unpack it"),
        (gzip.compress(b"MKT\n", mtime=0), "is not FASTA"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(bz2.compress(b">a\nMK\n"), mtime=0), "compressed twice, inside with bzip2"),
        (b">a\nMK\n" + gzip.compress(b">b\nMK\n", mtime=0), "binary data in line 3, in the sequence of 'a'"),
        (b">a\nMK\0\0\n", "binary data in line 2"),
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
@given(
    start=st.sampled_from(
        [b"", b">a\nMK\n", b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf>"]
    ),
    content=st.binary(max_size=300),
    compress=st.sampled_from([bytes, *COMPRESS.values()]),
)
def test_arbitrary_bytes_are_records_or_a_fasta_error(written, start, content, compress):
    try:
        records = read(written(compress(start + content)))
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
