"""Embeddings as a Parquet dataset: a folder of parts that Ray, DuckDB, Polars and pandas read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virnucpro.store.errors import StoreError
from virnucpro.store.hdf5 import attribute
from virnucpro.store.rows import RowSource, batches, with_skipped

if TYPE_CHECKING:
    import pyarrow

FORMAT = "virnucpro embeddings parquet 1"
METADATA = b"virnucpro"
"""The key in the schema's metadata of what an HDF5 file has as attributes, in JSON."""

PART_BYTES = 2**29  # of embeddings in a part
ROW_GROUP_BYTES = 2**26  # of embeddings; what a reader holds at a time


def import_pyarrow() -> None:
    """Raise StoreError, with the remedy, where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise StoreError(
            f"Parquet needs pyarrow, which cannot be imported ({error}): pip install 'virnucpro[parquet]'"
        ) from error


def write_parquet(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """As `write_hdf5`, into a new folder ``path`` of files ``part-00000.parquet`` and so on.

    Columns: ``index`` int64, 0 for the first sequence of the input; ``id``; ``length``, the residues embedded;
    ``embedding``, a fixed-size list of `shape`, or of residues a list of those.
    """
    import pyarrow
    import pyarrow.parquet

    settings = {name: attribute(value) for name, value in with_skipped(attributes, rows).items()}
    about = {"format": FORMAT, **settings, "ragged": ragged, "row_shape": list(shape), "dtype": rows.dtype.name}
    schema = schema_of(rows.dtype, shape, ragged).with_metadata({METADATA: json.dumps(about).encode()})
    path.mkdir()
    writer: pyarrow.parquet.ParquetWriter | None = None
    part = written = at = 0
    try:
        for names, lengths, values in batches(rows, ragged, ROW_GROUP_BYTES):
            if stop():
                return False
            if writer is None or written >= PART_BYTES:
                if writer is not None:
                    writer.close()
                writer, part, written = open_part(path, part, schema), part + 1, 0
            columns = [
                pyarrow.array(np.arange(at, at + len(names), dtype=np.int64)),
                pyarrow.array(names, pyarrow.string()),
                pyarrow.array(lengths),
                column(values, shape, lengths if ragged else None),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            at += len(names)
            written += values.nbytes
        if writer is None:
            writer = open_part(path, 0, schema)
    finally:
        if writer is not None:
            writer.close()
    return True


def open_part(folder: Path, number: int, schema: "pyarrow.Schema") -> Any:
    """A writer of a new part. Embeddings look random to a compressor, which would cost time and save nothing."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(
        folder / f"part-{number:05d}.parquet", schema, compression="none", use_dictionary=False
    )


def schema_of(dtype: np.dtype, shape: tuple[int, ...], ragged: bool) -> "pyarrow.Schema":
    """The columns."""
    import pyarrow

    value = pyarrow.from_numpy_dtype(dtype)
    for size in reversed(shape):
        value = pyarrow.list_(value, size)
    if ragged:
        value = pyarrow.list_(value)
    return pyarrow.schema(
        [("index", pyarrow.int64()), ("id", pyarrow.string()), ("length", pyarrow.int64()), ("embedding", value)]
    )


def column(values: np.ndarray, shape: tuple[int, ...], lengths: np.ndarray | None) -> "pyarrow.Array":
    """Rows ``[n, row_size]`` as lists of `shape`; with `lengths` as lists of so many of those."""
    import pyarrow

    array = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(shape):
        array = pyarrow.FixedSizeListArray.from_arrays(array, size)
    if lengths is None:
        return array
    return pyarrow.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), array)
