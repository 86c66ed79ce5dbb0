"""Rows that several workers write at the same time, each to a folder of its own, until the output is complete.

A worker appends the rows of a block of packs to one file, syncs it, and then says so in a journal beside it. Only
what a journal says counts. A worker that died leaves its folder behind, and the one in its place begins another;
so whatever dies when, each block is there whole or not at all. One that is there twice has the same bytes, and is
taken once.
"""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.files import delete, move_into_place, sync_folder
from virnucpro.store.journal import (
    BLOCK_BYTES,
    FINISHED,
    JOURNAL,
    LOCK,
    PROOF,
    SEGMENTS,
    SETTINGS,
    Committed,
    StoreError,
    begun_settings,
    folder_of,
    remove,
    remove_rows,
    write_safely,
)

ROWS = "rows"
RUN = "run"
"""The setting that tells a run from one that was begun anew with --force: no worker of an earlier one counts."""


@dataclass(frozen=True)
class Counts:
    """Of a pack: sequences, residues, rows of embeddings, bytes of names."""

    sequences: int
    residues: int
    rows: int
    name_bytes: int


@dataclass(frozen=True)
class Block:
    """Where a block's rows are: `path` from `offset` on, for each pack names, lengths and rows."""

    path: Path
    offset: int
    packs: tuple[Counts, ...]
    digest: str


class SegmentWriter:
    """A worker's rows. After a write or sync that failed nothing more is taken.

    Raises StoreError, naming the folder, for what cannot be written.
    """

    def __init__(self, folder: Path, dtype: str):
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._packs: list[Counts] = []
        self._begin = self._end = 0
        self._broken = False
        with self._writing():
            folder.mkdir(parents=True)
            self._rows, self._journal = (folder / ROWS).open("xb"), (folder / JOURNAL).open("xb")
            sync_folder(folder)
            sync_folder(folder.parent)

    def append(self, names: Sequence[str], lengths: Sequence[int], rows: np.ndarray) -> None:
        """Add a pack to the block: its names (without line ends), residues, and rows ``[n, row_size]``."""
        encoded = "".join(f"{name}\n" for name in names).encode()
        values = np.ascontiguousarray(rows, dtype=self._dtype)
        with self._writing():
            self._rows.write(encoded)
            self._rows.write(np.asarray(lengths, dtype="<i8").tobytes())
            self._rows.write(values.data)
        self._end += len(encoded) + 8 * len(lengths) + values.nbytes
        self._packs.append(Counts(len(names), sum(lengths), len(values), len(encoded)))

    def commit(self, block: int, digest: str) -> None:
        """What was appended since the last commit is this block, and whole: put it on disk, then say so."""
        counts = [list(asdict(each).values()) for each in self._packs]
        text = json.dumps(
            {"block": block, "offset": self._begin, "end": self._end, "packs": counts, "digest": digest}
        )
        with self._writing():
            self._rows.flush()
            os.fdatasync(self._rows.fileno())
            # After a line end, because a crash can leave half a line
            self._journal.write(f"\n{zlib.crc32(text.encode()):08x} {text}\n".encode())
            self._journal.flush()
            os.fdatasync(self._journal.fileno())
        self._begin, self._packs = self._end, []

    def close(self) -> None:
        """Close the files. What was not committed does not count."""
        for file in (self._rows, self._journal):
            with contextlib.suppress(OSError):
                file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if self._broken:
            raise StoreError(f"cannot write {self._folder}: an earlier write failed")
        self._broken = True
        try:
            yield
        except OSError as error:
            raise StoreError(f"cannot write {self._folder} on {os.uname().nodename}: {error.strerror}") from error
        self._broken = False


def read_index(folder: Path) -> dict[int, Block]:
    """All blocks that the workers of a run committed, each in a folder in `folder`, by number.

    Those whose rows are not all there do not count.
    """
    found: dict[int, Block] = {}
    for segment in sorted(folder.glob("*")):
        rows, journal = segment / ROWS, segment / JOURNAL
        if not journal.exists() or not rows.exists():
            continue
        size = rows.stat().st_size
        for line in journal.read_bytes().splitlines():
            checksum, _, text = line.partition(b" ")
            if checksum != f"{zlib.crc32(text):08x}".encode():
                continue
            about = json.loads(text)
            packs = tuple(Counts(*each) for each in about["packs"])
            if about["end"] <= size and about["block"] not in found:
                found[about["block"]] = Block(rows, about["offset"], packs, about["digest"])
    return found


class SegmentRows:
    """The rows of blocks 0, 1, 2, ... in this order, as `RowSource`."""

    def __init__(self, index: Mapping[int, Block], row_size: int, dtype: np.dtype):
        self._blocks = [index[number] for number in range(len(index))]
        self.row_size, self.dtype = row_size, dtype
        totals = [sum(part) for part in zip(*(asdict(each).values() for each in self._counts()), strict=True)]
        sequences, residues, rows, name_bytes = totals or (0, 0, 0, 0)
        digest = self._blocks[-1].digest if self._blocks else ""
        self.committed = Committed(sequences, residues, rows, name_bytes, digest)

    def _counts(self) -> Iterator[Counts]:
        return itertools.chain.from_iterable(block.packs for block in self._blocks)

    def names(self) -> Iterator[list[str]]:
        """See `RowSource`."""
        for file, at, counts in self._packs():
            yield read_at(file, at, counts.name_bytes).decode().split("\n")[:-1]

    def lengths(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        for file, at, counts in self._packs():
            yield np.frombuffer(read_at(file, at + counts.name_bytes, 8 * counts.sequences), dtype="<i8")

    def embeddings(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        size = self.row_size * self.dtype.itemsize
        at_a_time = max(1, BLOCK_BYTES // size)
        for file, at, counts in self._packs():
            begin = at + counts.name_bytes + 8 * counts.sequences
            for row in range(0, counts.rows, at_a_time):
                count = min(at_a_time, counts.rows - row)
                values = np.frombuffer(read_at(file, begin + row * size, count * size), self.dtype)
                yield values.reshape(count, self.row_size)

    def _packs(self) -> Iterator[tuple[int, int, Counts]]:
        """Each pack: an open file's descriptor, where in it the pack begins, and what it has."""
        size = self.row_size * self.dtype.itemsize
        with contextlib.ExitStack() as stack:
            opened: dict[Path, int] = {}
            for block in self._blocks:
                if block.path not in opened:
                    opened[block.path] = stack.enter_context(block.path.open("rb")).fileno()
                at = block.offset
                for counts in block.packs:
                    yield opened[block.path], at, counts
                    at += counts.name_bytes + 8 * counts.sequences + counts.rows * size


def read_at(descriptor: int, offset: int, count: int) -> bytes:
    """So many bytes of a file; StoreError where it has fewer."""
    parts = []
    while count:
        part = os.pread(descriptor, count, offset)
        if not part:
            raise StoreError("a worker's file has lost rows that it had: begin anew with --force")
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class SegmentedRun:
    """The folder of an unfinished run of several workers. Use as a context manager: other processes are kept out.

    `begun`: the settings that it was begun with, None where it is new. `segments`: where each worker makes a
    folder of its own. `proof`: what a worker that sees the folder can read there.
    Raises StoreError where the folder cannot be written or another process has it.
    """

    def __init__(self, output: Path, resume: bool):
        self.output, self.folder = output, folder_of(output)
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise StoreError(f"another process is writing {output}: wait for it, or name another file") from error
        except OSError as error:
            raise StoreError(f"cannot write or lock {self.folder}: {error.strerror}") from error
        self.begun = begun_settings(output) if resume else None
        self._run = (self.begun or {}).get(RUN) or uuid.uuid4().hex
        self.segments = self.folder / SEGMENTS / self._run
        self.proof = uuid.uuid4().hex
        with self._writing():
            if self.begun is None:
                remove_rows(self.folder)
            self.segments.mkdir(parents=True, exist_ok=True)
            write_safely(self.folder / PROOF, self.proof)

    def begin(self, settings: Mapping[str, Any]) -> dict[int, Block]:
        """Record the settings; returns what earlier workers left."""
        with self._writing():
            write_safely(self.folder / SETTINGS, json.dumps({**settings, RUN: self._run}))
            sync_folder(self.folder)
        return read_index(self.segments)

    def finish(self, rows: SegmentRows, write: Callable[[Path, SegmentRows], bool]) -> bool:
        """As `Partial.finish`."""
        done = rows.committed
        needed = done.name_bytes + 8 * done.sequences + done.rows * rows.row_size * rows.dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StoreError(
                f"{self.output} needs {needed / 1e9:,.2f} GB and the disk has {free / 1e9:,.2f} GB free: all "
                f"embeddings are in {self.folder}; make room and run again with --resume"
            )
        finished = self.folder / FINISHED
        with self._writing():
            delete(finished)
            if not write(finished, rows):
                return False
            move_into_place(finished, self.output)
        self.remove()
        return True

    def remove(self) -> None:
        """Delete the folder."""
        with contextlib.suppress(OSError):  # a worker cut off from its driver may still write
            remove(self.folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises both
            if isinstance(error, StoreError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"cannot write {self.output} ({self.folder}): {reason}") from error

    def __enter__(self) -> "SegmentedRun":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def missing_blocks(index: Iterable[int], count: int) -> list[int]:
    """Which of so many blocks are not there."""
    return sorted(set(range(count)) - set(index))
