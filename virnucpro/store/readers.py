"""Readers of the formats of an output, behind `Embeddings`."""

import contextlib
import functools
import json
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from virnucpro.store import hdf5, npz, parquet, per_protein
from virnucpro.store.errors import StoreError
from virnucpro.store.hdf5 import reading


class Reader(Protocol):
    """A file or folder of embeddings, read as far as it is asked for.

    `settings`: its attributes; `names`, `lengths`: of the sequences, in the order of the input; `embeddings`: all
    rows, ``[N, *shape]`` or with residues ``[sum of lengths, *shape]``, an array or what is read like one.
    """

    settings: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """In the order of the input."""

    @property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""

    @property
    def embeddings(self) -> Any:
        """All rows."""

    def __len__(self) -> int: ...

    def take(self, which: range) -> Any:
        """Embeddings of these numbers: an array with a row for each, or with residues a list of arrays."""

    def close(self) -> None:
        """Close what is open."""


class Table:
    """Arrays of all sequences: virnucpro's own HDF5 layout, and ``.npz``."""

    def __init__(self, arrays: Any, settings: dict[str, Any], names: Any):
        self.settings, self._arrays, self._read_names = settings, arrays, names
        self.lengths: np.ndarray = arrays["lengths"][()]
        self.embeddings = arrays["embeddings"]
        self._offsets = arrays["offsets"][()] if "offsets" in arrays else None

    @functools.cached_property
    def names(self) -> list[str]:
        """In the order of the input."""
        return self._read_names()

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, which: range) -> Any:
        """See `Reader`."""
        if self._offsets is not None:
            return [self.embeddings[self._offsets[each] : self._offsets[each + 1]] for each in which]
        ordered = which if which.step > 0 else which[::-1]  # h5py reads forward
        rows = self.embeddings[ordered.start : ordered.stop : ordered.step]
        return rows if which.step > 0 else rows[::-1]

    def close(self) -> None:
        """Close the file."""
        self._arrays.close()


class PerProtein:
    """A dataset for each protein."""

    def __init__(self, file: h5py.File):
        self._file = file
        self.settings = dict(file.attrs)
        self._keys = list(file)

    @functools.cached_property
    def names(self) -> list[str]:
        """As in the input, not shortened to the accession."""
        return [str(self._file[key].attrs.get("original_id", key)) for key in self._keys]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        return np.array([self._file[key].attrs["length"] for key in self._keys], dtype=np.int64)

    @property
    def embeddings(self) -> np.ndarray:
        """All rows."""
        parts = self.take(range(len(self)))
        return np.concatenate([self._none(), *parts]) if self.settings["ragged"] else parts

    def _none(self) -> np.ndarray:
        return np.empty((0, *self.settings["row_shape"]), self.settings["dtype"])

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, which: range) -> Any:
        """See `Reader`."""
        parts = [self._file[self._keys[number]][()] for number in which]
        if self.settings["ragged"]:
            return parts
        return np.stack(parts) if parts else self._none()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Parquet:
    """A folder of Parquet files; one row group of embeddings is held."""

    def __init__(self, folder: Path):
        from pyarrow.parquet import ParquetFile

        self._files = [ParquetFile(path) for path in sorted(folder.glob("part-*.parquet"))]
        metadata = self._files[0].schema_arrow.metadata or {} if self._files else {}
        self.settings = json.loads(metadata.get(parquet.METADATA, b"{}"))
        if self.settings.get("format") != parquet.FORMAT:
            raise StoreError(f"{folder} does not hold embeddings of virnucpro's")
        self._groups = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._held: tuple[int, np.ndarray, np.ndarray | None] | None = None

    @functools.cached_property
    def names(self) -> list[str]:
        """In the order of the input."""
        return [name for file in self._files for name in file.read(["id"]).column(0).to_pylist()]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        parts = [file.read(["length"]).column(0).to_numpy() for file in self._files]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @property
    def embeddings(self) -> np.ndarray:
        """All rows."""
        parts = [self._group(group)[0] for group in range(len(self._groups))]
        return np.concatenate([self._none(), *parts])

    def _none(self) -> np.ndarray:
        return np.empty((0, *self.settings["row_shape"]), self.settings["dtype"])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def take(self, which: range) -> Any:
        """See `Reader`."""
        parts = [self._one(number) for number in which]
        if self.settings["ragged"]:
            return parts
        return np.stack(parts) if parts else self._none()

    def _one(self, number: int) -> np.ndarray:
        group = int(np.searchsorted(self._begins, number, side="right")) - 1
        values, offsets = self._group(group)
        at = number - int(self._begins[group])
        return values[at] if offsets is None else values[offsets[at] : offsets[at + 1]]

    def _group(self, group: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A row group's rows ``[n, *shape]``, and with residues where each sequence begins and ends."""
        if self._held is None or self._held[0] != group:
            file, index = self._groups[group]
            array = file.read_row_group(index, ["embedding"]).column(0).combine_chunks()
            offsets = None
            if self.settings["ragged"]:
                offsets = array.offsets.to_numpy()
                array = array.flatten()
            for _ in self.settings["row_shape"]:
                array = array.flatten()
            self._held = group, array.to_numpy().reshape(-1, *self.settings["row_shape"]), offsets
        return self._held[1:]

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def open_reader(path: Path) -> Reader:
    """A reader of what is at `path`, told by its content; StoreError for what is damaged or not of virnucpro's."""
    with reading(path):
        if path.is_dir():
            parquet.import_pyarrow()
            return Parquet(path)
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        reader = open_npz(path) if is_zip else open_hdf5(path)
    if reader is None:
        raise StoreError(f"{path} does not hold embeddings of virnucpro's")
    return reader


def open_npz(path: Path) -> Reader | None:
    """A reader of a ``.npz`` file of virnucpro's, else None."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = ArraysInMemory(stored)
    settings = json.loads(str(arrays.get("settings", "{}")))
    if settings.get("format") != npz.FORMAT:
        return None
    return Table(arrays, settings, lambda: arrays["ids"].tolist())


class ArraysInMemory(dict[str, np.ndarray]):
    """Arrays by name, which there is nothing to close of."""

    def close(self) -> None:
        """Nothing."""


def open_hdf5(path: Path) -> Reader | None:
    """A reader of an HDF5 file of virnucpro's, else None."""
    file = h5py.File(path, "r")
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(file.close)
        reader: Reader
        match file.attrs.get("format"):
            case hdf5.FORMAT:
                reader = Table(file, dict(file.attrs), lambda: list(file["ids"].asstr()[()]))
            case per_protein.FORMAT:
                reader = PerProtein(file)
            case _:
                return None
        on_failure.pop_all()
        return reader
