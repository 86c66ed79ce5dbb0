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


class SegmentWriter:
    """A worker's rows, to a new folder. After a write or sync that failed nothing more is written.

    Raises WriteError, naming the folder and the machine, for what cannot be written, and then again.
    """

    def __init__(self, folder: Path, dtype: str):
        self.folder, self.dtype = folder, np.dtype(dtype)
        self._packs: list[StoredPack] = []
        self._rows_end, self._names_end = ROWS_AT, 0
        self._failure: WriteError | None = None
        self._files: dict[str, AppendFile] = {}
        with self._writing():
            folder.mkdir(parents=True)
            self._files = {name: AppendFile(folder / name) for name in (NAMES, JOURNAL)}
            self._files[ROWS] = rows_file(folder / ROWS)
            for each in (folder, folder.parent, folder.parent.parent):
                sync(each)

    def append(
        self,
        number: int,
        names: Sequence[str],
        lengths: Sequence[int],
        rows: np.ndarray,
        digest: str,
        skipped: Sequence[int] = (),
    ) -> None:
        """Add the pack `number`: names (without line ends), residues, and rows ``[n, row_size]``.

        `digest` is that of the input up to its end. `skipped`: places in the input of its sequences without a row.
        """
        named = "".join(f"{name}\n" for name in names).encode() + np.asarray(lengths, dtype="<i8").tobytes()
        values = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1).view(np.uint8)
        counts = (len(names), sum(lengths), len(rows))
        where = (self._rows_end, values.nbytes, zlib.crc32(values.data))
        where_names = (self._names_end, len(named), zlib.crc32(named))
        with self._writing():
            self._files[NAMES].append(named)
            self._files[ROWS].append(values)
        self._rows_end, self._names_end = self._rows_end + values.nbytes, self._names_end + len(named)
        self._packs.append(
            StoredPack(self.folder, number, *counts, *where, *where_names, digest, tuple(map(int, skipped)))
        )

    def commit(self) -> list[StoredPack]:
        """Put on disk what was appended since the last commit, and then say so in the journal; returns it."""
        if self._failure is None and not self._packs:
            return []
        with self._writing():
            self._files[ROWS].sync()
            self._files[NAMES].sync()
            self._files[JOURNAL].append(line_of([pack.as_list() for pack in self._packs]))
            self._files[JOURNAL].sync()
        committed, self._packs = self._packs, []
        return committed

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
