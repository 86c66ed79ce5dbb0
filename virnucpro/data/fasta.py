"""FASTA as a stream of records: plain or gzip, from a file or standard input."""

import gzip
import io
import os
import select
import stat
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO

GZIP = b"\x1f\x8b"
OTHER_FORMATS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
"""How files of other compressions begin; they are refused by name."""


class FastaError(ValueError):
    """The input cannot be read, is not FASTA, or has a record that cannot be embedded and must not be skipped."""


class InterruptibleFile(io.FileIO):
    """A file whose reading, which on a pipe may wait for ever, ends when `ended` is set."""

    ended = False
    POLL_SECONDS = 0.1

    def readinto(self, buffer: Any) -> int | None:
        """As FileIO's, 0 after the end."""
        while not self.ended:
            if select.select([self.fileno()], [], [], self.POLL_SECONDS)[0]:
                return super().readinto(buffer)
        return 0


class Fasta:
    """The records of a FASTA file, or of standard input for ``-``, as ``(name, sequence)``; one is held at a time.

    The name is the header up to its first space or tab, ``line7`` where the header on line 7 has none; bytes that
    are not UTF-8, and NUL, which HDF5 strings cannot hold, appear in it as ``\\xe9``. The sequence has no white
    space and is otherwise as written. Lines may end as on Unix, Windows or an old Mac; gzip is recognised by its
    first bytes. Iterate once, and close (or use ``with``).
    Raises FastaError, naming the file and the remedy, for a file that cannot be opened, has no record, is not
    FASTA or breaks off in the middle of its compressed data.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.label = "standard input" if os.fspath(path) == "-" else os.fspath(path)
        try:
            self._raw = InterruptibleFile(0, closefd=False) if os.fspath(path) == "-" else InterruptibleFile(path)
            about = os.fstat(self._raw.fileno())
            self._size = about.st_size if stat.S_ISREG(about.st_mode) else None
            self._file = io.BufferedReader(self._raw, 65_536)
            self._lines = io.TextIOWrapper(self._decompressed(), "utf-8-sig", "backslashreplace")
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from error

    def _decompressed(self) -> BinaryIO:
        """The bytes of the text. What does not begin as FASTA is refused before a line, maybe endless, is read."""
        stream: Any = self._file
        for compressed in (True, False):
            beginning: bytes = stream.peek(64)
            for magic, name in OTHER_FORMATS.items():
                if beginning.startswith(magic):
                    raise FastaError(f"{self.label} is compressed with {name}: unpack it, or use gzip")
            if compressed and beginning.startswith(GZIP):
                stream = gzip.GzipFile(fileobj=stream)
            else:
                break
        text = beginning.removeprefix(b"\xef\xbb\xbf").lstrip()
        if text and not text.startswith(b">"):
            raise self._not_fasta(text.decode("utf-8", "backslashreplace"))
        return stream

    def __enter__(self) -> "Fasta":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; standard input stays open. A thread that waits for it to bring more finds its end."""
        self._raw.ended = True
        self._file.close()

    def fraction(self) -> float | None:
        """How much of the file has been read, 0 to 1 (of its compressed bytes); None where its size is unknown."""
        if not self._size or self._file.closed:
            return None
        return self._raw.tell() / self._size

    def __iter__(self) -> Iterator[tuple[str, str]]:
        try:
            yield from self._records()
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from error

    def _records(self) -> Iterator[tuple[str, str]]:
        name: str | None = None
        parts: list[str] = []
        for number, line in enumerate(self._lines, start=1):
            if line.startswith(">"):
                if name is not None:
                    yield name, "".join("".join(parts).split())
                name, parts = name_in(line) or f"line{number}", []
            elif name is not None:
                parts.append(line)
            elif line.strip():
                raise self._not_fasta(line)
        if name is None:
            raise FastaError(f"{self.label} is empty: it has no FASTA record, which starts with '>name'")
        yield name, "".join("".join(parts).split())

    def _not_fasta(self, text: str) -> FastaError:
        start = text.strip()[:20]
        return FastaError(f"{self.label} is not FASTA: it starts with {start!r}, and a record with '>name'")

    def _unreadable(self, error: Exception) -> FastaError:
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            return FastaError(
                f"{self.label} is a gzip file that is cut short or damaged ({error}): copy or download it again"
            )
        assert isinstance(error, OSError)
        return FastaError(f"cannot read {self.label}: {error.strerror or error}")


def name_in(header: str) -> str:
    """The name in a header line: up to the first space or tab. Empty where there is none."""
    words = header[1:].strip(" \t\r\n").replace("\t", " ")
    return words.partition(" ")[0].replace("\0", "\\x00")
