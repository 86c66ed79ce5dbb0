"""Embeddings as one HDF5 file (docs/embed.md has its layout): written from rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.store.rows import RowSource

FORMAT = "virnucpro embeddings 1"


def write_hdf5(
    path: Path,
    rows: RowSource,
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
