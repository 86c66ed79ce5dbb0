"""FASTA as a stream of records: plain or compressed, from files or standard input."""

import codecs
import contextlib
import io
import itertools
import os
import select
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from virnucpro.data.compression import LONGEST_MAGIC, CompressionError, Decompressed, format_of
from virnucpro.data.records import (
    COMMENTS,
    LONG,
    LONGEST_NAME,
    Held,
    Reader,
    Record,
    has_marks,
    name_in,
    not_fasta,
    stripped,
)
from virnucpro.errors import FastaError

BLOCK = 65_536
"""Bytes that are read at a time."""

UTF8 = codecs.getincrementaldecoder("utf-8-sig")

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


class FastaFile:
    """The records of one FASTA file, or of standard input for ``-``; see `Fasta`."""

    touched = False
    held = Held()

    def __init__(self, path: str):
        self._path, self.label = path, "standard input" if path == "-" else path
        if "\0" in path:
            raise FastaError(f"{path!r} is no name of a file")
        try:
            self._raw = InterruptibleFile(0, closefd=False) if path == "-" else InterruptibleFile(path)
            self.about = os.fstat(self._raw.fileno())
            self.size = self.about.st_size if stat.S_ISREG(self.about.st_mode) else None
            self._file = io.BufferedReader(self._raw, BLOCK)
            self._pieces = self._decompressed()
        except (OSError, CompressionError) as error:
            raise self._unreadable(error) from error

    def _decompressed(self) -> Iterator[bytes]:
        """The bytes of the text. What does not begin as FASTA is refused before a line, maybe endless, is read."""
        stream: Any = self._file
        start = beginning(stream)
        if format_of(start) is not None:
            stream = io.BufferedReader(Decompressed(stream, start), BLOCK)
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
            raise not_fasta(self.label, text)
        return itertools.chain([start], iter(lambda: stream.read1(BLOCK), b""))

    def close(self) -> None:
        """Close the file; standard input stays open. A thread that waits for it to bring more finds its end."""
        self._raw.ended = True
        self._file.close()

    def read(self) -> int | None:
        """How many bytes of the file have been read, compressed as they are; all once it is closed."""
        try:
            return self._raw.tell()
        except (ValueError, OSError):  # the thread that reads has closed it, or does so now
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

    def _text(self) -> Iterator[str]:
        """The text as it comes, with ``\\n`` for every line end."""
        decoder = io.IncrementalNewlineDecoder(UTF8("backslashreplace"), translate=True)
        yield from map(decoder.decode, self._pieces)
        yield decoder.decode(b"", final=True)

    def _records(self) -> Iterator[Record]:
        """Most are cut out of the text as a whole. What is long, or in front of the first one, has a `Reader`."""
        reader: Reader | None = Reader(self.label, self.held, 0)
        text, number = "\n", 0  # an empty line 0; without a reader, a record from behind its '>' on, and its line
        for more in self._text():
            text += more
            if "\n>" in text[-len(more) - 1 :]:
                *whole, text = text.split("\n>")
                if reader is not None:
                    yield from reader.read(whole.pop(0))
                    yield from reader.end()
                    number = reader.number + 1
                    reader = None
                for each in whole:
                    record = self._record(each, number)
                    if record is None:
                        yield from self._read(each, number)
                    else:
                        yield record
                    number += each.count("\n") + 1
            if reader is None and len(text) > LONG:
                reader, text = Reader(self.label, self.held, number), ">" + text
            if reader is not None:
                lines, end, rest = text.rpartition("\n")
                if end and lines:
                    yield from reader.read(lines)
                    text = end + rest
                if len(text) > LONG:
                    yield from reader.read(text, whole=False)
                    text = ""
        self._check_same()
        if reader is None:
            yield from self._read(text, number)
            return
        yield from reader.read(text)
        if reader.name is None:
            raise FastaError(f"{self.label} is empty: it has no FASTA record, which starts with '>name'")
        yield from reader.end()

    def _record(self, text: str, number: int) -> Record | None:
        """The record in a text that follows a '>' in this line; None where that needs a `Reader`."""
        header, _, lines = text.partition("\n")
        name = header.rstrip().partition(" ")[0]
        if not name or "\t" in name or "\0" in name:
            name = name_in(header) or f"line{number}"
        if has_marks(lines) or len(name) > LONGEST_NAME:
            return None
        return Record(name, "".join(lines.split()), self.label, number, lines)

    def _read(self, text: str, number: int) -> Iterator[Record]:
        """All records in a text that follows a '>' in this line."""
        reader = Reader(self.label, self.held, number)
        yield from reader.read(">" + text)
        yield from reader.end()

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
    Iterate once, and close (or use ``with``). Memory follows the longest record, whose length is limited (see
    `hold`), and not comments, empty lines or headers.
    Raises FastaError, naming the file and the remedy, for a file that cannot be opened, has no record, is not
    FASTA, has a ``>`` inside a sequence or a record that is too long, breaks off in the middle of its compressed
    data, or is cut, grows or is replaced while it is read. `touched`: whether one was written to meanwhile, and
    has its size.
    """

    def __init__(self, path: str | os.PathLike[str], *more: str | os.PathLike[str]):
        self.paths = [os.fsdecode(each) for each in (path, *more)]
        if self.paths.count("-") > 1:
            raise FastaError("standard input is named more than once as an input")
        self._closed = False
        self._held = Held()
        self._before = 0  # bytes of the files that have been read
        self._touched = False
        self._file = FastaFile(self.paths[0])
        self._later = [looked_at(path) for path in self.paths[1:]]
        sizes = [self._file.size, *(about and about.st_size for about in self._later)]
        self._size = None if None in sizes else sum(size for size in sizes if size is not None)

    def hold(self, held: Held) -> None:
        """Say how much of a record is held, before one is read. By default over 2^28 letters are an error."""
        self._held = self._file.held = held

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
            self._file.held = self._held
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


def beginning(file: io.BufferedReader) -> bytes:
    """The first bytes of a file, enough to tell its format: a pipe may bring them one by one."""
    start = b""
    while len(start) < LONGEST_MAGIC and (more := file.read1()):
        start += more
    return start
