"""Memory and time of reading follow the longest record that is embedded, whatever else a file unpacks to."""

import bz2
import gzip
import io
import lzma
import os
import random
import subprocess
import sys

import pytest
import zstandard

from tests.conftest import sample_of
from tests.limits import PATIENCE
from virnucpro.data import fasta as fasta_module
from virnucpro.data import proteins, records
from virnucpro.data.compression import Decompressed
from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.data.packing import MOST_IN_NAMES, pack
from virnucpro.data.proteins import ProteinReader
from virnucpro.data.records import LONGEST_NAME, Held

MEBIBYTE = 2**20
READ = """
import resource, sys, time
from virnucpro.data.fasta import Fasta
from virnucpro.data.proteins import ProteinReader

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before, began, skipped = peak(), time.process_time(), []
with Fasta(sys.argv[1]) as fasta:
    reader = ProteinReader(fasta, 1022, on_skip=skipped.append)
    print([(name, len(protein)) for name, protein in reader], [each.detail for each in skipped])
print(peak() - before, time.process_time() - began)
"""
BOMBS = {
    "empty lines": (b">a\nMK\n", b"\n", b"MK\n>b\nM\n", "[('a', 4), ('b', 1)] []"),
    "empty lines in front": (b"", b"\n", b">a\nMK\n", "[('a', 2)] []"),
    "old Mac's line ends": (b">a\rMK\r", b"\r", b"MK\r", "[('a', 4)] []"),
    "spaces": (b">a\nMK\n", b" ", b"MK\n", "[('a', 4)] []"),
    "a comment": (b">a\nMK\n;", b"c", b"\nMK\n", "[('a', 4)] []"),
    "a header": (b">a ", b"c", b"\nMK\n", "[('a', 2)] []"),
    "one line": (b">a\n", b"M", b"\n>b\nMK\n", "[('a', 1022), ('b', 2)] []"),
    "lines of a letter": (b">a\n", b"M\n", b"\n>b\nMK\n", "[('a', 1022), ('b', 2)] []"),
    "stops at the end": (b">a\nMK", b"*", b"\n>b\nM\n", "[('a', 2), ('b', 1)] []"),
    "an unknown letter at the end": (b">a\n", b"M", b"\n1MK\n", "[] [\"'1' in line 3 of"),
}


@pytest.mark.parametrize("what", sample_of(BOMBS, "a header"))
def test_what_unpacks_to_200_mebibytes_takes_few(tmp_path, what):
    start, flood, end, expected = BOMBS[what]
    path, packer = tmp_path / "in.fasta", zstandard.ZstdCompressor().compressobj()
    piece = flood * (MEBIBYTE // len(flood))
    path.write_bytes(b"".join(map(packer.compress, (start, *[piece] * 200, end))) + packer.flush())
    assert path.stat().st_size < 20_000
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found, used = done.stdout.splitlines()
    memory, seconds = map(float, used.split())
    assert found.startswith(expected) and memory < 80 and seconds < 30


@pytest.mark.parametrize(
    "compress", sample_of([gzip.compress, bz2.compress, lzma.compress, zstandard.compress], gzip.compress)
)
def test_a_piece_of_what_is_compressed_is_unpacked_at_a_time(compress):
    packed = compress(bytes(100 * MEBIBYTE))
    stream = Decompressed(io.BufferedReader(io.BytesIO(packed[300:])), packed[:300])
    total, buffer = 0, bytearray(65_536)
    while count := stream.readinto(buffer):
        total += count
        assert len(stream._unpacked) <= 17 * MEBIBYTE
    assert total == 100 * MEBIBYTE


def test_xz_that_asks_for_much_memory_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}]
    path = tmp_path / "in.fasta"
    path.write_bytes(lzma.compress(b">a\nMK\n", filters=filters))
    with pytest.raises(FastaError, match="needs more than 268,435,456 bytes to be unpacked"):
        list(Fasta(path))


@pytest.fixture
def small(monkeypatch):
    """Read little at a time, so that short records are long ones."""
    monkeypatch.setattr(fasta_module, "BLOCK", 7)
    monkeypatch.setattr(fasta_module, "LONG", 5)
    monkeypatch.setattr(records, "PARTS", 2)


def random_fasta(rng):
    tokens = [
        ">a\n",
        ">b c\n",
        "\n",
        "\n\n\n",
        " ",
        "\t",
        ";",
        "#",
        "*",
        "MK",
        "mkTAYIAKQRQ" * 3,
        "1",
        "M\r\n",
        "\r",
        "é",
    ]
    return ">x\n" + "".join(rng.choices(tokens, k=rng.randint(0, 60)))


def read(path):
    told = []
    with Fasta(path) as fasta:
        found = [(tuple(each), each.line) for each in fasta]
    with Fasta(path) as fasta:
        return found, list(ProteinReader(fasta, on_skip=told.append)), told


def test_records_and_lines_are_the_same_however_they_are_cut(tmp_path, monkeypatch, small):
    rng = random.Random("cut")
    for number in range(300):
        path = tmp_path / f"{number}.fasta"
        path.write_bytes(random_fasta(rng).encode("latin-1"))
        found = []
        for block, long in ((65_536, 2**18), (1, 3), (5, 10), (7, 1)):
            monkeypatch.setattr(fasta_module, "BLOCK", block)
            monkeypatch.setattr(fasta_module, "LONG", long)
            try:
                found.append(read(path))
            except FastaError as error:
                found.append(str(error).partition(", where")[0])
        assert all(each == found[0] for each in found), path.read_bytes()


def test_what_is_not_held_is_looked_through(tmp_path, monkeypatch, small):
    rng = random.Random("beyond")
    for number in range(300):
        path = tmp_path / f"{number}.fasta"
        path.write_bytes(random_fasta(rng).replace("é", "").encode())
        found = []
        for least in (2**20, 1, 8):
            monkeypatch.setattr(proteins, "LEAST_HELD", least)
            skipped = []
            with Fasta(path) as fasta:
                reader = ProteinReader(fasta, 5, on_skip=skipped.append)
                try:
                    found.append((list(reader), skipped, reader.truncated.count))
                except FastaError as error:
                    found.append(str(error).partition(", where")[0])
        assert all(each == found[0] for each in found), path.read_bytes()


@pytest.mark.parametrize("line", [b"MK" * 50, b"M\n" * 100])
def test_a_longer_record_than_may_be_held_is_an_error_with_the_remedy(tmp_path, small, line):
    path = tmp_path / "in.fasta"
    path.write_bytes(b">a\nMK\n>b c\n" + line)
    with (
        Fasta(path) as fasta,
        pytest.raises(FastaError, match="more than 80 letters in the sequence of 'b', which begins in line 3: x"),
    ):
        fasta.hold(Held(None, 80, "x"))
        list(fasta)


def test_a_protein_and_dna_have_limits(tmp_path, monkeypatch, small):
    path = tmp_path / "in.fasta"
    path.write_bytes(b">a\n" + b"ACG" * 50)
    monkeypatch.setattr(proteins, "LONGEST_PROTEIN", 100)
    monkeypatch.setattr(proteins, "LONGEST_DNA", 140)
    with Fasta(path) as fasta:
        assert [len(protein) for _, protein in ProteinReader(fasta, 99)] == [99]
    for words, remedy in (((None,), "--max-length"), ((100,), "--max-length"), ((99, 500), "cut it into several")):
        with Fasta(path) as fasta, pytest.raises(FastaError, match=f"more than 1[04]0 letters .*{remedy}"):
            list(ProteinReader(fasta, *words))


def test_a_name_has_a_limit(tmp_path):
    path = tmp_path / "in.fasta"
    for header in (b"n" * (LONGEST_NAME + 1), b" " + b"n" * (LONGEST_NAME + 1) + b" x", b"n" * 2**23):
        path.write_bytes(b">a\nMK\n>" + header + b"\nMK\n")
        with pytest.raises(FastaError, match="a name of more than 1,048,576 characters in line 3: shorten it"):
            list(Fasta(path))


def test_a_pack_ends_where_its_names_get_long():
    name = "n" * (MOST_IN_NAMES // 4)
    assert [len(each) for each in pack([(name, "MK")] * 10, 100)] == [4, 4, 2]


def test_records_without_letters_leave_nothing(tmp_path):
    path = tmp_path / "in.fasta"
    path.write_bytes(b">\n" * 200_000 + b">a\nMK\n>a\nMK\n")
    with Fasta(path) as fasta:
        reader = ProteinReader(fasta)
        names = [name for name, _ in reader]
    assert names == ["a", "a"] and reader.repeated.count == 1 and reader.skipped["empty"].count == 200_000


def test_a_pipe_that_brings_a_byte_at_a_time_is_read(tmp_path):
    reading, writing = os.pipe()
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        os.write(writing, b">a\nMK\n>b\r\nM\r\n")
        os.close(writing)
        assert [tuple(each) for each in Fasta("-")] == [("a", "MK"), ("b", "M")]
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)
