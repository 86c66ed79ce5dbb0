"""Embeddings that `virnucpro embed` wrote, in any of its formats."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.access import Access
from virnucpro.store.errors import reading
from virnucpro.store.formats import Reader, open_reader


class Embeddings(Access):
    """A file, or folder, of embeddings, read as far as it is asked for. Use as a context manager.

    ``len(file)``; ``file[3]`` or ``file["my protein"]`` is a sequence's embedding, ``[D]`` or with residues
    ``[residues, D]`` (with several layers ``[layers, D]``, ``[residues, layers, D]``); ``file[2:5]`` is an array
    of them, with residues a list; iterating yields ``(name, embedding)`` in the order of the input. `Access` has
    the rest. `names`, `lengths` (residues embedded) and `settings` describe them; `embeddings` is all rows, of
    HDF5 tables as h5py's dataset, which stays on disk.
    Raises StoreError for a file that is not one of virnucpro's, or is damaged; that rows are those that were
    written is proved by `verify`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        self._reader: Reader = open_reader(self._path)
        self.settings: dict[str, Any] = self._reader.settings

    @property
    def names(self) -> list[str]:
        """In the order of the input."""
        with reading(self._path):
            return self._reader.names

    @property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        with reading(self._path):
            return self._reader.lengths

    @property
    def embeddings(self) -> Any:
        """All rows ``[N, *shape]``, or with residues ``[sum of lengths, *shape]``."""
        with reading(self._path):
            return self._reader.embeddings

    def verify(self) -> bool:
        """Prove all names and rows by the file's checksums; False where it has none, as of virnucpro 0.4.0.

        Raises StoreError for what is damaged.
        """
        with reading(self._path):
            return self._reader.verify()

    def __len__(self) -> int:
        return len(self._reader)

    def _take(self, which: range) -> Any:
        with reading(self._path):
            return self._reader.take(which)

    def __enter__(self) -> "Embeddings":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
