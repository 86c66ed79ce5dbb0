"""FASTA as a stream of records: plain or compressed, from files or standard input."""

import codecs
import contextlib
import io
import os
import select
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from virnucpro.data.compression import LONGEST_MAGIC, CompressionError, Decompressed, format_of
from virnucpro.errors import FastaError

BYTE_ORDER_MARK = "\ufeff"
DOS_END = "\x1a"  # as some programs end a file
COMMENTS = (";", "#")
"""How lines begin that are not part of any record."""

MARKS = frozenset((">", *COMMENTS, BYTE_ORDER_MARK, DOS_END))
"""How lines begin that are not simply part of a sequence."""

OTHERS = {
    codecs.BOM_UTF16_LE: "UTF-16 text: save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16 text: save it as UTF-8",
    b"@": "not FASTA but maybe FASTQ: it starts with '@', and a record of FASTA with '>name'",
}
"""How files begin that are often given instead of FASTA, and what they are."""


class InterruptibleFile(io.FileIO):
    """A file whose reading, which on a pipe may wait for ever, ends when `ended` is set."""

    ended = False
    POLL_SECONDS = 0.1

    def readinto(self, buffer: Any) -> int | None:
        """As FileIO's, 0 after the end."""
        waiting = select.poll()  # select.select takes no descriptor above 1,023
        waiting.register(self.fileno(), select.POLLIN)
        while not self.ended:
            if waiting.poll(1000 * self.POLL_SECONDS):
                return super().readinto(buffer)
        return 0


class Record(tuple[str, str]):
    """``(name, sequence)``, which also knows where it stands: in which `file`, its header in which `line`."""

    file: str
    line: int
    _lines: Sequence[str]

    def __new__(cls, name: str, sequence: str, file: str, line: int, lines: Sequence[str]) -> "Record":
        """`lines` are those after the header, as far as they belong to the sequence."""
        record = super().__new__(cls, (name, sequence))
        record.file, record.line, record._lines = file, line, lines
        return record

    def line_of(self, index: int) -> int:
        """The line of a letter of the sequence."""
        for number, text in enumerate(self._lines, start=self.line + 1):
            index -= len("".join(text.split()))
            if index < 0:
                return number
        raise IndexError(index)


class FastaFile:
    """The records of one FASTA file, or of standard input for ``-``; see `Fasta`."""

    touched = False

    def __init__(self, path: str):
        self._path, self.label = path, "standard input" if path == "-" else path
        if "\0" in path:
            raise FastaError(f"{path!r} is no name of a file")
        try:
            self._raw = InterruptibleFile(0, closefd=False) if path == "-" else InterruptibleFile(path)
            self.about = os.fstat(self._raw.fileno())
            self.size = self.about.st_size if stat.S_ISREG(self.about.st_mode) else None
            self._file = io.BufferedReader(self._raw, 65_536)
            self._lines = io.TextIOWrapper(self._decompressed(), "utf-8-sig", "backslashreplace")
        except (OSError, CompressionError) as error:
            raise self._unreadable(error) from error

    def _decompressed(self) -> io.BufferedReader:
        """The bytes of the text. What does not begin as FASTA is refused before a line, maybe endless, is read."""
        stream: Any = self._file
        start = beginning(stream)
        if format_of(start) is not None:
            stream = io.BufferedReader(Decompressed(stream, start), 65_536)
            start = beginning(stream)
            if (inner := format_of(start)) is not None:
                raise CompressionError(f"is compressed twice, inside with {inner}: unpack it once")
        for other, what in OTHERS.items():
            if start.startswith(other):
                raise FastaError(f"{self.label} is {what}")
        if start[257:262] == b"ustar":
            raise FastaError(f"{self.label} is a tar archive: unpack it")
        text = stripped(start.removeprefix(codecs.BOM_UTF8).decode("utf-8", "backslashreplace"))
        if text and not text.startswith((">", *COMMENTS)):
            raise self._not_fasta(text)
        return io.BufferedReader(Joined(start, stream), 65_536)

    def close(self) -> None:
        """Close the file; standard input stays open. A thread that waits for it to bring more finds its end."""
        self._raw.ended = True
        self._file.close()

    def read(self) -> int | None:
        """How many bytes of the file have been read, compressed as they are; all once it is closed."""
        try:
            return self._raw.tell()
        except ValueError:  # the thread that reads has closed it
            return self.size

    def __iter__(self) -> Iterator[Record]:
        try:
            yield from self._records()
        except (OSError, CompressionError) as error:
            self._check_same()
            raise self._unreadable(error) from error

    def expect(self, earlier: os.stat_result | None) -> None:
        """It should be what it was when it was looked at before."""
        self.about = earlier or self.about

    def _check_same(self) -> None:
        """Raise FastaError where the file is not the one that was opened any more, or has another size.

        `touched` tells whether only its time is another one.
        """
        if self.size is None:
            return
        here, path = os.fstat(self._raw.fileno()), Path(self._path)
        now = here if self._path == "-" else path.stat() if path.exists() else None
        if now is None or not os.path.samestat(now, self.about):
            what = "was removed" if now is None else "was replaced by another file"
        elif here.st_size != self.about.st_size:
            what = f"had {self.about.st_size:,} bytes and has {here.st_size:,}"
        elif self._path == "-" and here.st_mtime_ns != self.about.st_mtime_ns:
            what = "was written to"  # and cannot be read again, to compare
        else:
            self.touched = times_of(here) != times_of(self.about)
            return
        raise FastaError(
            f"{self.label} was changed while it was read: it {what}. What was embedded is kept: go on with "
            "--resume when it begins with the same records again"
        )

    def _records(self) -> Iterator[Record]:
        name: str | None = None
        header, lines = 0, list[str]()
        for number, line in enumerate(self._lines, start=1):
            text = line.strip()
            if text[:1] not in MARKS and ">" not in text and name is not None:
                lines.append(text)  # nearly every line, so first of all
                continue
            text = stripped(text)
            if text.startswith(">"):
                if name is not None:
                    yield self._record(name, header, lines)
                name, header, lines = name_in(text) or f"line{number}", number, []
            elif text.startswith(COMMENTS) or text == DOS_END:
                lines.append("")
            elif name is None:
                if text:
                    raise self._not_fasta(text)
            elif ">" in text:
                inside = name_in(text[text.index(">") :])
                raise FastaError(
                    f"{self.label} has a '>' inside the sequence of {name!r} in line {number}, where {inside!r} "
                    "seems to begin, as when files are joined without a line end: put one before it"
                )
            else:
                lines.append(text)
        self._check_same()
        if name is None:
            raise FastaError(f"{self.label} is empty: it has no FASTA record, which starts with '>name'")
        yield self._record(name, header, lines)

    def _record(self, name: str, header: int, lines: list[str]) -> Record:
        sequence = "".join(lines)
        for control in ("\0", "\x1f"):  # what is compressed has them soon, and text does not
            if control in sequence:
                line = next(number for number, text in enumerate(lines, header + 1) if control in text)
                raise FastaError(
                    f"{self.label} has binary data in line {line}, in the sequence of {name!r}: "
                    "the file is damaged, or another that is compressed was joined to it"
                )
        return Record(name, "".join(sequence.split()), self.label, header, lines)

    def _not_fasta(self, text: str) -> FastaError:
        start = text.strip()[:20]
        return FastaError(f"{self.label} is not FASTA: it starts with {start!r}, and a record with '>name'")

    def _unreadable(self, error: Exception) -> FastaError:
        if isinstance(error, CompressionError):
            return FastaError(f"{self.label} {error}")
        assert isinstance(error, OSError)
        return FastaError(f"cannot read {self.label}: {error.strerror or error}")


def times_of(about: os.stat_result) -> tuple[int, int]:
    """When a file was written to; the second one tells it where a program has set the first back."""
    return about.st_mtime_ns, about.st_ctime_ns


class Fasta:
    """The records of FASTA files one after the other, as ``(name, sequence)``; one is held at a time.

    A path ``-`` is standard input. The name is the header up to its first space or tab, ``line7`` where the header
    on line 7 has none; bytes that are not UTF-8, and NUL, which HDF5 strings cannot hold, appear in it as
    ``\\xe9``. The sequence has no white space and is otherwise as written; a record is a `Record`. White space
    and a byte order mark may stand before ``>``; lines that begin with ``;`` or ``#`` are comments. Lines may end
    as on Unix, Windows or an old Mac; gzip, bzip2, xz and zstd are recognised by their first bytes.
    Iterate once, and close (or use ``with``).
    Raises FastaError, naming the file and the remedy, for a file that cannot be opened, has no record, is not
    FASTA, has a ``>`` inside a sequence, breaks off in the middle of its compressed data, or is cut, grows or is
    replaced while it is read. `touched`: whether one was written to meanwhile, and has its size.
    """

    def __init__(self, path: str | os.PathLike[str], *more: str | os.PathLike[str]):
        self.paths = [os.fsdecode(each) for each in (path, *more)]
        if self.paths.count("-") > 1:
            raise FastaError("standard input is named more than once as an input")
        self._closed = False
        self._before = 0  # bytes of the files that have been read
        self._touched = False
        self._file = FastaFile(self.paths[0])
        self._later = [looked_at(path) for path in self.paths[1:]]
        sizes = [self._file.size, *(about and about.st_size for about in self._later)]
        self._size = None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def touched(self) -> bool:
        """Whether a file's time changed while it was read, and its size did not."""
        return self._touched or self._file.touched

    @property
    def lasting(self) -> bool:
        """Whether all are files, which can be read once more."""
        return self._size is not None and "-" not in self.paths

    def __enter__(self) -> "Fasta":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; standard input stays open. A thread that waits for it to bring more finds its end."""
        self._closed = True
        self._file.close()

    def fraction(self) -> float | None:
        """How much of the files has been read, 0 to 1 (of their bytes); None where their size is unknown."""
        if not self._size or self._closed:
            return None
        return (self._before + (self._file.read() or 0)) / self._size

    def __iter__(self) -> Iterator[Record]:
        yield from self._file
        for path, about in zip(self.paths[1:], self._later, strict=True):
            if self._closed:
                return
            self._before += self._file.size or 0
            self._touched |= self._file.touched
            self._file.close()
            self._file = FastaFile(path)
            self._file.expect(about)
            yield from self._file


def looked_at(path: str) -> os.stat_result | None:
    """What is at a path that is read later, looked at now; None where only reading it would tell."""
    with contextlib.suppress(OSError):  # which opening it explains
        if path == "-" or stat.S_ISFIFO(Path(path).stat().st_mode) or stat.S_ISCHR(Path(path).stat().st_mode):
            return None
    file = FastaFile(path)
    file.close()
    return file.about if file.size is not None else None


class Joined(io.RawIOBase):
    """The bytes `start` and what follows them in `file`."""

    def __init__(self, start: bytes, file: io.BufferedReader):
        self._start, self._file = start, file

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of any raw stream."""
        if not self._start:
            return self._file.readinto1(buffer)
        count = min(len(buffer), len(self._start))
        buffer[:count], self._start = self._start[:count], self._start[count:]
        return count


def beginning(file: io.BufferedReader) -> bytes:
    """The first bytes of a file, enough to tell its format: a pipe may bring them one by one."""
    start = b""
    while len(start) < LONGEST_MAGIC and (more := file.read1()):
        start += more
    return start


def stripped(line: str) -> str:
    """A line without white space and byte order marks around it."""
    text = line.strip()
    while text.startswith(BYTE_ORDER_MARK):
        text = text[1:].lstrip()
    return text


def name_in(header: str) -> str:
    """The name in a header line: up to the first space or tab. Empty where there is none."""
    words = header[1:].strip(" \t\r\n").replace("\t", " ")
    return words.partition(" ")[0].replace("\0", "\\x00")
