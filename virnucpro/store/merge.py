"""Put the parts that the shards of an input left together into one output."""

import collections
import contextlib
import dataclasses
import functools
import logging
import math
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.errors import StoreError, damaged, reading
from virnucpro.store.formats import Format, open_table
from virnucpro.store.hdf5 import BEFORE_CHECKSUMS, Table, crc_of_names
from virnucpro.store.place import Named
from virnucpro.store.rows import Counts, bytes_of
from virnucpro.store.run import OutputFolder, begun_settings, check_output, remove, size_of
from virnucpro.store.settings import differences, differing_values

OF_A_PART = ("format", "shard", "packs_in_block", "input_sequences")
"""Attributes of a part that the whole does not have, or not so."""

MAY_DIFFER = ("format", "shard", "command", "weights", "rotary_frequencies", "virnucpro")
"""`weights_checksum` and `engine` tell whether those are the same; weights may lie at another path."""

SHAPES_THE_INPUT = ("max_length", "long", "dedupe", "chunk", "genetic_code", "token_budget")
"""Settings that decide which sequences, and which packs of them, an input gives: its digest follows them."""

HARDWARE = ("device", "threads")
"""Attributes that rounding follows."""

MOST_OPEN = 256
"""Parts that are open at a time: each takes half a megabyte, and opening one again a millisecond."""

SPARE_FILES = 64  # open at the same time, beside the parts

logger = logging.getLogger(__name__)


def merge(
    output: Path,
    parts: Sequence[Path],
    format: Format,
    command: str = "",
    force: bool = False,
    allow_mixed: bool = False,
    stop: Callable[[], bool] = lambda: False,
    inputs: Sequence[Named] = (),
    proteins: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]] = lambda settings: (),
) -> dict[str, Any] | None:
    """Write `output` from all the parts of an input, streaming; returns a summary, for JSON, None where stopped.

    Raises StoreError, naming the parts, where one is missing, comes twice, is unfinished, or is of another input
    or was made with other settings; nothing is written then. `allow_mixed`: parts may come from different
    hardware, whose rounding differs; ``device`` then names all. `inputs`, `proteins`: of a format `with_proteins`
    the files that the shards are of, and what reads the proteins from them, by the settings of the parts.
    """
    output = check_output(output, False, force, [*parts, *inputs], format.holds)
    with PartFiles(parts, allow_mixed) as files:
        rows = MergedRows(files)
        format.check_rows(rows.dtype.name, math.prod(rows.shape[:-1]), rows.ragged)
        check_names(rows, format)
        more = {"proteins": proteins(files.settings)} if format.with_proteins else {}
        about = {name: value for name, value in files.settings.items() if name not in OF_A_PART}
        attributes = {**about, "command": command}
        with OutputFolder(output, format.holds, force) as folder:
            try:
                if not folder.put(
                    lambda path: format.write(path, rows, attributes, rows.shape, rows.ragged, stop, **more),
                    size_of(rows) + bytes_of(rows),
                ):
                    return None
            finally:
                with contextlib.suppress(OSError):
                    remove(folder.folder)
    done = rows.counts
    return {"output": str(output), "parts": len(parts), "sequences": done.sequences, "residues": done.residues}


def check_names(rows: "MergedRows", format: Format) -> None:
    """Raise what the format raises for names that it cannot hold, before anything is written."""
    if format.check_names is not None:
        for _ in format.check_names((name, "") for names in rows.names() for name in names):
            pass


class PartFiles:
    """The parts of one input, proved, in the order of their shards. Use as a context manager.

    Some stay open; the others are opened when they are read.
    """

    def __init__(self, paths: Sequence[Path], allow_mixed: bool = False):
        self._open: collections.OrderedDict[Path, Table] = collections.OrderedDict()
        self._most = files_allowed()
        try:
            parts = in_order([self._opened(path) for path in paths])
        except BaseException:
            self.__exit__()
            raise
        self._parts, self.count = parts, len(parts)
        first = parts[0]
        for part in parts[1:]:
            check_same_run(first, part, (*MAY_DIFFER, *HARDWARE) if allow_mixed else MAY_DIFFER)
        self.settings = {**first.settings, **(mixed([part.settings for part in parts]) if allow_mixed else {})}
        older = [part.path for part in parts if part.settings["format"] == BEFORE_CHECKSUMS]
        if older:
            logger.warning(
                "parts of virnucpro 0.4.0 have no checksums, so whether their rows are what was written is not "
                "known: %s",
                some(older),
            )
        self.ends = [rows_at_ends(part) for part in parts]
        self._check_blocks()

    def _check_blocks(self) -> None:
        """Raise StoreError unless the blocks are all of the input, each once, in the order of the parts."""
        sequences, place = self.settings["input_sequences"], 0
        for index in range(max(map(len, self.ends)) - 1):
            for part in self._parts:
                if part.blocks is not None and index < len(part.blocks):
                    begin, count = part.blocks[index].tolist()
                    if begin != place or count < 1:
                        raise damaged(part.path, f"it does not have the input's sequence {place:,}")
                    place += count
        if place != sequences:
            raise StoreError(
                f"the parts do not have the input's sequence {place:,} of {sequences:,}: one is damaged"
            )

    def _opened(self, path: Path) -> Table:
        # One that is named twice is told later
        return self._open[path] if path in self._open else self._kept_open(open_part(path))

    def _kept_open(self, part: Table) -> Table:
        """The part, as the newest of those that are open."""
        self._open[part.path] = part
        self._open.move_to_end(part.path)
        while len(self._open) > self._most:
            self._open.popitem(last=False)[1].close()
        return part

    def __iter__(self) -> Iterator[Table]:
        """All parts, as far as they need not be open."""
        return iter(self._parts)

    def __getitem__(self, number: int) -> Table:
        """The part of shard ``number + 1``, open."""
        part = self._parts[number]
        if part.path not in self._open:
            with reading(part.path):
                part.reopen()
        return self._kept_open(part)

    def __enter__(self) -> "PartFiles":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._open.values():
            part.close()


def open_part(path: Path) -> Table:
    """A part; StoreError for what is not a finished part."""
    if not path.exists():
        if begun_settings(path) is not None:
            raise StoreError(f"{path} is unfinished: run its command again with --resume, then merge")
        raise StoreError(f"there is no {path}")
    part = open_table(path)
    with contextlib.ExitStack() as on_failure, reading(path):
        on_failure.callback(part.close)
        about = part.settings
        if "shard" not in about or part.blocks is None:
            raise StoreError(f"{path} is not a part that `virnucpro embed --shard` wrote")
        number, of = shard_of(part)
        if not 1 <= number <= of or not isinstance(about["input_sequences"], int):
            raise damaged(path, f"it is of shard {about['shard']}")
        on_failure.pop_all()
    return part


def shard_of(part: Table) -> tuple[int, int]:
    """Which shard of how many it is."""
    number, of = map(int, part.settings["shard"].split("/"))
    return number, of


def in_order(parts: Sequence[Table]) -> list[Table]:
    """The parts from the first shard to the last; StoreError where some are missing or come twice."""
    if not parts:
        raise StoreError("no parts: name the files that `virnucpro embed --shard` wrote")
    by_shard: dict[int, list[Table]] = collections.defaultdict(list)
    by_count: dict[int, list[Path]] = collections.defaultdict(list)
    for part in parts:
        number, of = shard_of(part)
        by_shard[number].append(part)
        by_count[of].append(part.path)
    if len(by_count) > 1:
        fewest = min(by_count, key=lambda of: len(by_count[of]))
        counts = " and ".join(map(str, sorted(by_count)))
        raise StoreError(f"the parts are of {counts} shards; of {fewest}: {some(by_count[fewest])}")
    (count,) = by_count
    for number, found in sorted(by_shard.items()):
        if len(found) > 1:
            paths = some([part.path for part in found])
            raise StoreError(f"shard {number}/{count} comes {len(found)} times: {paths}; name each once")
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in by_shard]
    if missing:
        raise StoreError(f"{len(missing)} of {count} shards are missing: {some(missing)}")
    return [by_shard[number][0] for number in range(1, count + 1)]


def check_same_run(first: Table, part: Table, may_differ: Sequence[str]) -> None:
    """Raise StoreError where two parts are not of one input and one setting."""
    then, now, path = first.settings, part.settings, part.path
    differing = [name for name in differences(then, now) if name not in may_differ]
    of_input = [name for name in ("input_digest", "input_sequences") if name in differing]
    if of_input and not set(differing) & set(SHAPES_THE_INPUT):
        raise StoreError(
            f"{path} is of another input than {first.path}: embed that shard again from the same input"
        )
    differing = [name for name in differing if name not in of_input]
    if differing:
        pairs = differing_values(differing, now, then)
        remedy = "embed that shard again with the same settings"
        if set(differing) <= set(HARDWARE):
            remedy += ", or merge with --allow-mixed, which is recorded"
        if "channels_apart" in differing:
            remedy += ", on the same hardware"  # which decides where a channel just stands out
        raise StoreError(f"{path} was made with {pairs}, unlike {first.path}: {remedy}")


def mixed(about: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What to record of hardware that differs: all of them."""
    found = {name: sorted({str(each[name]) for each in about}) for name in HARDWARE}
    return {name: " | ".join(values) for name, values in found.items() if len(values) > 1}


class MergedRows:
    """The rows of all parts in the order of the input, as `RowSource`."""

    def __init__(self, files: PartFiles):
        self._files = files
        first = next(iter(files))
        self.dtype, self.shape = first.dtype, first.shape
        self.row_size = int(np.prod(self.shape))
        self.ragged = first.offsets is not None
        self._pieces: list[tuple[int, int]] = []
        for part in files:
            if (part.dtype, part.shape) != (self.dtype, self.shape):
                raise StoreError(
                    f"{part.path} has rows of {part.dtype} {part.shape}, and {first.path} of {self.dtype} "
                    f"{self.shape}: embed that shard again with the same settings"
                )

    @functools.cached_property
    def counts(self) -> Counts:
        """How many there are in all."""
        found = [dataclasses.astuple(part.counts) for part in self._files]
        return Counts(*map(sum, zip(*found, strict=True)))

    def skipped(self) -> np.ndarray:
        """See `RowSource`."""
        return np.sort(np.concatenate([part.skipped for part in self._files])).astype("<i8")

    def _blocks(self) -> Iterator[tuple[int, int, int]]:
        """Each block in the order of the input: its part's number, and where in it its sequences begin and end."""
        for index in range(max(map(len, self._files.ends)) - 1):
            for number, ends in enumerate(self._files.ends):
                if index + 1 < len(ends):
                    yield number, int(ends[index]), int(ends[index + 1])

    def names(self) -> Iterator[list[str]]:
        """See `RowSource`."""
        crcs = [0] * self._files.count
        for number, begin, end in self._blocks():
            part = self._files[number]
            for names in part.names_between(begin, end):
                crcs[number] = crc_of_names(names, crcs[number])
                yield names
        for part, crc in zip(self._files, crcs, strict=True):
            part.check_names(crc)

    def lengths(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        parts = list(self._files)
        return (parts[number].lengths[begin:end] for number, begin, end in self._blocks())

    def embeddings(self) -> Iterator[np.ndarray]:
        """See `RowSource`."""
        self._pieces = []
        for number, begin, end in self._blocks():
            part, rows = self._files[number], 0
            for values, crc in part.rows_between(part.rows_before(begin), part.rows_before(end)):
                yield values
                rows += len(values)
                if crc >= 0:
                    self._pieces.append((rows, crc))
                    rows = 0

    def pieces(self) -> np.ndarray:
        """See `RowSource`."""
        return np.array(self._pieces, dtype="<i8").reshape(-1, 2)


def rows_at_ends(part: Table) -> np.ndarray:
    """How many sequences of a part have a row before its first block, and up to the end of each."""
    assert part.blocks is not None
    blocks = part.blocks
    if (blocks < 0).any():
        raise damaged(part.path, "it has blocks of less than nothing")
    missing = np.searchsorted(part.skipped, blocks.sum(axis=1)) - np.searchsorted(part.skipped, blocks[:, 0])
    ends = np.concatenate([[0], np.cumsum(blocks[:, 1] - missing)]).astype(np.int64)
    if int(missing.sum()) != len(part.skipped) or ends[-1] != len(part) or (np.diff(ends) < 0).any():
        raise damaged(part.path, "its blocks are not its sequences")
    return ends


def files_allowed() -> int:
    """How many parts may be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else max(1, min(MOST_OPEN, soft - SPARE_FILES))


def some(items: Sequence[object], most: int = 10) -> str:
    """`items` for a message, cut after `most`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
