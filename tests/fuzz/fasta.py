"""Any bytes as a FASTA file: records, or an error that names the file; each header gives a record.

``python -m tests.fuzz.fasta [CORPUS] [libFuzzer's options]``; needs ``pip install atheris``.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["virnucpro"]):
    from virnucpro.data.compression import format_of
    from virnucpro.data.fasta import Fasta, FastaError

BASE = "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
FILE = Path(tempfile.mkdtemp(prefix="virnucpro-fuzz-", dir=BASE), "in.fasta")


def headers_in(data: bytes) -> int:
    """Lines that begin a record."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return sum(line.strip(b" \t").startswith(b">") for line in lines)


def check(data: bytes) -> None:
    """One input."""
    FILE.write_bytes(data)
    try:
        with Fasta(FILE) as fasta:
            records = list(fasta)
    except FastaError as error:
        assert str(FILE) in str(error)
        return
    assert records
    for record in records:
        name, sequence = record
        assert name and not {"\n", "\0"} & set(name) and ">" not in sequence and len(sequence.split()) <= 1
    if format_of(data) is None:
        assert len(records) >= headers_in(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
