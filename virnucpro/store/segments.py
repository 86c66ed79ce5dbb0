"""Rows that several workers write at the same time, each to a folder of its own, until the output is complete.

A worker appends the rows of a block of packs to one file, syncs it, and then says so in a journal beside it. Only
what a journal says counts. A worker that died leaves its folder behind, and the one in its place begins another;
so whatever dies when, each block is there whole or not at all. One that is there twice has the same bytes, and is
taken once.
"""

import contextlib
import itertools
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.ahead import RowsAhead
from virnucpro.store.committed import BLOCK_BYTES, Committed
from virnucpro.store.disk import AppendFile, reason_of, sync, write_safely
from virnucpro.store.errors import StoreError, WriteError
from virnucpro.store.files import LOST, read_at
from virnucpro.store.sealed import checked, sealed, unchecked
from virnucpro.store.staging import Staging, size_of
from virnucpro.store.unfinished import (
    JOURNAL,
    PROOF,
    SEGMENTS,
    SETTINGS,
    begun_settings,
    has_segments,
    remove,
    remove_rows,
)

ROWS = "rows"
logger = logging.getLogger(__name__)

RUN = "run"
"""The setting that tells a run from one that was begun anew with --force: no worker of an earlier one counts."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a pack: sequences, residues, rows of embeddings, bytes of names."""

    sequences: int
    residues: int
    rows: int
    name_bytes: int


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block's rows are: `path` from `offset` on, for each pack names, lengths and rows.

    `skipped`: places in the input of sequences that have no row.
    """

    path: Path
    offset: int
    packs: tuple[Counts, ...]
    skipped: tuple[int, ...]
    digest: str

    def spans(self, row_bytes: int) -> Iterator[tuple[int, int]]:
        """Where each pack's rows begin in the file, and how many bytes they have."""
        at = self.offset
        for counts in self.packs:
            at += counts.name_bytes + 8 * counts.sequences
            yield at, counts.rows * row_bytes
            at += counts.rows * row_bytes


class SegmentWriter:
    """A worker's rows. After a write or sync that failed nothing more is written.

    Raises WriteError, naming the folder and the machine, for what cannot be written, and then again.
    """

    def __init__(self, folder: Path, dtype: str):
        self._folder, self._dtype = folder, np.dtype(dtype)
        self._packs: list[Counts] = []
        self._skipped: list[int] = []
        self._begin = self._end = 0
        self._failure: WriteError | None = None
        with self._writing():
            folder.mkdir(parents=True)
            self._rows, self._journal = AppendFile(folder / ROWS), AppendFile(folder / JOURNAL)
            sync(folder)
            sync(folder.parent)

    def append(
        self, names: Sequence[str], lengths: Sequence[int], rows: np.ndarray, skipped: Sequence[int] = ()
    ) -> None:
        """Add a pack to the block: its names (without line ends), residues, and rows ``[n, row_size]``.

        `skipped`: places in the input of sequences of the pack that have no row.
        """
        encoded = "".join(f"{name}\n" for name in names).encode()
        values = np.ascontiguousarray(rows, dtype=self._dtype).reshape(-1).view(np.uint8)
        with self._writing():
            self._rows.append(encoded)
            self._rows.append(np.asarray(lengths, dtype="<i8").tobytes())
            self._rows.append(values)
        self._end += len(encoded) + 8 * len(lengths) + values.nbytes
        self._packs.append(Counts(len(names), sum(lengths), len(rows), len(encoded)))
        self._skipped += skipped

    def commit(self, block: int, digest: str) -> Block:
        """What was appended since the last commit is this block, and whole: put it on disk, then say so."""
        counts = [list(asdict(each).values()) for each in self._packs]
        where = {"block": block, "offset": self._begin, "end": self._end, "packs": counts}
        text = json.dumps({**where, "skipped": self._skipped, "digest": digest})
        with self._writing():
            self._rows.sync()
            # After a line end, because a crash can leave half a line
            self._journal.append(f"\n{checked(text)}\n".encode())
            self._journal.sync()
        committed = Block(self._rows.path, self._begin, tuple(self._packs), tuple(self._skipped), digest)
        self._begin, self._packs, self._skipped = self._end, [], []
        return committed

    def close(self) -> None:
        """Close the files. What was not committed does not count."""
        for file in (self._rows, self._journal):
            with contextlib.suppress(OSError):
                file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except OSError as error:
            self._failure = WriteError(f"cannot write {self._folder} on {os.uname().nodename}: {reason_of(error)}")
            raise self._failure from error


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
        for line in journal.read_bytes().split(b"\n"):
            entry = entry_in(line) if line else None
            if entry is not None and entry.end <= size:
                found.setdefault(entry.number, Block(rows, entry.offset, entry.packs, entry.skipped, entry.digest))
    return found


@dataclass(frozen=True)
class Entry:
    """A line of a worker's journal: of which block, from where to where in the file of rows; see `Block`."""

    number: int
    offset: int
    end: int
    packs: tuple[Counts, ...]
    skipped: tuple[int, ...]
    digest: str


def entry_in(line: bytes) -> Entry | None:
    """What a line of a worker's journal says; None for one that is not whole, or not as `commit` writes it."""
    found = unchecked(line)
    try:
        numbers = [found[name] for name in ("block", "offset", "end")]
        packs, skipped, digest = found["packs"], found["skipped"], found["digest"]
        counted = all(counts(each) and len(each) == len(fields(Counts)) for each in packs)
        if not (counted and counts(numbers) and counts(skipped) and isinstance(digest, str)):
            return None
        block, offset, end = numbers
        entry = Entry(block, offset, end, tuple(Counts(*each) for each in packs), tuple(skipped), digest)
        least = sum(pack.name_bytes + 8 * pack.sequences + pack.rows for pack in entry.packs)
        return entry if least <= end - offset and max(numbers + skipped) < 2**63 else None
    except (TypeError, KeyError):
        return None


def counts(values: Any) -> bool:
    """Whether these are integers of at least 0."""
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


class SegmentRows:
    """The rows of blocks 0, 1, 2, ... in this order, as `RowSource`."""

    def __init__(self, index: Mapping[int, Block], row_size: int, dtype: np.dtype):
        self._blocks = [index[number] for number in range(len(index))]
        self.row_size, self.dtype = row_size, dtype
        sequences = residues = rows = name_bytes = 0
        for counts in self._counts():
            sequences += counts.sequences
            residues += counts.residues
            rows += counts.rows
            name_bytes += counts.name_bytes
        digest = self._blocks[-1].digest if self._blocks else ""
        self.committed = Committed(sequences, residues, rows, name_bytes, digest, len(self.skipped()))

    def _counts(self) -> Iterator[Counts]:
        return itertools.chain.from_iterable(block.packs for block in self._blocks)

    def names(self) -> Iterator[list[str]]:
        """See `RowSource`."""
        for file, at, counts in self._packs():
            try:
                names = read_at(file, at, counts.name_bytes).decode().split("\n")[:-1]
            except UnicodeDecodeError as error:
                raise StoreError(LOST) from error
            if len(names) != counts.sequences:
                raise StoreError(LOST)
            yield names

    def lengths(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        for file, at, counts in self._packs():
            yield np.frombuffer(read_at(file, at + counts.name_bytes, 8 * counts.sequences), dtype="<i8")

    def embeddings(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        size = self.row_size * self.dtype.itemsize
        at_a_time = max(1, BLOCK_BYTES // size) * size
        for file, block in self._opened():
            for begin, length in block.spans(size):
                for at in range(begin, begin + length, at_a_time):
                    values = read_at(file, at, min(at_a_time, begin + length - at))
                    yield np.frombuffer(values, self.dtype).reshape(-1, self.row_size)

    def skipped(self) -> np.ndarray:
        """See `RowSource`."""
        return np.array([place for block in self._blocks for place in block.skipped], dtype="<i8")

    def _packs(self) -> Iterator[tuple[int, int, Counts]]:
        """Each pack: an open file's descriptor, where in it the pack begins, and what it has."""
        for file, block in self._opened():
            spans = block.spans(self.row_size * self.dtype.itemsize)
            for (rows_at, _), counts in zip(spans, block.packs, strict=True):
                yield file, rows_at - counts.name_bytes - 8 * counts.sequences, counts

    def _opened(self) -> Iterator[tuple[int, Block]]:
        """Each block, and the descriptor of its file."""
        with contextlib.ExitStack() as stack:
            opened: dict[Path, int] = {}
            for block in self._blocks:
                if block.path not in opened:
                    opened[block.path] = stack.enter_context(block.path.open("rb")).fileno()
                yield opened[block.path], block


class SegmentedRun:
    """The folder of an unfinished run of several workers. Use as a context manager: other processes are kept out.

    `begun`: the settings that it was begun with, None where it is new. `blocks`: those on disk, by number.
    `segments`: where each worker makes a folder of its own. `proof`: what a worker that sees the folder can read
    there. A folder in which nothing was committed is removed in the end.
    Raises StoreError where the folder cannot be written or another process has it.
    """

    def __init__(self, output: Path, resume: bool, is_folder: bool = False):
        self.output, self._staging = output, Staging(output, is_folder)
        self.folder = self._staging.folder
        self.blocks: dict[int, Block] = {}
        self._ahead: RowsAhead | None = None
        try:
            self.begun = begun_settings(output) if resume else None
            self._run = (self.begun or {}).get(RUN) or uuid.uuid4().hex
            self.segments = self.folder / SEGMENTS / self._run
            self.proof = uuid.uuid4().hex
            with self._staging.writing():
                if self.begun is None:
                    remove_rows(self.folder)
                self.segments.mkdir(parents=True, exist_ok=True)
                write_safely(self.folder / PROOF, self.proof)
        except BaseException:
            self._staging.close()
            raise

    def begin(self, settings: Mapping[str, Any]) -> dict[int, Block]:
        """Record the settings; returns what earlier workers left."""
        with self._staging.writing():
            write_safely(self.folder / SETTINGS, sealed({**settings, RUN: self._run}))
            sync(self.folder)
            sync(self.folder.parent)
        self.blocks = read_index(self.segments)
        return dict(self.blocks)

    def copy_ahead(self, row_bytes: int) -> None:
        """Copy the blocks, of rows of so many bytes, to where HDF5 will have them, each as soon as it is there."""
        self._ahead = RowsAhead(self._staging.whole, row_bytes)
        for number, block in self.blocks.items():
            self._ahead.add(number, block)

    def add(self, number: int, block: Block) -> None:
        """This block is on disk, and counts: another worker's of this number does not."""
        self.blocks[number] = block
        if self._ahead is not None:
            self._ahead.add(number, block)

    def finish(
        self, rows: SegmentRows, write: Callable[[Path, bool], bool], stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Have `write` make the output of `rows`, move it to its place and remove the folder.

        `write` gets the path, and whether the rows are there already, from `ahead.ROWS_AT` on; it returns False
        where it was told to stop, and so does this.
        """
        copied = self._ahead is not None and self._ahead.finish(stop) == rows.committed.rows > 0
        needed = size_of(rows) - (rows.committed.rows * rows.row_size * rows.dtype.itemsize if copied else 0)
        kept = f"All embeddings are in {self.folder}: make room and run again with --resume"
        if not self._staging.finish(lambda path: write(path, copied), needed, kept, copied):
            return False
        self._ahead = None
        try:
            remove(self.folder)
        except OSError as error:  # a worker that is just ending may have a file open
            logger.warning("%s is complete, but cannot remove %s: %s", self.output, self.folder, reason_of(error))
        return True

    def __enter__(self) -> "SegmentedRun":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        if not has_segments(self.folder):
            with contextlib.suppress(OSError):  # a worker cut off from its driver may still write
                remove(self.folder)
        self._staging.close()


def missing_blocks(index: Iterable[int], count: int) -> list[int]:
    """Which of so many blocks are not there."""
    return sorted(set(range(count)) - set(index))
