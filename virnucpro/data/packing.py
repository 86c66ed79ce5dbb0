"""Packs: proteins one after the other in one row of tokens, without padding, up to a budget of tokens."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from virnucpro.data.tokens import ALPHABET, encode

MOST_IN_NAMES = 2**24
"""Characters of the names in a pack: without a limit, names of a megabyte would fill the memory."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value
class Pack:
    """N proteins of T tokens in all.

    `sequence_ids`: N names. `input_ids`: int64 ``[T]``, BOS, residues and EOS of each. `cu_seqlens`: int32
    ``[N + 1]``, 0 and where each protein ends. `max_seqlen`: tokens of the longest. `weights`: float32 ``[T]``, by
    which each token's embedding is multiplied before the mean over residues; None for 1. Tensors are on the CPU.
    """

    sequence_ids: list[str]
    input_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sequence_ids)

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Tokens of each protein."""
        return self.cu_seqlens.diff().tolist()

    def split(self) -> tuple["Pack", "Pack"]:
        """Two packs of half the proteins each; ValueError for fewer than two proteins."""
        if len(self) < 2:
            raise ValueError(f"a pack of {len(self)} proteins cannot be split")
        middle = len(self) // 2
        at = int(self.cu_seqlens[middle])
        weights = (None, None) if self.weights is None else (self.weights[:at], self.weights[at:])
        parts = (
            (self.sequence_ids[:middle], self.input_ids[:at], self.cu_seqlens[: middle + 1]),
            (self.sequence_ids[middle:], self.input_ids[at:], self.cu_seqlens[middle:] - at),
        )
        first, second = (
            Pack(*part, int(part[2].diff().max()), weight) for part, weight in zip(parts, weights, strict=True)
        )
        return first, second


def pack(entries: Iterable[tuple[str, str]], token_budget: int, max_proteins: int | None = None) -> Iterator[Pack]:
    """Pack proteins in the order given, as they come; one pack at a time is held.

    `entries`: ``(name, protein)``. A pack has at most `token_budget` tokens (residues, and BOS and EOS of each
    protein), unless a protein alone has more: it gets a pack of its own. `max_proteins` limits its proteins
    too, and `MOST_IN_NAMES` its names. Raises ValueError for a budget below 1, and, naming the sequence, for what
    `tokens.encode` refuses.
    """
    if token_budget < 1:
        raise ValueError(f"a token budget of {token_budget} holds no protein; use at least 1")
    names: list[str] = []
    rows: list[np.ndarray] = []
    used = in_names = 0
    for name, protein in entries:
        row = encode(name, protein)
        full = used + len(row) > token_budget or in_names + len(name) > MOST_IN_NAMES
        if rows and (full or len(rows) == max_proteins):
            yield make_pack(names, rows)
            names, rows, used, in_names = [], [], 0, 0
        names.append(name)
        rows.append(row)
        used += len(row)
        in_names += len(name)
    if rows:
        yield make_pack(names, rows)


def make_pack(names: Sequence[str], rows: Sequence[np.ndarray], weights: Tensor | None = None) -> Pack:
    """The pack of these proteins' tokens; `weights` as of `Pack`."""
    lengths = [len(row) for row in rows]
    ends = np.cumsum([0, *lengths], dtype=np.int32)
    input_ids = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    longest = max(lengths, default=0)
    return Pack(list(names), torch.from_numpy(input_ids), torch.from_numpy(ends), longest, weights)


def unpad(sequence_ids: Sequence[str], tokens: Tensor) -> Pack:
    """A pack of a padded batch, int64 ``[B, T]`` as a batch converter makes it: here padding is removed."""
    if tokens.ndim != 2 or len(sequence_ids) != len(tokens):
        raise ValueError(f"{len(sequence_ids)} labels for tokens of shape {tuple(tokens.shape)}; [B, T] is needed")
    return make_pack(sequence_ids, [row[row != ALPHABET.padding_idx] for row in tokens.numpy()])
