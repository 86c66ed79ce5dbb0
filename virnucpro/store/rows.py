"""Rows in the order of the input, as every format's writer takes them."""

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from virnucpro.store.journal import Committed

BATCH_BYTES = 2**24  # of embeddings taken together with their names


class RowSource(Protocol):
    """Where rows come from: a run's folder, or the parts of several runs."""

    @property
    def committed(self) -> Committed:
        """How many sequences, residues, rows and bytes of names."""

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
    return {**attributes, "skipped": rows.skipped().tolist()} if rows.committed.skipped else attributes


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
