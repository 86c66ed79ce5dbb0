"""Rows that one worker or several write, each to a folder of its own, until the output is complete.

HDF5 does not survive being killed while it writes. So a worker appends the rows of packs to plain files and syncs
them, and then says so in a journal beside them. Only what a journal says counts, and only if its bytes still have
the checksum that the journal tells. A worker that died leaves its folder behind, and the one in its place begins
another; so whatever dies when, each pack is there whole or not at all. One that is there twice has the same bytes,
and is taken once.
"""

import contextlib
import logging
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.disk import AppendFile, reason_of, sync, write_safely
from virnucpro.store.errors import WriteError
from virnucpro.store.journal import line_of, value_of

ROWS, NAMES, JOURNAL = "rows", "names", "journal"
ROWS_AT = 4_096
"""Where rows begin in their file, see `rows_file`: HDF5 aligns what is large to this, and can put its own around
them."""

LARGE = 2**16
"""Bytes of rows, from which on HDF5 aligns them so."""

MOST = 2**63  # above all numbers that mean something

logger = logging.getLogger(__name__)

Index = dict[int, dict[str, "StoredPack"]]
"""Packs on disk by number, and by the digest of the input up to their end: there may be some of another input."""


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack whose rows are on disk, in the folder `segment`.

    `number`: of the pack in the input. `sequences`, `residues`, `rows` that it has. Where its rows, and its names
    with their lengths, are in their files: bytes before them, bytes, CRC-32. `digest`: of the input up to its end.
    `skipped`: places in the input of its sequences that have no row.
    """

    segment: Path
    number: int
    sequences: int
    residues: int
    rows: int
    rows_at: int
    rows_size: int
    rows_crc: int
    names_at: int
    names_size: int
    names_crc: int
    digest: str
    skipped: tuple[int, ...]

    def as_list(self) -> list[Any]:
        """For the journal of `segment`."""
        return [getattr(self, each.name) for each in fields(self)[1:]]


@dataclass(frozen=True, slots=True)
class EncodedPack:
    """A pack as `SegmentWriter` writes it: `named` are its names and lengths, `values` its rows, as bytes."""

    number: int
    counts: tuple[int, int, int]  # sequences, residues, rows
    named: bytes
    names_crc: int
    values: np.ndarray
    rows_crc: int
    digest: str
    skipped: tuple[int, ...]


class SegmentWriter:
    """A worker's rows, to a new folder. After a write or sync that failed nothing more is written.

    While one thread writes packs, another may commit those that were written before.
    Raises WriteError, naming the folder and the machine, for what cannot be written, and then again.
    """

    def __init__(self, folder: Path, dtype: str):
        self.folder, self.dtype = folder, np.dtype(dtype)
        self._written: list[StoredPack] = []
        self._rows_end, self._names_end = ROWS_AT, 0
        self._failure: WriteError | None = None
        self._files: dict[str, AppendFile] = {}
        with self._writing():
            folder.mkdir(parents=True)
            self._files = {name: AppendFile(folder / name) for name in (NAMES, JOURNAL)}
            self._files[ROWS] = rows_file(folder / ROWS)
            for each in (folder, folder.parent, folder.parent.parent):
                sync(each)

    def append(self, *pack: Any) -> None:
        """Encode a pack and write it."""
        self.write(self.encode(*pack))

    def encode(
        self,
        number: int,
        names: Sequence[str],
        lengths: Sequence[int],
        rows: np.ndarray,
        digest: str,
        skipped: Sequence[int] = (),
    ) -> EncodedPack:
        """The pack `number`: names (without line ends), residues, and rows ``[n, row_size]``, not copied.

        `digest` is that of the input up to its end. `skipped`: places in the input of its sequences without a row.
        Several threads may call this at a time: checksums take as long as writing.
        """
        if rows.dtype != self.dtype:
            raise TypeError(f"rows are {rows.dtype}, and those of {self.folder} are {self.dtype}")
        named = "".join(f"{name}\n" for name in names).encode() + np.asarray(lengths, dtype="<i8").tobytes()
        values = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        counts, crcs = (len(names), sum(lengths), len(rows)), (zlib.crc32(named), zlib.crc32(values.data))
        return EncodedPack(number, counts, named, crcs[0], values, crcs[1], digest, tuple(map(int, skipped)))

    def write(self, pack: EncodedPack) -> None:
        """Append a pack to the files."""
        where = (self._rows_end, pack.values.nbytes, pack.rows_crc)
        where_names = (self._names_end, len(pack.named), pack.names_crc)
        with self._writing():
            self._files[NAMES].append(pack.named)
            self._files[ROWS].append(pack.values)
        self._rows_end, self._names_end = self._rows_end + where[1], self._names_end + where_names[1]
        self._written.append(
            StoredPack(self.folder, pack.number, *pack.counts, *where, *where_names, pack.digest, pack.skipped)
        )

    def take(self) -> list[StoredPack]:
        """What was written since the last call, for `commit`. Called by the thread that writes."""
        taken, self._written = self._written, []
        return taken

    def commit(self, packs: list[StoredPack] | None = None) -> list[StoredPack]:
        """Put what `take` returned on disk, by default what it returns now, and then say so in the journal.

        Returns it. One commit at a time.
        """
        packs = self.take() if packs is None else packs
        if self._failure is None and not packs:
            return []
        with self._writing():
            self._files[ROWS].sync()
            self._files[NAMES].sync()
            self._files[JOURNAL].append(line_of([pack.as_list() for pack in packs]))
            self._files[JOURNAL].sync()
        return packs

    def close(self) -> None:
        """Close the files. What was not committed does not count."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say of what fails inside where that was; and let nothing be written after it."""
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except OSError as error:
            reason = reason_of(error, self.folder.parents[2])
            self._failure = WriteError(f"cannot write {self.folder} on {os.uname().nodename}: {reason}")
            raise self._failure from error
        except BaseException:  # it may have come in the middle: what is written after half a row is misplaced
            self._failure = WriteError(f"writing {self.folder} was interrupted: run again with --resume")
            raise


def rows_file(path: Path) -> AppendFile:
    """A new file for rows, which begin at `ROWS_AT`."""
    file = AppendFile(path)
    file.append(bytes(ROWS_AT))
    return file


def read_index(folder: Path) -> Index:
    """All packs that the workers of a run committed, each in a folder in `folder`.

    Those whose rows are not all there do not count. Nothing outside `folder` is looked at: no link is followed.
    """
    found: Index = {}
    torn = 0
    for segment in sorted(folder.iterdir()) if folder.is_dir() else ():
        sizes = [size_of_file(segment / name) for name in (ROWS, NAMES, JOURNAL)]
        if segment.is_symlink() or None in sizes:
            continue
        packs, not_whole = read_journal(segment)
        torn += not_whole
        for pack in packs:
            ends = (pack.rows_at + pack.rows_size, pack.names_at + pack.names_size)
            if all(end <= (size or 0) for end, size in zip(ends, sizes, strict=False)):
                found.setdefault(pack.number, {}).setdefault(pack.digest, pack)
    if torn:
        logger.warning("%s has damaged lines (%d), as a crash leaves them, which do not count", folder, torn)
    return found


def read_journal(segment: Path) -> tuple[list[StoredPack], int]:
    """The packs that a worker committed, and how many lines of its journal are not whole."""
    packs: list[StoredPack] = []
    torn = 0
    for line in (segment / JOURNAL).read_bytes().split(b"\n"):
        if line:
            found = packs_in(value_of(line), segment)
            packs += found or []
            torn += found is None
    return packs, torn


def packs_in(values: Any, segment: Path) -> list[StoredPack] | None:
    """What a line of a worker's journal says; None for one that is not as `commit` writes it."""
    packs = []
    for each in values if isinstance(values, list) else [None]:
        if not isinstance(each, list) or len(each) != 12:
            return None
        *numbers, digest, skipped = each
        if not (counts(numbers) and counts(skipped) and isinstance(digest, str)):
            return None
        packs.append(StoredPack(segment, *(*numbers, digest, tuple(skipped))))
    return packs


def counts(values: Any) -> bool:
    """Whether these are integers of at least 0."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MOST for value in values)


def forget(pack: StoredPack) -> None:
    """Let a pack count no more: its bytes are not those that the journal tells."""
    packs, _ = read_journal(pack.segment)
    kept = [each.as_list() for each in packs if each != pack]
    write_safely(pack.segment / JOURNAL, line_of(kept).decode())


def size_of_file(path: Path) -> int | None:
    """Bytes of a regular file; None for anything else, a link included."""
    try:
        about = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return about.st_size if stat.S_ISREG(about.st_mode) else None
