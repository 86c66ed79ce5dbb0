"""Rows in the order of the input, as every format's writer takes them, and those that a run has on disk."""

import contextlib
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from virnucpro.store.disk import open_to_read, read_at
from virnucpro.store.errors import LostError
from virnucpro.store.segments import NAMES, ROWS, ROWS_AT, StoredPack, forget

BLOCK_BYTES = 2**20  # of embeddings copied at a time
BATCH_BYTES = 2**24  # of embeddings taken together with their names
PROVERS = 8  # threads: one proves 2 GB/s, and the page cache and disks give more


@dataclass(frozen=True)
class Counts:
    """How many sequences, residues, rows and bytes of names there are, and how many sequences were left out."""

    sequences: int = 0
    residues: int = 0
    rows: int = 0
    name_bytes: int = 0
    skipped: int = 0

    @property
    def taken(self) -> int:
        """Sequences of the input that are done with."""
        return self.sequences + self.skipped

    @classmethod
    def of(cls, packs: Sequence[StoredPack]) -> "Counts":
        """Of all packs."""
        return cls(
            sum(pack.sequences for pack in packs),
            sum(pack.residues for pack in packs),
            sum(pack.rows for pack in packs),
            sum(pack.names_size - 8 * pack.sequences for pack in packs),
            sum(len(pack.skipped) for pack in packs),
        )


class RowSource(Protocol):
    """Where rows come from: a run's folder, or the parts of several runs. All are proved while they are read."""

    @property
    def counts(self) -> Counts:
        """How many there are."""

    @property
    def row_size(self) -> int:
        """Values in a row."""

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""

    def names(self) -> Iterator[list[str]]:
        """All names, some at a time."""

    def lengths(self) -> Iterator[np.ndarray]:
        """Residues of each sequence, int64, some at a time."""

    def embeddings(self) -> Iterator[np.ndarray]:
        """All rows ``[n, row_size]``, some at a time."""

    def skipped(self) -> np.ndarray:
        """Places in the input of the sequences that have no row, int64, ascending."""

    def pieces(self) -> np.ndarray:
        """Rows, and the CRC-32 of their bytes, of one piece after the other: int64 ``[pieces, 2]``.

        To be asked for when all rows were read.
        """


class Rows:
    """The rows of packs that are on disk, in this order.

    Raises LostError where they are not what was written; the pack does not count any more then.
    """

    def __init__(self, packs: Sequence[StoredPack], row_size: int, dtype: np.dtype):
        self._packs, self.row_size, self.dtype = packs, row_size, dtype
        self.counts = Counts.of(packs)

    def in_one_file(self) -> Path | None:
        """The folder of a worker that has all rows, one after the other, from the beginning of its file on."""
        ends = ROWS_AT
        for pack in self._packs:
            if pack.rows_at != ends or pack.segment != self._packs[0].segment:
                return None
            ends += pack.rows_size
        return self._packs[0].segment if self._packs else None

    def names(self) -> Iterator[list[str]]:
        """See `RowSource`."""
        return (names for names, _ in self._named())

    def lengths(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        return (lengths for _, lengths in self._named())

    def _named(self) -> Iterator[tuple[list[str], np.ndarray]]:
        with self._telling():
            for file, pack in self._opened(NAMES):
                yield names_of(file, pack)

    def embeddings(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        with self._telling():
            for file, pack in self._opened(ROWS):
                for values in self._values(file, pack):
                    yield np.frombuffer(values, self.dtype).reshape(-1, self.row_size)

    def prove(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Read all rows, several packs at a time; False where `stop` says to stop."""
        share = max(1, math.ceil(len(self._packs) / PROVERS))
        parts = [self._packs[at : at + share] for at in range(0, len(self._packs), share)]

        def proved(packs: Sequence[StoredPack]) -> bool:
            part = Rows(packs, self.row_size, self.dtype)
            return all(not stop() for pack in part._opened(ROWS) for _ in part._values(*pack))

        with self._telling(), ThreadPoolExecutor(PROVERS) as threads:
            return all(threads.map(proved, parts))

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Where a pack is lost, find all that are, and let them count no more."""
        try:
            yield
        except LostError as error:
            lost = [pack for pack in self._packs if not self._is_there(pack)]
            for pack in lost:
                with contextlib.suppress(OSError):
                    forget(pack)
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            first, folder = lost[0].number if lost else 0, self._packs[0].segment.parent
            raise LostError(
                f"block {first}{more} of the rows in {folder} are not "
                "what was written there: the disk, or another program, changed them. --resume computes them anew"
            ) from error

    def _is_there(self, pack: StoredPack) -> bool:
        alone = Rows([pack], self.row_size, self.dtype)
        try:
            for file, _ in alone._opened(NAMES):
                names_of(file, pack)
            for file, _ in alone._opened(ROWS):
                for _ in alone._values(file, pack):
                    pass
        except (LostError, OSError):
            return False
        return True

    def skipped(self) -> np.ndarray:
        """See `RowSource`."""
        return np.array([place for pack in self._packs for place in pack.skipped], dtype="<i8")

    def pieces(self) -> np.ndarray:
        """See `RowSource`: a pack is a piece."""
        return np.array([(pack.rows, pack.rows_crc) for pack in self._packs if pack.rows], "<i8").reshape(-1, 2)

    def _values(self, file: int, pack: StoredPack) -> Iterator[bytes]:
        return rows_of(file, pack, self.row_size * self.dtype.itemsize)

    def _opened(self, name: str) -> Iterator[tuple[int, StoredPack]]:
        """Each pack, and the descriptor of its worker's file of this name."""
        with contextlib.ExitStack() as stack:
            opened: dict[Path, int] = {}
            for pack in self._packs:
                if pack.segment not in opened:
                    opened[pack.segment] = open_to_read(pack.segment / name)
                    stack.callback(os.close, opened[pack.segment])
                yield opened[pack.segment], pack


def bytes_of(rows: RowSource) -> int:
    """Bytes of the rows themselves."""
    return rows.counts.rows * rows.row_size * rows.dtype.itemsize


def names_of(file: int, pack: StoredPack) -> tuple[list[str], np.ndarray]:
    """A pack's names and lengths; LostError where they are not those that were written."""
    named = read_at(file, pack.names_at, pack.names_size)
    end = len(named) - 8 * pack.sequences
    if len(named) == pack.names_size and end >= 0 and zlib.crc32(named) == pack.names_crc:
        names = named[:end].decode(errors="replace").split("\n")[:-1]
        lengths = np.frombuffer(named[end:], dtype="<i8")
        if len(names) == pack.sequences and int(lengths.sum()) == pack.residues:
            return names, lengths
    raise LostError(f"names of block {pack.number}")


def rows_of(file: int, pack: StoredPack, row_bytes: int) -> Iterator[bytes]:
    """The bytes of a pack's rows, whole rows at a time; LostError where they are not those that were written."""
    at_a_time = max(1, BLOCK_BYTES // row_bytes) * row_bytes
    crc, good = 0, pack.rows_size == pack.rows * row_bytes
    for at in range(0, pack.rows_size, at_a_time):
        wanted = min(at_a_time, pack.rows_size - at)
        values = read_at(file, pack.rows_at + at, wanted)
        crc = zlib.crc32(values, crc)
        good &= len(values) == wanted and (at + wanted < pack.rows_size or crc == pack.rows_crc)
        if not good:
            break
        yield values
    if not good:
        raise LostError(f"rows of block {pack.number}")


def batches(
    rows: RowSource, ragged: bool, most_bytes: int = BATCH_BYTES
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Names, residues (int64) and rows ``[n, row_size]`` of some sequences at a time, in step.

    `ragged`: whether a sequence has a row for each residue. A batch has at most `most_bytes` of rows, unless a
    sequence alone has more.
    """
    values = Stream(rows)
    most = max(1, most_bytes // (rows.row_size * rows.dtype.itemsize))
    names: list[str] = []
    lengths: list[int] = []
    count = 0
    pairs = zip(flat(rows.names()), flat(part.tolist() for part in rows.lengths()), strict=True)
    for name, length in pairs:
        more = length if ragged else 1
        if names and count + more > most:
            yield names, np.array(lengths, dtype=np.int64), values.take(count)
            names, lengths, count = [], [], 0
        names.append(name)
        lengths.append(length)
        count += more
    if names:
        yield names, np.array(lengths, dtype=np.int64), values.take(count)


flat = itertools.chain.from_iterable


def with_skipped(attributes: dict[str, Any], rows: RowSource) -> dict[str, Any]:
    """The attributes, and ``skipped``, the places in the input of sequences that have no row, if there are any."""
    return {**attributes, "skipped": rows.skipped().tolist()} if rows.counts.skipped else attributes


class Stream:
    """Rows of a source, taken in numbers of one's own choice."""

    def __init__(self, rows: RowSource):
        self._parts = rows.embeddings()
        self._held = np.empty((0, rows.row_size), rows.dtype)

    def take(self, count: int) -> np.ndarray:
        """The next `count` rows."""
        parts, missing = [], count
        while missing:
            if not len(self._held):
                self._held = next(self._parts)
            parts.append(self._held[:missing])
            self._held = self._held[missing:]
            missing -= len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate([self._held[:0], *parts])
