"""Embeddings as NumPy's ``.npz``, for sets that fit into memory: written from rows, proved, and read."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.names import shown
from virnucpro.store.disk import amount
from virnucpro.store.errors import StoreError, damaged
from virnucpro.store.hdf5 import MOST_SHRUNK, attribute, check_arrays, offsets_of, taken
from virnucpro.store.rows import RowSource, bytes_of, flat, with_skipped

FORMAT = "virnucpro embeddings npz 1"

WIDE_BYTES, WIDE_SHARE = 2**28, 64
"""NumPy gives each name the room of the longest, 4 bytes a letter. Names that need more than this, and so many
times what their letters do, are refused: a few names are very long."""


class TooLargeError(StoreError):
    """The file does not fit into memory."""


def nameable(proteins: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The proteins, ``(name, protein)``, as they are; StoreError where the names need far too much memory."""
    count = letters = widest = 0
    for name, protein in proteins:
        count, letters = count + 1, letters + len(name)
        if len(name) > widest:
            widest, longest = len(name), name
        if 4 * widest * count > max(WIDE_BYTES, WIDE_SHARE * letters):
            raise StoreError(
                f"a .npz file has the same room for each name, and {shown(longest)!r} is so long that "
                f"{count:,} names take {amount(4 * widest * count)}: name a .h5 file, or shorten that name"
            )
        yield name, protein


def write_npz(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """As `write_hdf5`: the arrays ``ids``, ``lengths``, ``embeddings`` and with residues ``offsets``.

    ``settings`` is a string, the attributes in JSON. Nothing needs pickle. All is held in memory: StoreError where
    that is too little.
    """
    try:
        return written(path, rows, attributes, shape, ragged, stop)
    except MemoryError:
        # Not from this error: its advice is to compute with less
        raise TooLargeError(
            f"a .npz file is made in memory, where {amount(bytes_of(rows))} of embeddings and "
            f"{rows.counts.sequences:,} names do not fit: name a .h5 file, which is written piece by piece"
        ) from None


def written(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool],
) -> bool:
    """As `write_npz`; MemoryError where memory is used up."""
    embeddings = np.empty((rows.counts.rows, *shape), rows.dtype)
    at = 0
    for values in rows.embeddings():
        if stop():
            return False
        embeddings[at : at + len(values)] = values.reshape(-1, *shape)
        at += len(values)
    lengths = np.concatenate([np.empty(0, np.int64), *rows.lengths()])
    arrays = {
        "ids": np.array(list(flat(rows.names())), dtype=np.str_),
        "lengths": lengths,
        "embeddings": embeddings,
    }
    if ragged:
        arrays["offsets"] = offsets_of(lengths)
    settings = {
        "format": FORMAT,
        **{name: attribute(value) for name, value in with_skipped(attributes, rows).items()},
    }
    with path.open("wb") as file:
        np.savez(file, settings=np.array(json.dumps(settings)), **arrays)  # type: ignore[arg-type]
    return True


class Npz:
    """A file of this format, all of it in memory, proved by the checksums that a zip file has.

    Raises StoreError for one that is damaged or not of virnucpro's, and what NumPy raises.
    """

    def __init__(self, path: Path):
        with zipfile.ZipFile(path) as file:
            if sum(each.file_size for each in file.infolist()) > MOST_SHRUNK * path.stat().st_size:
                raise damaged(path, "it would have more bytes than a file of this size holds")
            arrays = {each.removesuffix(".npy"): array_of(path, file, each) for each in file.namelist()}
        self.settings: dict[str, Any] = json.loads(str(arrays.get("settings", "{}")))
        if self.settings.get("format") != FORMAT:
            raise damaged(path, "it does not hold embeddings of virnucpro's")
        self.embeddings, self.lengths = arrays["embeddings"], arrays["lengths"]
        self._ids, self._offsets = arrays["ids"], arrays.get("offsets")
        if self._ids.dtype.kind != "U":
            raise damaged(path, "ids are not text")
        check_arrays(path, self.settings, self.embeddings, self._ids.shape, self.lengths, self._offsets)

    @property
    def names(self) -> list[str]:
        """In the order of the input."""
        names: list[str] = self._ids.tolist()
        return names

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, which: range) -> Any:
        """See `formats.Reader`."""
        return taken(self.embeddings, self._offsets, which)

    def verify(self) -> bool:
        """True: reading it proved it."""
        return True

    def close(self) -> None:
        """Nothing is open."""


def array_of(path: Path, file: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of a zip file, all of whose bytes were read, as its checksum asks for."""
    size = file.getinfo(name).file_size
    with file.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize != size - stream.tell():
            raise damaged(path, f"{name} has not the bytes of {dtype} {shape}")
    with file.open(name) as stream:
        values: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise damaged(path, f"{name} has more than an array")
    return values
