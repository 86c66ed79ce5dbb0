"""Embeddings as a Parquet dataset: a folder of parts that Ray, DuckDB, Polars and pandas read."""

import functools
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from virnucpro.store.errors import StoreError, damaged
from virnucpro.store.hdf5 import attribute, crc_of_json, crc_of_names
from virnucpro.store.rows import RowSource, batches, with_skipped

if TYPE_CHECKING:
    import pyarrow

FORMAT = "virnucpro embeddings parquet 2"
BEFORE_CHECKSUMS = "virnucpro embeddings parquet 1"
"""What virnucpro 0.4.0 wrote: the same without checksums, of pages and `CRC`, and without ``sequences``."""

CRC = "crc32"
"""What in `METADATA` tells the CRC-32 of the rest of it, as JSON with sorted names."""

METADATA = b"virnucpro"
"""The key in the schema's metadata of what an HDF5 file has as attributes, in JSON."""

CONTENT = b"virnucpro crc32"
"""The key in a part's metadata of the CRC-32 of its names, a line each, of its lengths and of its embeddings, in
JSON: a page's checksum does not prove the page's header, which says how to read it."""

HOLDS = ("part-*.parquet",)

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
    about["sequences"] = rows.counts.sequences
    about[CRC] = crc_of_json(about)
    schema = schema_of(rows.dtype, shape, ragged).with_metadata({METADATA: json.dumps(about).encode()})
    path.mkdir()
    writer: pyarrow.parquet.ParquetWriter | None = None
    content, part, written, at = Content(), 0, 0, 0
    try:
        for names, lengths, values in batches(rows, ragged, ROW_GROUP_BYTES):
            if stop():
                return False
            if writer is None or written >= PART_BYTES:
                close_part(writer, content)
                writer, part, written, content = open_part(path, part, schema), part + 1, 0, Content()
            columns = [
                pyarrow.array(np.arange(at, at + len(names), dtype=np.int64)),
                pyarrow.array(names, pyarrow.string()),
                pyarrow.array(lengths),
                column(values, shape, lengths if ragged else None),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
            content.add(names, lengths, values)
            at += len(names)
            written += values.nbytes
        if writer is None:
            writer = open_part(path, 0, schema)
    finally:
        close_part(writer, content)
    return True


class Content:
    """The checksums of what a part has, as `CONTENT` tells them."""

    def __init__(self) -> None:
        self._names = self._lengths = self._values = 0

    def add(self, names: list[str], lengths: np.ndarray, values: np.ndarray) -> None:
        """Sequences more, and their rows."""
        self._names = crc_of_names(names, self._names)
        self._lengths = zlib.crc32(np.ascontiguousarray(lengths, "<i8").data, self._lengths)
        self._values = zlib.crc32(np.ascontiguousarray(values).data, self._values)

    def __bytes__(self) -> bytes:
        return json.dumps([self._names, self._lengths, self._values]).encode()


def close_part(writer: Any, content: Content) -> None:
    """Close a part, if there is one, with the checksums of what it has."""
    if writer is not None:
        writer.add_key_value_metadata({CONTENT: bytes(content)})
        writer.close()


def open_part(folder: Path, number: int, schema: "pyarrow.Schema") -> Any:
    """A writer of a new part. Embeddings look random to a compressor, which would cost time and save nothing."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(
        folder / f"part-{number:05d}.parquet",
        schema,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
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


class Parquet:
    """A folder of Parquet files, whose pages are proved as they are read; one row group of embeddings is held.

    Raises StoreError for one that is damaged or not of virnucpro's, and what pyarrow raises.
    """

    def __init__(self, folder: Path):
        from pyarrow.parquet import ParquetFile

        self._folder = folder
        paths = sorted(folder.glob("part-*.parquet"))
        if [path.name for path in paths] != [f"part-{number:05d}.parquet" for number in range(len(paths))]:
            raise damaged(folder, "it does not have all of its parts")
        self._files = [ParquetFile(path, page_checksum_verification=True) for path in paths]
        about = {(file.schema_arrow.metadata or {}).get(METADATA, b"{}") for file in self._files} or {b"{}"}
        self.settings: dict[str, Any] = json.loads(about.pop())
        if self.settings.get("format") not in (FORMAT, BEFORE_CHECKSUMS):
            raise StoreError(f"{folder} does not hold embeddings of virnucpro's")
        if about:
            raise damaged(folder, "its parts are of different runs")
        self._proved: bool = self.settings["format"] == FORMAT
        if self._proved and self.settings.pop(CRC) != crc_of_json(self.settings):
            raise damaged(folder, "what it tells of itself is not what was written")
        shape = tuple(self.settings["row_shape"])
        schema = schema_of(np.dtype(self.settings["dtype"]), shape, self.settings["ragged"])
        if any(not file.schema_arrow.equals(schema) for file in self._files):
            raise damaged(folder, f"its columns are not {schema.names} of {self.settings['dtype']}")
        self._groups = [(file, group) for file in self._files for group in range(file.num_row_groups)]
        sizes = [file.metadata.row_group(group).num_rows for file, group in self._groups]
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if self._proved and len(self) != self.settings["sequences"]:
            raise damaged(folder, f"it has {len(self):,} of {self.settings['sequences']:,} sequences")
        self._held: tuple[int, np.ndarray, np.ndarray | None] | None = None

    @functools.cached_property
    def names(self) -> list[str]:
        """In the order of the input."""
        return [name for file in self._files for name in file.read(["id"]).column(0).to_pylist()]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        parts = [file.read(["length"]).column(0).to_numpy() for file in self._files]
        lengths: np.ndarray = np.concatenate([np.empty(0, np.int64), *parts])
        if (lengths < 1).any():
            raise damaged(self._folder, "lengths are not the residues of each name")
        return lengths

    @property
    def embeddings(self) -> np.ndarray:
        """All rows."""
        parts = [self._group(group)[0] for group in range(len(self._groups))]
        return np.concatenate([np.empty((0, *self.settings["row_shape"]), self.settings["dtype"]), *parts])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def take(self, which: range) -> Any:
        """See `formats.Reader`."""
        parts = [self._one(number) for number in which]
        if self.settings["ragged"]:
            return parts
        return np.array(parts, self.settings["dtype"]).reshape(len(parts), *self.settings["row_shape"])

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
            values = array.to_numpy(zero_copy_only=False).reshape(-1, *self.settings["row_shape"])
            self._held = group, values, offsets
        return self._held[1:]

    def verify(self) -> bool:
        """Prove all pages, and that rows, lengths and indices agree; False where the pages have no checksums."""
        at = 0
        contents = {id(file): Content() for file in self._files}
        for number, (file, group) in enumerate(self._groups):
            index = file.read_row_group(group, ["index"]).column(0).to_numpy()
            if not np.array_equal(index, np.arange(at, at + len(index))):
                raise damaged(self._folder, f"its rows from {at:,} on are not in order")
            values, offsets = self._group(number)
            found = np.diff(offsets) if offsets is not None else np.ones(len(values))
            expected = self.lengths[at : at + len(index)] if offsets is not None else np.ones(len(index))
            if not np.array_equal(found, expected):
                raise damaged(
                    self._folder, f"embeddings from sequence {at:,} on are not as long as their lengths say"
                )
            names = file.read_row_group(group, ["id"]).column(0).to_pylist()
            contents[id(file)].add(names, self.lengths[at : at + len(index)], values)
            at += len(index)
        for file in self._files if self._proved else ():
            if file.metadata.metadata[CONTENT] != bytes(contents[id(file)]):
                raise damaged(self._folder, "a part does not have what was written to it")
        if len(self.names) != at:
            raise damaged(self._folder, "it does not have a name for each embedding")
        return self._proved

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
