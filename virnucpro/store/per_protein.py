"""Embeddings as UniProt ships them: an HDF5 file with a dataset for each protein, named by its accession."""

import functools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.errors import FastaError
from virnucpro.names import Names, shown
from virnucpro.store.errors import damaged
from virnucpro.store.hdf5 import CHECKSUMS, FileOfHDF5, attribute, attributes_of, crc_of_json, own_dataset
from virnucpro.store.rows import RowSource, batches, with_skipped

FORMAT = "virnucpro embeddings per protein 2"
BEFORE_CHECKSUMS = "virnucpro embeddings per protein 1"
"""What virnucpro 0.4.0 wrote."""

CRC = "crc32"
"""The attribute that tells the CRC-32 of a dataset's bytes; at the root, of all datasets' names and attributes."""

UNIPROT_NAME = re.compile(r"(?:sp|tr)\|([^|]+)\|[^|]*")
"""``sp|P12345|AATM_RABIT``, as UniProt names its sequences: the accession is what stands in the middle."""


def key(name: str) -> str:
    """What the dataset of this protein is called: its accession where UniProt named it, else all of its name."""
    found = UNIPROT_NAME.fullmatch(name)
    return found[1] if found else name


def nameable(proteins: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The proteins, ``(name, protein)``, as they are; FastaError where one cannot be named in such a file.

    ``/`` and a name of one dot mean a path to HDF5; two datasets cannot have one name. UniProt's accessions are
    unique and have neither.
    """
    seen = Names()
    for name, protein in proteins:
        dataset = key(name)
        if "/" in dataset or dataset in (".", ""):
            raise FastaError(
                f"sequence {shown(name)!r}: HDF5 takes it for a path and not for a dataset's name: rename it "
                "(many programs write _ for /), or leave out --layout per-protein"
            )
        if not seen.add(dataset):
            raise FastaError(
                f"two sequences would be the dataset {shown(dataset)!r}, and a file has one of a name: rename "
                "one, or leave out --layout per-protein, which keeps both"
            )
        yield name, protein


def write_per_protein(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """As `write_hdf5`, with a dataset ``[*shape]`` or ``[residues, *shape]`` for each protein at the root.

    Datasets are in the order of the input. Each has the attribute ``length``, the residues embedded, and where it
    is named by an accession ``original_id``, the name. ``model_name`` at the root is what ProtSpace shows. `CRC`
    and `CHECKSUMS` are what `PerProtein` proves them by.
    """
    with FileOfHDF5(path) as raw, h5py.File(raw, "w", track_order=True) as file:
        settings = {"model_name": attributes.get("model", "ESM-2"), **with_skipped(attributes, rows)}
        file.attrs.update({"format": FORMAT, "ragged": ragged, "dtype": rows.dtype.name, "row_shape": shape})
        for name, value in settings.items():
            file.attrs[name] = attribute(value)
        crc = 0
        for names, lengths, values in batches(rows, ragged):
            if raw.failure or stop():
                return False
            parts = np.split(values, np.cumsum(lengths)[:-1]) if ragged else values
            for name, length, value in zip(names, lengths, parts, strict=True):
                dataset = file.create_dataset(
                    key(name), data=value.reshape(-1, *shape) if ragged else value.reshape(shape)
                )
                dataset.attrs.update({"length": length, CRC: zlib.crc32(np.ascontiguousarray(value).data)})
                if key(name) != name:
                    dataset.attrs["original_id"] = name
                crc = crc_of_json([key(name), attributes_of(dataset), crc])
        file.attrs[CRC] = crc
        file.attrs[CHECKSUMS] = crc_of_json(attributes_of(file))
    return True


class PerProtein:
    """A file of this format, open. A dataset is proved when it is read. Close it.

    Raises StoreError for a file that is damaged, and what h5py raises.
    """

    def __init__(self, path: Path, file: h5py.File):
        self._path, self._file = path, file
        self.settings = attributes_of(file)
        self._proved = self.settings.get("format") == FORMAT
        if self._proved and file.attrs[CHECKSUMS] != crc_of_json(self.settings):
            raise damaged(path, "an attribute is not what was written")
        if not self._proved and CHECKSUMS in file.attrs:
            raise damaged(path, f"it has checksums, which {BEFORE_CHECKSUMS} does not have")
        self._keys = list(file)

    @functools.cached_property
    def names(self) -> list[str]:
        """As in the input, not shortened to the accession."""
        return [str(self._dataset(key).attrs.get("original_id", key)) for key in self._keys]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        return np.array([self._dataset(key).attrs["length"] for key in self._keys], dtype=np.int64)

    def _dataset(self, name: str) -> h5py.Dataset:
        """A dataset of the dtype and shape that it should have."""
        dataset = own_dataset(self._path, self._file, name)
        length, shape = int(dataset.attrs["length"]), tuple(self.settings["row_shape"])
        expected = (length, *shape) if self.settings["ragged"] else shape
        if dataset.dtype.name != self.settings["dtype"] or dataset.shape != expected or length < 1:
            raise damaged(self._path, f"{name} is {dataset.dtype} of shape {dataset.shape}")
        return dataset

    @property
    def embeddings(self) -> np.ndarray:
        """All rows."""
        parts = self.take(range(len(self)))
        none = np.empty((0, *self.settings["row_shape"]), self.settings["dtype"])
        return np.concatenate([none, *parts]) if self.settings["ragged"] else parts

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, which: range) -> Any:
        """See `formats.Reader`."""
        parts = [self._values(self._keys[number]) for number in which]
        if self.settings["ragged"]:
            return parts
        return np.array(parts, self.settings["dtype"]).reshape(len(parts), *self.settings["row_shape"])

    def _values(self, name: str) -> np.ndarray:
        dataset = self._dataset(name)
        values: np.ndarray = dataset[()]
        if self._proved and int(dataset.attrs[CRC]) != zlib.crc32(np.ascontiguousarray(values).data):
            raise damaged(self._path, f"{name} is not what was written")
        return values

    def verify(self) -> bool:
        """Prove all datasets and their names; False where it has no checksums."""
        crc = 0
        for name in self._keys:
            self._values(name)
            crc = crc_of_json([name, attributes_of(self._dataset(name)), crc])
        if self._proved and int(self.settings[CRC]) != crc:
            raise damaged(self._path, "its datasets are not those that were written")
        return self._proved

    def close(self) -> None:
        """Close the file."""
        self._file.close()
