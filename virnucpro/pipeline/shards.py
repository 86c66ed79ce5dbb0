"""A share of the packs of an input: what one job of many embeds."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.data.packing import Pack
from virnucpro.errors import ArgumentError
from virnucpro.pipeline.provenance import InputDigest, Place, changed, check_complete, compared
from virnucpro.pipeline.resuming import Work, until
from virnucpro.store.hdf5 import Complete
from virnucpro.store.journal import Committed, Partial, begun_settings, folder_of, remove

PACKS_IN_BLOCK = 4
"""Packs that are handed out together. On an H100 a block takes 0.5 s (650M) to 2 s (3B): long beside what handing
one out costs, and short beside a run, so that shards and workers end within a block of each other."""


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, `number` from 1: every count-th block of packs, beginning with the number-th."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ArgumentError(f"shard {self.number}/{self.count}: shards are numbered from 1/{self.count} on")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From ``3/16``; ArgumentError for what is not of that form."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise ArgumentError(f"{text!r}: a shard is written 3/16, the third of sixteen")
        return cls(int(found[1]), int(found[2]))

    def has(self, block: int) -> bool:
        """Whether a block, counted from 0, is in this shard."""
        return block % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which sequences a part has."""
        return {"shard": str(self), "packs_in_block": PACKS_IN_BLOCK}


@dataclass(frozen=True)
class Numbered:
    """A pack, the block that it is in, and its place in the input."""

    pack: Pack
    block: int
    place: Place


def numbered(packs: Iterable[Pack]) -> Iterator[Numbered]:
    """All packs of an input."""
    digest = InputDigest()
    for number, each in enumerate(packs):
        begins = digest.sequences
        yield Numbered(each, number // PACKS_IN_BLOCK, Place(begins, str(digest.add(each))))


class ShardOfPacks:
    """The packs of a shard that an earlier run did not embed, each with its place in the input.

    All of the input is read: what the packs are and the digest depend on it. Iterate once. Raises
    InputChangedError where the shard does not begin with what was embedded. Afterwards `attributes` tells what
    this is a part of, and `blocks` of each of its blocks how many sequences of the input come before it, and how
    many are in it.
    """

    def __init__(self, packs: Iterable[Pack], shard: Shard, before: Committed):
        self._packs, self.shard, self._before = packs, shard, before
        self.blocks: list[tuple[int, int]] = []
        self._sequences, self._digest = 0, ""

    def __iter__(self) -> Iterator[tuple[Pack, Place]]:
        own, block = 0, -1
        for each in numbered(self._packs):
            self._sequences += len(each.pack)
            self._digest = each.place.digest
            if not self.shard.has(each.block):
                continue
            if each.block != block:
                block = each.block
                self.blocks.append((each.place.begins, 0))
            self.blocks[-1] = (self.blocks[-1][0], self.blocks[-1][1] + len(each.pack))
            begins, own = own, own + len(each.pack)
            if begins >= self._before.taken:
                yield each.pack, each.place
            elif own > self._before.taken or (
                own == self._before.taken and each.place.digest != self._before.digest
            ):
                raise changed(self._before)
        if own < self._before.taken:
            raise changed(self._before)

    @property
    def attributes(self) -> dict[str, Any]:
        """What `virnucpro merge` checks."""
        return {"input_sequences": self._sequences, "input_digest": self._digest}


def begin_shard(
    output: Path,
    settings: Mapping[str, Any],
    packs: Iterable[Pack],
    row_size: int,
    dtype: str,
    resume: bool,
    shard: Shard,
    stop: Callable[[], bool],
) -> tuple[Work, ShardOfPacks]:
    """As `resuming.begin`, for a part; a complete one must be of this input, and cannot grow."""
    begun = compared(settings)
    if not resume or begun_settings(output) is not None or not output.exists():
        partial = Partial(output, begun, row_size, dtype, resume)
        part = ShardOfPacks(packs, shard, partial.committed)
        return Work(partial.committed, iter(part), partial), part
    with Complete(output) as complete:
        check_complete(output, complete.settings, begun)
        before = complete.committed
        about = complete.settings
    part = ShardOfPacks(until(stop, packs), shard, Committed())
    for _ in part:
        pass
    sequences = sum(count for _, count in part.blocks)
    if sequences != before.taken or any(about[name] != now for name, now in part.attributes.items()):
        raise changed(before)
    remove(folder_of(output))  # what a run that was killed while it tidied up left
    return Work(before, iter(()), None), part
