"""Packs that the model computes in parts: long proteins in windows, and equal proteins once.

What is numbered, handed to workers and stored is a pack of whole proteins, as without. So both work with whatever
is done with packs, and a pack's rows depend on nothing outside it.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from virnucpro.data.packing import Pack, make_pack, pack
from virnucpro.pipeline.async_inference import InferenceResult, check_fits, residues_of
from virnucpro.pipeline.options import DEDUPE_TOKENS, Options

DEDUPE_BYTES = 2**28
"""Of float32 rows in a pack among whose proteins equal ones are looked for, at most."""


class Runner(Protocol):
    """What embeds packs."""

    def run(self, batches: Iterable[Pack]) -> Iterator[InferenceResult]:
        """As `AsyncInferenceRunner.run`."""


@dataclass(frozen=True)
class Piece:
    """A protein, by its place in the pack, or a window of it that begins at `start`; `weights` as of `Window`."""

    protein: int
    start: int
    residues: int
    weights: np.ndarray | None


class Whole:
    """A pack, the parts that are computed of it, and the result that is made of theirs."""

    def __init__(self, pack: Pack, options: Options, token_budget: int):
        self._pack, self._budget, self._pool = pack, token_budget, options.pool
        self._window, self._dtype = options.long, np.dtype(options.dtype)
        self._residues = residues_of(pack)
        self._first = first_equal(pack) if options.dedupe else np.arange(len(pack))
        sizes = self._residues if self._pool == "residue" else [1] * len(pack)
        self._rows = np.cumsum([0, *sizes])  # where each protein's begin
        self._computed = np.flatnonzero(self._first == np.arange(len(pack))).tolist()
        self._handed_out: deque[Piece] = deque()
        self._missing = sum(self._window.count(self._residues[at]) if self._window else 1 for at in self._computed)
        self._embeddings: np.ndarray | None = None
        self._not_finite: set[int] = set()

    def parts(self) -> Iterator[Pack]:
        """The packs to compute, of at most the token budget each, unless a piece alone has more."""
        pieces: list[Piece] = []
        rows: list[np.ndarray] = []
        used = 0
        for piece, tokens in self._pieces():
            if rows and used + len(tokens) > self._budget:
                yield self._part(pieces, rows)
                pieces, rows, used = [], [], 0
            pieces.append(piece)
            rows.append(tokens)
            used += len(tokens)
        if rows:
            yield self._part(pieces, rows)

    def _pieces(self) -> Iterator[tuple[Piece, np.ndarray]]:
        """What is computed, with its tokens."""
        input_ids, ends = self._pack.input_ids.numpy(), self._pack.cu_seqlens.tolist()
        for at in self._computed:
            tokens, residues = input_ids[ends[at] : ends[at + 1]], self._residues[at]
            if self._window is None or residues <= self._window.size:
                yield Piece(at, 0, residues, None), tokens
                continue
            size = self._window.size
            for start, weights in self._window.of(residues):
                ids = np.concatenate((tokens[:1], tokens[1 + start : 1 + start + size], tokens[-1:]))
                yield Piece(at, start, size, weights), ids

    def _part(self, pieces: Sequence[Piece], rows: Sequence[np.ndarray]) -> Pack:
        self._handed_out += pieces
        names = [self._pack.sequence_ids[piece.protein] for piece in pieces]
        if self._pool != "mean" or all(piece.weights is None for piece in pieces):
            return make_pack(names, rows)
        weights = np.ones(sum(map(len, rows)), dtype=np.float32)
        end = 0
        for piece, ids in zip(pieces, rows, strict=True):
            if piece.weights is not None:
                weights[end + 1 : end + 1 + piece.residues] = piece.weights
            end += len(ids)
        return make_pack(names, rows, torch.from_numpy(weights))

    def take(self, result: InferenceResult) -> bool:
        """Take the result of the next part; whether it was the last one."""
        values = result.embeddings.numpy()
        if self._embeddings is None:
            self._embeddings = np.zeros((self._rows[-1], values.shape[1]), values.dtype)
        count = len(result.sequence_ids) + len(result.skipped)
        row = 0
        for place in range(count):
            piece = self._handed_out.popleft()
            if place in result.skipped:
                self._not_finite.add(piece.protein)
                continue
            row = self._add(piece, values, row)
        self._missing -= count
        return not self._missing

    def _add(self, piece: Piece, values: np.ndarray, row: int) -> int:
        """Add a piece's rows, which begin at `row`, to its protein's; where they end."""
        assert self._embeddings is not None
        at = self._rows[piece.protein]
        if self._pool != "residue":
            if piece.weights is None:
                self._embeddings[at] = values[row]
            else:
                self._embeddings[at] += values[row] * np.float32(piece.residues / self._residues[piece.protein])
            return row + 1
        at, end = at + piece.start, row + piece.residues
        if piece.weights is None:
            self._embeddings[at : at + piece.residues] = values[row:end]
        else:
            self._embeddings[at : at + piece.residues] += values[row:end] * piece.weights[:, None]
        return end

    def result(self) -> InferenceResult:
        """The pack's own, when all parts were taken."""
        assert self._embeddings is not None and not self._missing
        embeddings, rows = self._embeddings, self._rows
        for at in np.flatnonzero(self._first != np.arange(len(self._pack))).tolist():
            first = self._first[at]
            embeddings[rows[at] : rows[at + 1]] = embeddings[rows[first] : rows[first + 1]]
        names, residues = self._pack.sequence_ids, self._residues
        left_out = np.isin(self._first, list(self._not_finite))
        if not left_out.any():
            return InferenceResult(names, self._rounded(embeddings, names, np.diff(rows)), residues)
        kept = np.flatnonzero(~left_out).tolist()
        of_kept = [names[at] for at in kept]
        values = embeddings[np.repeat(~left_out, np.diff(rows))]
        return InferenceResult(
            of_kept,
            self._rounded(values, of_kept, np.diff(rows)[kept]),
            [residues[at] for at in kept],
            {at: names[at] for at in np.flatnonzero(left_out).tolist()},
        )

    def _rounded(self, embeddings: np.ndarray, names: Sequence[str], sizes: np.ndarray) -> torch.Tensor:
        """Sums of windows in the type asked for; the runner has rounded all else. `sizes`: rows of each name."""
        if embeddings.dtype != self._dtype:
            check_fits(names, sizes.tolist(), np.abs(embeddings).max(axis=-1, initial=0), self._dtype)
            embeddings = embeddings.astype(self._dtype)
        return torch.from_numpy(embeddings)


class InParts:
    """Runs packs of whole proteins on a runner that gets their parts."""

    def __init__(self, runner: Runner, options: Options, token_budget: int):
        self._runner, self._options, self._budget = runner, options, token_budget

    def run(self, packs: Iterable[Pack]) -> Iterator[InferenceResult]:
        """One result a pack, in order, as `AsyncInferenceRunner.run`."""
        begun: deque[Whole] = deque()

        def parts() -> Iterator[Pack]:
            for each in packs:
                begun.append(Whole(each, self._options, self._budget))
                yield from begun[-1].parts()

        for result in self._runner.run(parts()):
            if begun[0].take(result):
                yield begun.popleft().result()


def in_parts(runner: Runner, options: Options, token_budget: int) -> Runner:
    """A runner of packs of whole proteins; the same one where nothing is computed in parts."""
    return InParts(runner, options, token_budget) if options.long or options.dedupe else runner


def parts_of(options: Options, token_budget: int) -> Callable[[Pack], Iterable[Pack]]:
    """The packs that are computed of one of whole proteins."""
    if options.long or options.dedupe:
        return lambda each: Whole(each, options, token_budget).parts()
    return lambda each: [each]


def packs_of(
    entries: Iterable[tuple[str, str]], options: Options, token_budget: int, shape: tuple[int, ...]
) -> Iterator[Pack]:
    """The packs of an input, `pack`ed. `shape`: of a row.

    Where equal proteins are computed once, a pack has at most `DEDUPE_TOKENS`, and rows of at most `DEDUPE_BYTES`,
    or the token budget if that is more.
    """
    if not options.dedupe:
        return pack(entries, token_budget)
    most_rows = max(1, DEDUPE_BYTES // (4 * math.prod(shape)))
    if options.pool == "residue":
        return pack(entries, max(token_budget, min(DEDUPE_TOKENS, most_rows)))
    return pack(entries, max(token_budget, DEDUPE_TOKENS), most_rows)


def first_equal(pack: Pack) -> np.ndarray:
    """For each protein of a pack the place of the first one that is equal: int64 ``[N]``."""
    tokens, ends = pack.input_ids.numpy().astype(np.uint8).tobytes(), pack.cu_seqlens.tolist()
    places: dict[bytes, int] = {}
    return np.array(
        [places.setdefault(tokens[ends[at] : ends[at + 1]], at) for at in range(len(pack))], dtype=np.int64
    )
