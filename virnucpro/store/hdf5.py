"""Embeddings as one HDF5 file (docs/embed.md has its layout): written from rows, and read."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.store.access import Access
from virnucpro.store.journal import Rows, StoreError

FORMAT = "virnucpro embeddings 1"


def write_hdf5(
    path: Path,
    rows: Rows,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Write the rows to a new file; False where `stop` said to stop before it was whole.

    `shape` of a row's values; `ragged`: whether a sequence has a row for each residue; `attributes` are kept
    beside the datasets.
    """
    count = rows.committed.sequences
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": FORMAT, **{name: attribute(value) for name, value in attributes.items()}})
        names = file.create_dataset("ids", count, h5py.string_dtype())
        lengths = file.create_dataset("lengths", count, "<i8")
        offsets = file.create_dataset("offsets", count + 1, "<i8") if ragged else None
        embeddings = file.create_dataset("embeddings", (rows.committed.rows, *shape), rows.dtype)
        at = 0
        for block in rows.names():
            if stop():
                return False
            names[at : at + len(block)] = block
            at += len(block)
        at = end = 0
        for residues in rows.lengths():
            lengths[at : at + len(residues)] = residues
            if offsets is not None:
                ends = end + np.cumsum(residues)
                offsets[at + 1 : at + 1 + len(residues)], end = ends, ends[-1]
            at += len(residues)
        at = 0
        for values in rows.embeddings():
            if stop():
                return False
            embeddings[at : at + len(values)] = values.reshape(-1, *shape)
            at += len(values)
    return True


def attribute(value: Any) -> Any:
    """A setting as an HDF5 attribute that every reader shows: text or a number, JSON for what is neither."""
    return value if isinstance(value, str | int | float) else json.dumps(value)


class Embeddings(Access):
    """A file of embeddings, read as far as it is asked for. Use as a context manager.

    ``len(file)``; ``file[3]`` or ``file["my protein"]`` is a sequence's embedding, ``[D]`` or with residues
    ``[residues, D]`` (with several layers ``[layers, D]``, ``[residues, layers, D]``); ``file[2:5]`` is an array
    of them, with residues a list; iterating yields ``(name, embedding)`` in the order of the input. `Access` has
    the rest. `names`, `lengths` (residues embedded) and `settings` describe them. Raises StoreError for a file
    that is not one of virnucpro's.
    """

    def __init__(self, path: str | os.PathLike[str]):
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise StoreError(f"cannot read {os.fspath(path)}: {error}") from error
        if self._file.attrs.get("format") != FORMAT:
            self._file.close()
            raise StoreError(f"{os.fspath(path)} does not hold embeddings of virnucpro's")
        self.settings = dict(self._file.attrs)
        self.lengths: np.ndarray = self._file["lengths"][()]
        self.embeddings: h5py.Dataset = self._file["embeddings"]
        self._offsets = self._file["offsets"][()] if "offsets" in self._file else None

    @functools.cached_property
    def names(self) -> list[str]:
        """In the order of the input."""
        return list(self._file["ids"].asstr()[()])

    def __len__(self) -> int:
        return len(self.lengths)

    def _take(self, which: range) -> Any:
        if self._offsets is None:
            ordered = which if which.step > 0 else which[::-1]  # h5py reads forward
            rows = self.embeddings[ordered.start : ordered.stop : ordered.step]
            return rows if which.step > 0 else rows[::-1]
        return [self.embeddings[self._offsets[number] : self._offsets[number + 1]] for number in which]

    def __enter__(self) -> "Embeddings":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
