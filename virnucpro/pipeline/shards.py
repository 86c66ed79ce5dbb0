"""A share of the packs of an input: what one job of many embeds."""

import re
from dataclasses import dataclass
from typing import Any

from virnucpro.errors import ArgumentError

PACKS_IN_BLOCK = 4
"""Packs that are handed out together. On an H100 a block takes 0.5 s (650M) to 2 s (3B): long beside what handing
one out costs, and short beside a run, so that shards and workers end within a block of each other. Packs among
whose proteins equal ones are computed once are as large as a block by themselves."""


@dataclass(frozen=True)
class Shard:
    """One of `count` shards, `number` from 1: every count-th block of packs, beginning with the number-th."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ArgumentError(f"shard {self}: there is at least one shard; the third of sixteen is 3/16")
        if not 1 <= self.number <= self.count:
            raise ArgumentError(
                f"shard {self}: shards are numbered from 1/{self.count} on, to {self.count}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From ``3/16``; ArgumentError for what is not of that form."""
        found = re.fullmatch(r"([0-9]{1,18})/([0-9]{1,18})", text)
        if not found:
            raise ArgumentError(f"{text!r}: a shard is written 3/16, the third of sixteen")
        return cls(int(found[1]), int(found[2]))

    def has(self, block: int) -> bool:
        """Whether a block, counted from 0, is in this shard."""
        return block % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def settings(self, packs_in_block: int) -> dict[str, Any]:
        """What decides which sequences a part has."""
        return {"shard": str(self), "packs_in_block": packs_in_block}


def packs_in_block(dedupe: bool) -> int:
    """See `PACKS_IN_BLOCK`."""
    return 1 if dedupe else PACKS_IN_BLOCK
