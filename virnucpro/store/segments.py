"""Rows that several workers write at the same time, each to a folder of its own, until the output is complete.

A worker appends the rows of a block of packs to one file, syncs it, and then says so in a journal beside it. Only
what a journal says counts. A worker that died leaves its folder behind, and the one in its place begins another;
so whatever dies when, each block is there whole or not at all. One that is there twice has the same bytes, and is
taken once.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.committed import BLOCK_BYTES, Committed
from virnucpro.store.disk import AppendFile, reason_of, sync
from virnucpro.store.errors import StoreError, WriteError
from virnucpro.store.files import LOST, read_at
from virnucpro.store.sealed import checked, unchecked
from virnucpro.store.unfinished import JOURNAL

ROWS = "rows"


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


def missing_blocks(index: Iterable[int], count: int) -> list[int]:
    """Which of so many blocks are not there."""
    return sorted(set(range(count)) - set(index))
