"""Embeddings as one HDF5 file (docs/embed.md has its layout): written from rows, proved, and read."""

import functools
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.store.errors import damaged, reading
from virnucpro.store.rows import BLOCK_BYTES, Counts, RowSource, bytes_of
from virnucpro.store.segments import LARGE, ROWS_AT

FORMAT = "virnucpro embeddings 2"
BEFORE_CHECKSUMS = "virnucpro embeddings 1"
"""What virnucpro 0.4.0 wrote: the same without `PIECES` and `CHECKSUMS`."""

BLOCKS = "blocks"
"""The dataset of a part that says of each of its blocks how many sequences of the input come before it, and how
many it has, those without a row included: int64 ``[blocks, 2]``."""

PIECES = "pieces"
"""The dataset that says of one piece of the rows after the other how many rows it has, and the CRC-32 of their
bytes: int64 ``[pieces, 2]``."""

CHECKSUMS = "checksums"
"""The attribute that tells, in JSON, the CRC-32 of each other dataset's bytes (of ``ids``: a name a line), and
under ``attributes`` that of all other attributes, as JSON with sorted names."""

NAMES_AT_A_TIME = 4_096
OWN_FILTERS = 6  # HDF5's own filters have the numbers 1 to 6
MOST_SHRUNK = 1_032
"""How many times its bytes a file may say that its content has: deflate makes no more of them."""


def write_hdf5(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
    *,
    blocks: Sequence[tuple[int, int]] | None = None,
    in_place: bool = False,
) -> bool:
    """Write the rows to a new file; False where `stop` said to stop before it was whole.

    `shape` of a row's values; `ragged`: whether a sequence has a row for each residue; `attributes` are kept
    beside the datasets. `blocks`: of a part. `in_place`: the file is there, and has the rows from `ROWS_AT` on.
    """
    with (
        FileOfHDF5(path, ROWS_AT + bytes_of(rows) if in_place else 0) as raw,
        h5py.File(raw, "w", alignment_threshold=LARGE, alignment_interval=ROWS_AT) as file,
    ):
        count, checksums = rows.counts.sequences, dict[str, int]()
        embeddings = dataset_of_rows(file, (rows.counts.rows, *shape), rows.dtype)
        if in_place and embeddings.id.get_offset() != ROWS_AT:
            raw.failure = OSError(f"HDF5 {h5py.version.hdf5_version} does not take rows as they are on disk")
            return False
        names = file.create_dataset("ids", count, h5py.string_dtype())
        at = crc = 0
        for block in rows.names():
            if raw.failure or stop():
                return False
            names[at : at + len(block)] = block
            at, crc = at + len(block), crc_of_names(block, crc)
        checksums["ids"] = crc
        lengths = np.concatenate([np.empty(0, "<i8"), *rows.lengths()])
        small = {"lengths": lengths}
        if ragged:
            small["offsets"] = offsets_of(lengths)
        if rows.counts.skipped:
            small["skipped"] = rows.skipped()
        if blocks is not None:
            small[BLOCKS] = np.array(blocks, dtype="<i8").reshape(-1, 2)
        at = 0
        for values in () if in_place else rows.embeddings():
            if raw.failure or stop():
                return False
            embeddings[at : at + len(values)] = values.reshape(-1, *shape)
            at += len(values)
        for name, numbers in {**small, PIECES: rows.pieces()}.items():
            file.create_dataset(name, data=np.ascontiguousarray(numbers, "<i8"))
            checksums[name] = crc_of(numbers)
        file.attrs.update({"format": FORMAT, **{name: attribute(value) for name, value in attributes.items()}})
        checksums["attributes"] = crc_of_json(attributes_of(file))
        file.attrs[CHECKSUMS] = json.dumps(checksums)
        return True


def dataset_of_rows(file: h5py.File, shape: tuple[int, ...], dtype: np.dtype) -> h5py.Dataset:
    """The dataset of embeddings, not written yet. If large, and the first in its file, it begins at `ROWS_AT`."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return file.create_dataset("embeddings", shape, dtype, dcpl=how)


@functools.cache
def keeps_rows_in_place() -> bool:
    """Whether this HDF5 puts a large first dataset at `ROWS_AT`, as those that were tried do."""
    options = {"alignment_threshold": LARGE, "alignment_interval": ROWS_AT}
    with h5py.File("in memory", "w", driver="core", backing_store=False, **options) as file:
        return bool(dataset_of_rows(file, (LARGE, 1), np.dtype("float32")).id.get_offset() == ROWS_AT)


def attribute(value: Any) -> Any:
    """A setting as an HDF5 attribute that every reader shows: text or a number, JSON for what is neither.

    Bytes of a file's name that are no UTF-8, which HDF5's text cannot hold, appear as ``\\udce9``.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value if isinstance(value, int | float) else json.dumps(value)


def attributes_of(file: h5py.HLObject) -> dict[str, Any]:
    """Attributes as Python's own values, without `CHECKSUMS`."""
    return {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in file.attrs.items()
        if name != CHECKSUMS
    }


def crc_of(values: np.ndarray) -> int:
    """Of numbers' bytes."""
    return zlib.crc32(np.ascontiguousarray(values, "<i8").data)


def crc_of_names(names: Iterable[str], crc: int = 0) -> int:
    """Of names, a line each, after those whose checksum is `crc`."""
    return zlib.crc32("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape"), crc)


def crc_of_json(value: Any) -> int:
    """Of a value, as attributes, as JSON."""
    return zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode("utf-8", "backslashreplace"))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where each sequence's residues begin, and where the last one's end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")


def check_arrays(
    path: Path,
    settings: Mapping[str, Any],
    embeddings: Any,
    names: tuple[int, ...],
    lengths: np.ndarray,
    offsets: np.ndarray | None,
) -> None:
    """Raise StoreError unless the arrays of a file agree with each other and with its settings.

    `embeddings`: an array, or what has its shape and dtype. `names`: their shape.
    """
    if settings.get("dtype", embeddings.dtype.name) != embeddings.dtype.name:
        raise damaged(path, f"embeddings are {embeddings.dtype}, and their attribute says {settings['dtype']}")
    if embeddings.dtype not in (np.float32, np.float16) or embeddings.ndim not in (2, 3):
        raise damaged(path, f"embeddings are {embeddings.dtype} of {embeddings.ndim} dimensions")
    if lengths.ndim != 1 or lengths.dtype != np.int64 or names != lengths.shape or (lengths < 1).any():
        raise damaged(path, "lengths are not the residues of each name")
    if (offsets is not None) != (settings.get("pool", "residue" if offsets is not None else "") == "residue"):
        raise damaged(path, "offsets are there and should not be, or the other way round")
    if offsets is not None and not (offsets.dtype == np.int64 and np.array_equal(offsets, offsets_of(lengths))):
        raise damaged(path, "offsets are not the sums of lengths")
    rows = len(lengths) if offsets is None else int(offsets[-1])
    if len(embeddings) != rows:
        raise damaged(path, f"it has {len(embeddings):,} rows of embeddings, and {rows:,} belong to the names")


class Table:
    """A file of this format, open, proved as far as that takes no reading of rows and names. Close it.

    `settings`: its attributes. `lengths`, `offsets` (None without residues), `skipped`, `blocks` (None unless a
    part), `pieces` (None before checksums): as written. `embeddings`: h5py's dataset; `dtype` and `shape`: of a
    row. `counts`: of all, with about as many bytes of names as HDF5 keeps.
    Raises StoreError for a file that is not one of virnucpro's, or is damaged.
    """

    def __init__(self, path: Path, file: h5py.File):
        self.path, self._file = path, file
        self.settings = attributes_of(file)
        self._proved = self.settings.get("format") == FORMAT
        self._checksums = self._read_checksums() if self._proved else {}
        if not self._proved and (CHECKSUMS in file.attrs or PIECES in file):
            raise damaged(path, f"it has checksums, which {BEFORE_CHECKSUMS} does not have")
        self.embeddings, self._names = self.dataset("embeddings"), self.dataset("ids")
        self.dtype: np.dtype = self.embeddings.dtype
        self.shape: tuple[int, ...] = self.embeddings.shape[1:]
        if h5py.check_string_dtype(self._names.dtype) is None:
            raise damaged(path, "ids are not text")
        if "lengths" not in file:
            raise damaged(path, "it has no lengths")
        none = np.empty(0, np.int64)
        self.lengths: np.ndarray = self._numbers("lengths", 1, none)
        self.offsets: np.ndarray | None = self._numbers("offsets", 1)
        self.skipped: np.ndarray = self._numbers("skipped", 1, none)
        self.blocks: np.ndarray | None = self._numbers(BLOCKS, 2)
        self.pieces: np.ndarray | None = self._numbers(PIECES, 2)
        check_arrays(path, self.settings, self.embeddings, self._names.shape, self.lengths, self.offsets)
        if (np.diff(self.skipped) < 1).any() or (self.skipped < 0).any():
            raise damaged(path, "skipped are no places in the input")
        rows = None if self.pieces is None else self.pieces[:, 0]
        if self._proved and (rows is None or (rows < 1).any() or rows.sum() != len(self.embeddings)):
            raise damaged(path, f"{PIECES} are not its rows")
        residues, size = int(self.lengths.sum()), self._names.id.get_storage_size()
        self.counts = Counts(len(self.lengths), residues, len(self.embeddings), size, len(self.skipped))

    def _read_checksums(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self._file.attrs[CHECKSUMS])
        if found.pop("attributes") != crc_of_json(self.settings):
            raise damaged(self.path, "an attribute is not what was written")
        there = {*self._file} - {"embeddings"}
        if there != set(found):
            raise damaged(self.path, f"its datasets are {', '.join(sorted(there))}")
        return found

    def dataset(self, name: str) -> h5py.Dataset:
        """A dataset whose bytes are in this file, and not behind a link, in another one, or behind a plugin."""
        return own_dataset(self.path, self._file, name)

    def _numbers(self, name: str, dimensions: int, default: Any = None) -> Any:
        """A dataset of integers, proved; `default` where there is none."""
        if name not in self._file:
            return default
        dataset = self.dataset(name)
        if dataset.dtype != np.int64 or dataset.ndim != dimensions or dataset.shape[1:] not in ((), (2,)):
            raise damaged(self.path, f"{name} is {dataset.dtype} of shape {dataset.shape}")
        values: np.ndarray = dataset[()]
        if self._proved and self._checksums[name] != crc_of(values):
            raise damaged(self.path, f"{name} is not what was written")
        return values

    @functools.cached_property
    def names(self) -> list[str]:
        """In the order of the input, proved."""
        return [name for names in self._proved_names() for name in names]

    def names_between(self, start: int, end: int) -> Iterator[list[str]]:
        """Names of some sequences, some at a time, not proved."""
        with reading(self.path):
            for at in range(start, end, NAMES_AT_A_TIME):
                yield self._names.asstr()[at : min(at + NAMES_AT_A_TIME, end)].tolist()

    def _proved_names(self) -> Iterator[list[str]]:
        crc = 0
        for names in self.names_between(0, len(self)):
            crc = crc_of_names(names, crc)
            yield names
        self.check_names(crc)

    def prove_names(self) -> None:
        """Raise StoreError unless all names are those that were written; they are not kept."""
        for _ in self._proved_names():
            pass

    def check_names(self, crc: int) -> None:
        """Raise StoreError unless this is all names' checksum."""
        if self._proved and self._checksums["ids"] != crc:
            raise damaged(self.path, "ids are not what was written")

    def rows_before(self, sequence: int) -> int:
        """How many rows the sequences before this one have."""
        return sequence if self.offsets is None else int(self.offsets[sequence])

    def rows_between(self, first: int, last: int) -> Iterator[tuple[np.ndarray, int]]:
        """Rows ``[n, row_size]`` of whole pieces, some at a time, proved; with the CRC-32 of a piece at its end.

        In between it is -1. In a file without checksums what comes at a time is a piece.
        """
        size = int(np.prod(self.embeddings.shape[1:]))
        at_a_time = max(1, BLOCK_BYTES // (size * self.embeddings.dtype.itemsize))
        for begin, end, expected in self._pieces_between(first, last, at_a_time):
            crc = 0
            for at in range(begin, end, at_a_time):
                stop = min(at + at_a_time, end)
                with reading(self.path):
                    values = self.embeddings[at:stop].reshape(-1, size)
                crc = zlib.crc32(values, crc)
                if stop == end and expected not in (None, crc):
                    raise damaged(
                        self.path, f"rows {begin:,} to {end - 1:,} of embeddings are not what was written"
                    )
                yield values, crc if stop == end else -1

    def _pieces_between(self, first: int, last: int, at_a_time: int) -> Iterator[tuple[int, int, int | None]]:
        if self.pieces is None:
            yield from ((at, min(at + at_a_time, last), None) for at in range(first, last, at_a_time))
            return
        ends = self._ends
        begin, end = np.searchsorted(ends, [first, last])
        if ends[begin] != first or ends[end] != last:
            raise damaged(self.path, f"rows {first:,} to {last - 1:,} are no whole {PIECES}")
        for piece in range(begin, end):
            yield int(ends[piece]), int(ends[piece + 1]), int(self.pieces[piece, 1])

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Rows before each piece, and in all."""
        assert self.pieces is not None
        return np.concatenate([[0], np.cumsum(self.pieces[:, 0])])

    def verify(self) -> bool:
        """Prove names and rows, too; False where it has no checksums. Raises StoreError for what is damaged."""
        self.prove_names()
        for _ in self.rows_between(0, len(self.embeddings)):
            pass
        return self._proved

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, which: range) -> Any:
        """See `formats.Reader`."""
        return taken(self.embeddings, self.offsets, which)

    def reopen(self) -> None:
        """Open it again after `close`, as it is now; what was read of it stays."""
        self._file = h5py.File(self.path, "r")
        self.embeddings, self._names = self.dataset("embeddings"), self.dataset("ids")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def taken(embeddings: Any, offsets: np.ndarray | None, which: range) -> Any:
    """Embeddings of sequences by number, of an array or dataset of all rows."""
    if offsets is not None:
        return [embeddings[offsets[each] : offsets[each + 1]] for each in which]
    ordered = which if which.step > 0 else which[::-1]  # h5py reads forward
    rows = embeddings[ordered.start : ordered.stop : ordered.step]
    return rows if which.step > 0 else rows[::-1]


def own_dataset(path: Path, file: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset whose bytes are in its file: no link, nothing in another file, no filter of a plugin."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise damaged(path, f"{name} is a link and not a dataset")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise damaged(path, f"{name} is not a dataset")
    how = dataset.id.get_create_plist()
    filters = [how.get_filter(number)[0] for number in range(how.get_nfilters())]
    if dataset.is_virtual or dataset.external or any(each > OWN_FILTERS for each in filters):
        raise damaged(path, f"the bytes of {name} are in another file, or behind a filter that is not HDF5's own")
    if dataset.nbytes > MOST_SHRUNK * path.stat().st_size:
        raise damaged(path, f"{name} would have {dataset.nbytes:,} bytes, more than a file of this size holds")
    return dataset


class FileOfHDF5(io.RawIOBase):
    """A new file for h5py. After the first write that fails it keeps all others in memory; closing it raises that.

    By itself HDF5 cannot close a file that it cannot write, and crashes at the end of the process. It also reads
    what it wrote. `kept`: so many of the first bytes stay, whatever ends the writing, though h5py takes the file
    for empty.
    """

    def __init__(self, path: Path, kept: int = 0):
        super().__init__()
        flags = os.O_RDWR | os.O_NOFOLLOW | (0 if kept else os.O_CREAT | os.O_TRUNC)
        self._descriptor = os.open(path, flags, 0o666)
        self._kept = kept
        self._at = 0
        self._size = 0
        self._unwritten: list[tuple[int, bytes]] = []  # what could not be written, and where
        self.failure: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As that of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        """As that of any file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As that of any file."""
        into = memoryview(buffer).cast("B")
        count = max(0, min(len(into), self._size - self._at))
        found = os.pread(self._descriptor, count, self._at)
        into[:count] = found + bytes(count - len(found))
        for at, data in self._unwritten:
            start, end = max(at, self._at), min(at + len(data), self._at + count)
            if start < end:
                into[start - self._at : end - self._at] = data[start - at : end - at]
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """All of it."""
        rest = memoryview(data).cast("B")
        size, at = len(rest), self._at
        try:
            while len(rest) and self.failure is None:
                written = os.pwrite(self._descriptor, rest, at)
                rest, at = rest[written:], at + written
        except OSError as failure:
            self.failure = failure.with_traceback(None)  # which would hold HDF5's buffer
        if len(rest):
            self._unwritten.append((at, bytes(rest)))
        self._at += size
        self._size = max(self._size, self._at)
        return size

    def truncate(self, size: int | None = None) -> int:
        """As that of any file."""
        self._size = self._at if size is None else size
        try:
            if self.failure is None:
                os.ftruncate(self._descriptor, max(self._size, self._kept))
        except OSError as failure:
            self.failure = failure
        return self._size

    def close(self) -> None:
        """Close it once, and raise what failed."""
        if not self.closed:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)
            super().close()
            if self.failure is not None:
                raise self.failure
