"""Embeddings that `virnucpro embed` wrote, in any of its formats."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.readers import Reader, open_reader


class Embeddings:
    """A file (or Parquet folder) of embeddings, read as far as it is asked for. Use as a context manager.

    ``len(file)``; ``file[3]`` or ``file["my protein"]`` is a sequence's embedding, ``[D]`` or with residues
    ``[residues, D]`` (with several layers ``[layers, D]``, ``[residues, layers, D]``); ``file[2:5]`` a list of
    them; ``"my protein" in file``; iterating yields ``(name, embedding)`` in the order of the input. `names`,
    `lengths` (residues embedded) and `settings` describe them; `embeddings` is all rows, for HDF5 as h5py's
    dataset, which stays on disk. Raises StoreError for a file that is not one of virnucpro's.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._reader: Reader = open_reader(Path(path))
        self.settings: dict[str, Any] = self._reader.settings
        self._index: dict[str, int] | None = None

    @property
    def names(self) -> list[str]:
        """In the order of the input."""
        return self._reader.names

    @property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        return self._reader.lengths

    @property
    def embeddings(self) -> Any:
        """All rows ``[N, *shape]``, or with residues ``[sum of lengths, *shape]``."""
        return self._reader.embeddings

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, which: int | str | slice) -> Any:
        if isinstance(which, slice):
            return [self._reader.one(number) for number in range(len(self))[which]]
        return self._reader.one(self._find(which) if isinstance(which, str) else range(len(self))[which])

    def __contains__(self, name: object) -> bool:
        return name in self._numbers()

    def _find(self, name: str) -> int:
        number = self._numbers()[name]
        if number < 0:
            raise KeyError(f"several sequences are called {name!r}: take them by number")
        return number

    def _numbers(self) -> dict[str, int]:
        """Each name's number; -1 for a name that several have."""
        if self._index is None:
            self._index = {}
            for number, each in enumerate(self.names):
                self._index[each] = -1 if each in self._index else number
        return self._index

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, self[number]) for number, name in enumerate(self.names))

    def __enter__(self) -> "Embeddings":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
