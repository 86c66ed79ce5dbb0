"""Embeddings as one HDF5 file (docs/embed.md has its layout): written from rows, and read."""

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.store.ahead import ROWS_AT
from virnucpro.store.committed import BLOCK, BLOCK_BYTES, Committed
from virnucpro.store.disk import FileOfHDF5
from virnucpro.store.errors import StoreError, damaged
from virnucpro.store.journal import Partial
from virnucpro.store.rows import RowSource

FORMAT = "virnucpro embeddings 1"
LARGE = 2**16  # bytes, from which on HDF5 aligns a dataset


def write_hdf5(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
    copied: bool = False,
) -> bool:
    """Write the rows to a new file; False where `stop` said to stop before it was whole.

    `shape` of a row's values; `ragged`: whether a sequence has a row for each residue; `attributes` are kept
    beside the datasets. `copied`: the file is there, and has the embeddings from `ROWS_AT` on.
    """
    with (
        FileOfHDF5(path, copied) as raw,
        h5py.File(raw, "w", alignment_threshold=LARGE, alignment_interval=ROWS_AT) as file,
    ):
        return write_datasets(file, rows, attributes, shape, ragged, lambda: bool(raw.failure) or stop(), copied)


def write_datasets(
    file: h5py.File,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool],
    copied: bool = False,
) -> bool:
    """Write the rows to an open file; see `write_hdf5`."""
    count = rows.committed.sequences
    embeddings = dataset_of_rows(file, (rows.committed.rows, *shape), rows.dtype)
    file.attrs.update({"format": FORMAT, **{name: attribute(value) for name, value in attributes.items()}})
    names = file.create_dataset("ids", count, h5py.string_dtype())
    lengths = file.create_dataset("lengths", count, "<i8")
    offsets = file.create_dataset("offsets", count + 1, "<i8") if ragged else None
    if rows.committed.skipped:
        file.create_dataset("skipped", data=rows.skipped())
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
            offsets[at + 1 : at + 1 + len(residues)] = end + np.cumsum(residues)
            end += int(residues.sum())  # a block may be empty: all of it was left out
        at += len(residues)
    if copied and embeddings.id.get_offset() == ROWS_AT:
        return True
    at = 0
    for values in rows.embeddings():
        if stop():
            return False
        embeddings[at : at + len(values)] = values.reshape(-1, *shape)
        at += len(values)
    return True


def dataset_of_rows(file: h5py.File, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    """The dataset of embeddings, not written yet. If large, and the first in its file, it begins at `ROWS_AT`."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset("embeddings", shape, dtype, dcpl=how)


def attribute(value: Any) -> Any:
    """A setting as an HDF5 attribute that every reader shows: text or a number, JSON for what is neither.

    Bytes of a file's name that are no UTF-8, which HDF5's text cannot hold, appear as ``\\udce9``.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, int | float) else json.dumps(value)


class Complete:
    """A complete file as ``--resume`` looks at it. Use as a context manager.

    `settings`: its attributes. `committed`: what of its input it has. Raises StoreError for a file that is not
    one of virnucpro's, or is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        with reading(path):
            self._file = h5py.File(path, "r")
        try:
            with reading(path):
                self._check()
        except BaseException:
            self._file.close()
            raise

    def _check(self) -> None:
        file = self._file
        self.settings: dict[str, Any] = dict(file.attrs)
        if self.settings.get("format") != FORMAT:
            raise StoreError(f"{self._path} does not hold embeddings of virnucpro's: give another name")
        lengths = file["lengths"][()]
        self._skipped = file["skipped"][()] if "skipped" in file else np.empty(0, np.int64)
        self._ends = np.cumsum(lengths) if "offsets" in file else np.arange(1, len(lengths) + 1)
        rows = int(self._ends[-1]) if len(lengths) else 0
        if file["ids"].shape != (len(lengths),) or len(file["embeddings"]) != rows or (lengths < 1).any():
            raise damaged(self._path)
        digest = str(self.settings["input_digest"])
        self.committed = Committed(
            len(lengths), int(lengths.sum()), rows, digest=digest, skipped=len(self._skipped)
        )

    def put_back(self, partial: Partial, places: int, digest: str) -> None:
        """Commit the rows of the first `places` sequences of the input to a run that has none yet.

        `digest` is that of the input up to there.
        """
        skipped = self._skipped[: np.searchsorted(self._skipped, places)]
        for start, end in self._spans(places - len(skipped), partial.row_size * partial.dtype.itemsize):
            with reading(self._path):
                names = [str(name) for name in self._file["ids"].asstr()[start:end]]
                lengths = self._file["lengths"][start:end].tolist()
                first = int(self._ends[start - 1]) if start else 0
                rows = self._file["embeddings"][first : self._ends[end - 1]].reshape(-1, partial.row_size)
            partial.append(names, lengths, rows, digest)
        partial.append([], [], np.empty((0, partial.row_size), partial.dtype), digest, skipped.tolist())
        partial.commit()

    def _spans(self, sequences: int, bytes_of_a_row: int) -> Iterator[tuple[int, int]]:
        """The first `sequences` in pieces of about `BLOCK_BYTES` of rows, and of `BLOCK` sequences at most."""
        start = 0
        while start < sequences:
            most = (int(self._ends[start - 1]) if start else 0) + BLOCK_BYTES // bytes_of_a_row
            fitting = int(np.searchsorted(self._ends[start : start + BLOCK], most, "right"))
            yield start, (start := min(start + max(1, fitting), sequences))

    def __enter__(self) -> "Complete":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file it is that cannot be read, or lacks what virnucpro's have."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {os.fspath(path)}: {error}") from error
    except (
        *(KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, ArithmeticError),
        zipfile.BadZipFile,
    ) as error:  # h5py and NumPy raise each of these for some damage, or for objects of another kind
        raise damaged(Path(path)) from error
