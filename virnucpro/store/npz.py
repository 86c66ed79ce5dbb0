"""Embeddings as NumPy's ``.npz``, for sets that fit into memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.hdf5 import attribute
from virnucpro.store.rows import RowSource, flat, with_skipped

FORMAT = "virnucpro embeddings npz 1"


def write_npz(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """As `write_hdf5`: the arrays ``ids``, ``lengths``, ``embeddings`` and with residues ``offsets``.

    ``settings`` is a string, the attributes in JSON. Nothing needs pickle. All is held in memory.
    """
    embeddings = np.empty((rows.committed.rows, *shape), rows.dtype)
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
        arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths)])
    settings = {
        "format": FORMAT,
        **{name: attribute(value) for name, value in with_skipped(attributes, rows).items()},
    }
    with path.open("wb") as file:
        np.savez(file, settings=np.array(json.dumps(settings)), **arrays)  # type: ignore[arg-type]
    return True
