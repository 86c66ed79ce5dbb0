"""Put the parts that the shards of an input left together into one output."""

import collections
import contextlib
import functools
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.store.committed import BLOCK_BYTES, Committed
from virnucpro.store.disk import FileOfHDF5
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import Format
from virnucpro.store.hdf5 import FORMAT, reading, write_datasets
from virnucpro.store.per_protein import checked
from virnucpro.store.rows import RowSource
from virnucpro.store.staging import Staging, size_of
from virnucpro.store.unfinished import begun_settings, check_output, differences, differing_values, remove

BLOCKS = "blocks"
"""The dataset of a part that says of each of its blocks how many sequences of the input come before it, and how
many it has, those without a row included: int64 ``[blocks, 2]``."""

OF_A_PART = ("format", "shard", "packs_in_block", "input_sequences")
"""Attributes of a part that the whole does not have, or not so."""

MAY_DIFFER = ("shard", "command", "weights", "rotary_frequencies", "virnucpro")
"""`weights_checksum` and `engine` tell whether those are the same; weights may lie at another path."""

HARDWARE = ("device", "threads")
"""Attributes that rounding follows."""

MOST_OPEN = 256
"""Parts that are open at a time: each takes half a megabyte, and opening one again 0.3 ms."""

SPARE_FILES = 64  # open at the same time, beside the parts


def write_part(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool],
    *,
    blocks: Sequence[tuple[int, int]],
) -> bool:
    """As `write_hdf5`, and what merging needs."""
    with FileOfHDF5(path) as raw, h5py.File(raw, "w") as file:
        file.create_dataset(BLOCKS, data=np.array(blocks, dtype="<i8").reshape(-1, 2))
        return write_datasets(file, rows, attributes, shape, ragged, lambda: bool(raw.failure) or stop())


def merge(
    output: Path,
    parts: Sequence[Path],
    format: Format,
    command: str = "",
    force: bool = False,
    allow_mixed: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Write `output` from all the parts of an input, streaming; returns a summary, for JSON, None where stopped.

    Raises StoreError, naming the parts, where one is missing, comes twice, is unfinished, or is of another input
    or was made with other settings; nothing is written then. `allow_mixed`: parts may come from different
    hardware, whose rounding differs; ``device`` then names all.
    """
    output = check_output(output, False, force, parts, format.is_folder)
    with PartFiles(parts, allow_mixed) as files:
        rows = MergedRows(files)
        if format.named:
            check_dataset_names(rows)
        about = {name: value for name, value in files.settings.items() if name not in OF_A_PART}
        attributes = {**about, "command": command}
        with contextlib.closing(Staging(output, format.is_folder)) as staging:
            try:
                if not staging.finish(
                    lambda path: format.write(path, rows, attributes, rows.shape, rows.ragged, stop), size_of(rows)
                ):
                    return None
            finally:
                with contextlib.suppress(OSError):
                    remove(staging.folder)
    done = rows.committed
    return {"output": str(output), "parts": len(parts), "sequences": done.sequences, "residues": done.residues}


def check_dataset_names(rows: "MergedRows") -> None:
    """Raise FastaError where a name cannot be a dataset's, before anything is written."""
    for _ in checked((name, "") for names in rows.names() for name in names):
        pass


class PartFiles:
    """The parts of one input, checked, in the order of their shards. Use as a context manager.

    Some stay open; the others are opened when they are read.
    """

    def __init__(self, paths: Sequence[Path], allow_mixed: bool = False):
        self._open: collections.OrderedDict[int, h5py.File] = collections.OrderedDict()
        self._most = files_allowed()
        parts = in_order([(path, read_about(path)) for path in paths])
        self.paths = [path for path, _ in parts]
        first = parts[0][1]
        for part in parts[1:]:
            check_same_run(*parts[0], *part, (*MAY_DIFFER, *HARDWARE) if allow_mixed else MAY_DIFFER)
        self.settings, self.count = (
            {**first, **(mixed([about for _, about in parts]) if allow_mixed else {})},
            len(parts),
        )
        self.blocks = [self._read(number, BLOCKS) for number in range(self.count)]
        self.skipped = [
            self._read(number, "skipped") if "skipped" in self[number] else np.empty(0, np.int64)
            for number in range(self.count)
        ]
        self._check_blocks(first["input_sequences"])

    def _check_blocks(self, sequences: int) -> None:
        """Raise StoreError unless the blocks are all of the input, each once."""
        place = 0
        for begin, count in sorted(tuple(each) for blocks in self.blocks for each in blocks.tolist()):
            if begin != place:
                break
            place += count
        if place != sequences:
            raise StoreError(
                f"the parts do not have the input's sequence {place:,} of {sequences:,}: one is damaged"
            )

    def _read(self, number: int, name: str) -> np.ndarray:
        with reading(self.paths[number]):
            values: np.ndarray = self[number][name][()]
            return values

    def __getitem__(self, number: int) -> h5py.File:
        """The part of shard ``number + 1``, open."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= self._most:
            self._open.popitem(last=False)[1].close()
        with reading(self.paths[number]):
            self._open[number] = h5py.File(self.paths[number], "r")
        return self._open[number]

    def __enter__(self) -> "PartFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()


def read_about(path: Path) -> dict[str, Any]:
    """A part's attributes; StoreError for what is not a finished part."""
    if not path.exists():
        if begun_settings(path) is not None:
            raise StoreError(f"{path} is unfinished: run its command again with --resume, then merge")
        raise StoreError(f"there is no {path}")
    with reading(path), h5py.File(path, "r") as file:
        if file.attrs.get("format") != FORMAT or "shard" not in file.attrs or BLOCKS not in file:
            raise StoreError(f"{path} is not a part that `virnucpro embed --shard` wrote")
        return {
            name: value.item() if isinstance(value, np.generic) else value for name, value in file.attrs.items()
        }


Part = tuple[Path, dict[str, Any]]
"""A part and its attributes."""


def in_order(parts: Sequence[Part]) -> list[Part]:
    """The parts from the first shard to the last; StoreError where some are missing or come twice."""
    if not parts:
        raise StoreError("no parts: name the files that `virnucpro embed --shard` wrote")
    by_shard: dict[int, list[Part]] = collections.defaultdict(list)
    by_count: dict[int, list[Path]] = collections.defaultdict(list)
    for path, about in parts:
        number, _, of = about["shard"].partition("/")
        by_shard[int(number)].append((path, about))
        by_count[int(of)].append(path)
    if len(by_count) > 1:
        fewest = min(by_count, key=lambda of: len(by_count[of]))
        counts = " and ".join(map(str, sorted(by_count)))
        raise StoreError(f"the parts are of {counts} shards; of {fewest}: {some(by_count[fewest])}")
    (count,) = by_count
    for number, found in sorted(by_shard.items()):
        if len(found) > 1:
            paths = some([path for path, _ in found])
            raise StoreError(f"shard {number}/{count} comes {len(found)} times: {paths}; name each once")
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in by_shard]
    if missing:
        raise StoreError(f"{len(missing)} of {count} shards are missing: {some(missing)}")
    return [by_shard[number][0] for number in range(1, count + 1)]


def check_same_run(
    first: Path, then: dict[str, Any], path: Path, now: dict[str, Any], may_differ: Sequence[str]
) -> None:
    """Raise StoreError where two parts are not of one input and one setting."""
    differing = [name for name in differences(then, now) if name not in may_differ]
    if "input_digest" in differing or "input_sequences" in differing:
        raise StoreError(f"{path} is of another input than {first}: embed that shard again from the same input")
    if differing:
        pairs = differing_values(differing, now, then)
        remedy = "embed that shard again with the same settings"
        if set(differing) <= set(HARDWARE):
            remedy += ", or merge with --allow-mixed, which is recorded"
        if "channels_apart" in differing:
            remedy += ", on the same hardware"  # which decides where a channel just stands out
        raise StoreError(f"{path} was made with {pairs}, unlike {first}: {remedy}")


def mixed(about: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What to record of hardware that differs: all of them."""
    found = {name: sorted({str(each[name]) for each in about}) for name in HARDWARE}
    return {name: " | ".join(values) for name, values in found.items() if len(values) > 1}


class MergedRows:
    """The rows of all parts in the order of the input, as `RowSource`."""

    def __init__(self, files: PartFiles):
        self._files = files
        embeddings = files[0]["embeddings"]
        self.dtype: np.dtype = embeddings.dtype
        self.shape: tuple[int, ...] = embeddings.shape[1:]
        self.row_size = int(np.prod(self.shape))
        self.ragged = "offsets" in files[0]
        self._ends = [rows_at_ends(*each) for each in zip(files.blocks, files.skipped, strict=True)]

    @functools.cached_property
    def committed(self) -> Committed:
        """How many there are in all."""
        sequences = residues = rows = name_bytes = 0
        for number in range(self._files.count):
            file = self._files[number]
            residues += int(file["lengths"][()].sum())
            rows += len(file["embeddings"])
            name_bytes += file["ids"].id.get_storage_size()
            sequences += len(file["lengths"])
        digest = self._files.settings["input_digest"]
        return Committed(sequences, residues, rows, name_bytes, digest, len(self.skipped()))

    def skipped(self) -> np.ndarray:
        """See `RowSource`."""
        return np.sort(np.concatenate(self._files.skipped)).astype("<i8")

    def _blocks(self) -> Iterator[tuple[h5py.File, int, int]]:
        """Each block in the order of the input: its part, and where in it its sequences begin and end."""
        for index in range(max(map(len, self._ends)) - 1):
            for number, ends in enumerate(self._ends):
                if index + 1 < len(ends):
                    yield self._files[number], int(ends[index]), int(ends[index + 1])

    def names(self) -> Iterator[list[str]]:
        """See `RowSource`."""
        return (file["ids"].asstr()[begin:end].tolist() for file, begin, end in self._blocks())

    def lengths(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        return (file["lengths"][begin:end] for file, begin, end in self._blocks())

    def embeddings(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        most = max(1, BLOCK_BYTES // (self.row_size * self.dtype.itemsize))
        for file, begin, end in self._blocks():
            first, last = (int(file["offsets"][at]) for at in (begin, end)) if self.ragged else (begin, end)
            for at in range(first, last, most):
                yield file["embeddings"][at : min(at + most, last)].reshape(-1, self.row_size)


def rows_at_ends(blocks: np.ndarray, skipped: np.ndarray) -> np.ndarray:
    """How many sequences of a part have a row before its first block, and up to the end of each."""
    missing = np.searchsorted(skipped, blocks.sum(axis=1)) - np.searchsorted(skipped, blocks[:, 0])
    return np.concatenate([[0], np.cumsum(blocks[:, 1] - missing)]).astype(np.int64)


def files_allowed() -> int:
    """How many parts may be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, soft - SPARE_FILES))


def some(items: Sequence[object], most: int = 10) -> str:
    """`items` for a message, cut after `most`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
