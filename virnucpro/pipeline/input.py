"""The packs of an input, numbered, and whether it begins with what was embedded before."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from virnucpro.data.packing import Pack
from virnucpro.errors import FastaError
from virnucpro.pipeline.shards import PACKS_IN_BLOCK, Shard
from virnucpro.store.rows import Counts
from virnucpro.store.run import Run


class InputChangedError(FastaError):
    """The input does not begin with what was embedded."""

    resume_helps = False


@dataclass(frozen=True)
class Numbered:
    """A pack of an input: its `number` from 0 on, how many sequences come before it (`begins`), and a `digest` of
    the input up to its end."""

    pack: Pack
    number: int
    begins: int
    digest: str


class InputDigest:
    """Of the names and tokens of all packs so far, and how many `sequences` those are."""

    def __init__(self) -> None:
        self.sequences = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, pack: Pack, count: int | None = None) -> "InputDigest":
        """Itself, with a pack more, or with its first `count` sequences."""
        count = len(pack) if count is None else count
        tokens = pack.input_ids.numpy()[: int(pack.cu_seqlens[count])]
        self._hash.update("\n".join(pack.sequence_ids[:count]).encode("utf-8", "surrogatepass"))
        self._hash.update(tokens.astype(np.uint8).tobytes())
        self.sequences += count
        return self

    def copy(self) -> "InputDigest":
        """One that goes on by itself."""
        other = InputDigest()
        other.sequences, other._hash = self.sequences, self._hash.copy()
        return other

    def __str__(self) -> str:
        return self._hash.hexdigest() if self.sequences else ""


class NumberedPacks:
    """The packs of an input that are in a shard, or all; iterate once.

    All of the input is read: what the packs are and the digest depend on it. Afterwards `numbers` are those of the
    packs, `sequences` and `digest` of the whole input, and `blocks` tells of each block, of `packs_in_block`, how
    many sequences of the input come before it, and how many it has. `before`: the digest of what comes before the
    newest pack. `is_own`: whether the pack that is being filled, while a protein of it was just taken, is in the
    shard.
    """

    def __init__(self, packs: Iterable[Pack], shard: Shard | None = None, packs_in_block: int = PACKS_IN_BLOCK):
        self._packs, self._shard, self._in_block = packs, shard, packs_in_block
        self.numbers: list[int] = []
        self.blocks: list[tuple[int, int]] = []
        self._digest, self._block, self._filling = InputDigest(), -1, 0
        self.before = InputDigest()

    @property
    def sequences(self) -> int:
        """Of the input, as far as it was read."""
        return self._digest.sequences

    @property
    def digest(self) -> str:
        """Of the input, as far as it was read."""
        return str(self._digest)

    def __iter__(self) -> Iterator[Numbered]:
        for number, pack in enumerate(self._packs):
            self._filling = number + 1
            self.before = self._digest.copy()
            each = Numbered(pack, number, self.sequences, str(self._digest.add(pack)))
            block = number // self._in_block
            if self._shard is not None and not self._shard.has(block):
                continue
            self.numbers.append(number)
            if block != self._block:
                self._block = block
                self.blocks.append((each.begins, 0))
            self.blocks[-1] = (self.blocks[-1][0], self.blocks[-1][1] + len(pack))
            yield each

    def is_own(self) -> bool:
        """See the class."""
        return self._shard is None or self._shard.has(self._filling // self._in_block)

    @property
    def attributes(self) -> dict[str, Any]:
        """What of the input is kept in an output."""
        about: dict[str, Any] = {"input_digest": self.digest}
        return about if self._shard is None else {"input_sequences": self.sequences, **about}


def left(packs: Iterable[Numbered], run: Run) -> Iterator[Numbered]:
    """The packs that are not on disk; those that are count for `run`.

    Raises InputChangedError where the input does not have a pack that was embedded.
    """
    numbers = set(run.stored)
    for each in packs:
        numbers.discard(each.number)
        found = run.stored.get(each.number)
        if found is None:
            yield each
        elif each.digest in found:
            run.add([found[each.digest]])
        else:
            raise changed(stored_counts(run))
    if numbers:
        raise changed(stored_counts(run))


def stored_counts(run: Run) -> Counts:
    """What earlier workers left."""
    return Counts.of([next(iter(found.values())) for found in run.stored.values()])


Stays = list[tuple[int, int, str]]
"""Packs of a complete file: number, sequences of the input before it, digest of the input up to its end."""


def added(
    packs: Iterable[Numbered], source: NumberedPacks, taken: int, digest: str
) -> tuple[Stays, Iterator[Numbered]]:
    """What to do where the input of a complete file, of `taken` sequences with this `digest`, may have grown.

    `packs`: of `source`. Returns those that stay, and those to compute. The last pack of the complete file may
    have ended only because its input did. So it is computed again with what comes after it, if anything does.
    Raises InputChangedError where the input does not begin with that of the complete file.
    """
    packs, stays = iter(packs), Stays()
    for each in packs:
        if each.begins + len(each.pack) > taken:
            if str(source.before.add(each.pack, taken - each.begins)) != digest:
                raise changed(Counts(taken))
            return stays, itertools.chain([each], packs)
        stays.append((each.number, each.begins, each.digest))
    if source.digest != digest:
        raise changed(Counts(taken))
    return stays, iter(())


def changed(before: Counts) -> InputChangedError:
    """What to say where the input is not the one that was begun."""
    return InputChangedError(
        f"the input does not begin with the {before.taken:,} sequences that were embedded: resume with the same "
        "input, or begin anew with --force"
    )
