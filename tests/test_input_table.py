"""docs/embed.md's table of inputs: each row is run."""

import bz2
import gzip
import lzma
import re
from pathlib import Path

import pytest
import zstandard

from virnucpro.cli import main
from virnucpro.store.embeddings import Embeddings

PAGE = Path(__file__).parents[1] / "docs" / "embed.md"
MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu"]
BOM = b"\xef\xbb\xbf"


def rows():
    """The first cells of the table of inputs, and the second ones."""
    table = PAGE.read_text().partition("| What comes | What is done |\n")[2].partition("\n\n")[0]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in table.splitlines()[1:]]


def packed(compress):
    return compress(b">a\nMK") + compress(b"T\n>b\nM\n")


EXAMPLES = {
    "a header": [
        (b">a b\tc\nMK\n>" + b"n" * 10_000 + b"\nM\n> x\nMK\n>\nM\n", ["a", "n" * 10_000, "x", "line7"])
    ],
    "white space or a byte order mark before `>`": [
        (b" >a\nMK\n\t>b\nM\n", ["a", "b"]),
        (BOM + b">a\nMK\n" + BOM + b" >b\nM\n", ["a", "b"]),
    ],
    "`>` inside a header": [(b">sp|P1| a>b\nMK\n>c>d\nM\n", ["sp|P1|", "c>d"])],
    "`>` inside a sequence, as after joining files without a line end": [
        (b">a\nMKTAYIA>b\nMKV\n", r"'a' in line 2, where 'b'"),
        (b">a\nMKTAYIA" + BOM + b">b\nMKV\n", r"'a' in line 2, where 'b'"),
    ],
    "a name that is not ASCII": [(">ü\nMK\n".encode() + b">\xe9\0\nM\n", ["ü", r"\xe9\x00"])],
    "Windows, old Mac line ends; blank lines; white space in a sequence; a byte order mark": [
        (BOM + b">a\r\nM K\r\n\r\nT\r\n>b\r\nM\r\n", {"a": 3, "b": 1}),
        (b">a\rMK\rT\r>b\rM", {"a": 3, "b": 1}),
    ],
    "a line that begins with `;` or `#`": [(b"; one\n>a\nMK\n# two > three\nT\n", {"a": 3})],
    "lower case": [(b">a\nmkt\n", {"a": 3})],
    "`*` at the end": [(b">a\nMKT*\n>b\nMK\n**\n", {"a": 3, "b": 2})],
    "`X B U Z O`, and the gaps `-` and `.`": [(b">a\nXBUZO-.\n", {"a": 7})],
    "a record without residues": [(b">a\nMK\n>b\n>c\n*\n", {"a": 2}, "skipped, empty: 2: b .*, c ")],
    "any other letter: `J`, digits, `*` inside": [
        (b">a\nMK\n>b\nMK\nJ\n", {"a": 2}, "skipped, letters .* 1: b \\('J' in line 5 of"),
        (b">a\nMK\n>b\nM1\n>c\nM*K\n", {"a": 2}, "2: b \\('1' in line 4 .*, c \\('\\*' in line 6 "),
    ],
    "binary data in a sequence": [(b">a\nMK\n\0\n", "binary data in line 3"),
                                  (b">a\nMK\n" + gzip.compress(b">b\nM\n"), "binary data in line 3")],
    "more than `--max-length` residues (1022, as fair-esm's extraction; `none` for all)": [
        (b">a\n" + b"M" * 1_030, {"a": 1_022}, "cut to 1022 residues: 1"),
        (b">a\n" + b"M" * 1_030, {"a": 1_030}, "", ["--max-length", "none"]),
    ],
    "a name that comes again": [(b">a\nMK\n>b\nM\n>a\nMKT\n", ["a", "b", "a"], "came again: 1 \\(a\\)")],
    "records that look like DNA, without `--translate`": [
        (b">p\nMKTAY\n>a\n" + b"ACGT" * 20, {"p": 5, "a": 80}, "look like DNA .* proteins: 1 \\(a\\)")
    ],
    "gzip, bzip2, xz, zstd": [
        (packed(compress), {"a": 3, "b": 1})
        for compress in (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress)
    ],
    "compressed data that are cut short or damaged, or have something else after them": [
        (damaged, "cut short or damaged")
        for compress in (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress)
        for damaged in (packed(compress)[:-3], packed(compress) + b">c\nMK\n")
    ],
    "several files": [([b">a\nMK", b">b\nM"], ["a", "b"])],
    "an empty file, one that is not FASTA (FASTQ, UTF-16, ...), other compressions": [
        (b"", "is empty"),
        (b"MKTAY\n", "is not FASTA"),
        (b"@a\nACGT\n+\n!!!!\n", "FASTQ"),
        (">a\nMK\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04" + bytes(30), "compressed with zip"),
    ],
}  # fmt: skip


def test_every_row_has_an_example():
    assert [what for what, _ in rows()] == list(EXAMPLES)


@pytest.mark.parametrize(
    "what, example", [(what, example) for what, examples in EXAMPLES.items() for example in examples]
)
def test_what_the_row_says_is_done(tmp_path, capfd, what, example):
    content, expected, *more = example
    paths = []
    for number, each in enumerate(content if isinstance(content, list) else [content]):
        paths.append(tmp_path / f"in{number}.fasta")
        paths[-1].write_bytes(each)
    said = more[0] if more else ""
    words = more[1] if len(more) > 1 else []
    code = main(["embed", *map(str, paths), "-o", str(tmp_path / "out.h5"), *MODEL, *words])
    told = capfd.readouterr().err
    done = dict(rows())[what]
    if isinstance(expected, str):  # an error
        assert code == 1 and re.search(expected, told) and "Traceback" not in told and "error" in done
        return
    assert code == 0 and "error" not in done
    assert re.search(said, told) and (told == "" or said)
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.names == list(expected)
        if isinstance(expected, dict):
            assert file.lengths.tolist() == list(expected.values())
