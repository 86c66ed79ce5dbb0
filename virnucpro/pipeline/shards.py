"""A share of the packs of an input: what one job of many embeds."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.data.packing import Pack
from virnucpro.pipeline.provenance import changed, check_made_with
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.formats import TABLE
from virnucpro.store.journal import Committed

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
            raise ValueError(f"shard {self.number}/{self.count}: shards are numbered from 1/{self.count} on")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From ``3/16``; ValueError for what is not of that form."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise ValueError(f"{text!r}: a shard is written 3/16, the third of sixteen")
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
    """A pack, the block that it is in, and a digest of all the input up to the pack's end."""

    pack: Pack
    block: int
    digest: str


def numbered(packs: Iterable[Pack]) -> Iterator[Numbered]:
    """All packs of an input."""
    digest = hashlib.blake2b(digest_size=16)
    for number, each in enumerate(packs):
        digest.update("\n".join(each.sequence_ids).encode("utf-8", "surrogatepass"))
        digest.update(each.input_ids.numpy().astype(np.uint8).tobytes())
        yield Numbered(each, number // PACKS_IN_BLOCK, digest.hexdigest())


class ShardOfPacks:
    """The packs of a shard that an earlier run did not embed, each with a digest of all the input up to its end.

    All of the input is read: what the packs are and the digest depend on it. Iterate once. Raises FastaError where
    the shard does not begin with what was embedded. Afterwards `attributes` tells what this is a part of, and
    `block_sizes` how many sequences each of its blocks has.
    """

    def __init__(self, packs: Iterable[Pack], shard: Shard, before: Committed):
        self._packs, self.shard, self._before = packs, shard, before
        self.block_sizes: list[int] = []
        self._sequences, self._digest = 0, ""

    def __iter__(self) -> Iterator[tuple[Pack, str]]:
        own, block = 0, -1
        for each in numbered(self._packs):
            self._sequences += len(each.pack)
            self._digest = each.digest
            if not self.shard.has(each.block):
                continue
            if each.block != block:
                block = each.block
                self.block_sizes.append(0)
            self.block_sizes[-1] += len(each.pack)
            begins, own = own, own + len(each.pack)
            if begins >= self._before.sequences:
                yield each.pack, each.digest
            elif own > self._before.sequences or (
                own == self._before.sequences and each.digest != self._before.digest
            ):
                raise changed(self._before)
        if own < self._before.sequences:
            raise changed(self._before)

    @property
    def attributes(self) -> dict[str, Any]:
        """What `virnucpro merge` checks."""
        return {"input_sequences": self._sequences, "input_digest": self._digest}


def check_complete_shard(
    output: Path, settings: Mapping[str, Any], packs: Iterable[Pack], shard: Shard
) -> tuple[int, int]:
    """As `provenance.check_complete`, of a part."""
    with Embeddings(output) as file:
        check_made_with(file, output, settings, TABLE)
        before = Committed(len(file), int(file.lengths.sum()))
        about = file.settings
    part = ShardOfPacks(packs, shard, Committed())
    for _ in part:
        pass
    if sum(part.block_sizes) != before.sequences or any(
        about[name] != now for name, now in part.attributes.items()
    ):
        raise changed(before)
    return before.sequences, before.residues
