"""How much there is to embed, and how long that takes, before it is begun; nothing is written."""

import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import Pack
from virnucpro.errors import ArgumentError
from virnucpro.models.esm2 import ESM2, SHAPES
from virnucpro.models.esm2_flash import find_device
from virnucpro.models.token_budget import DEFAULT_TOKEN_BUDGET
from virnucpro.models.token_budget import token_budget as budget_of
from virnucpro.pipeline.embed import check_format, reader_of
from virnucpro.pipeline.input import NumberedPacks
from virnucpro.pipeline.options import Options, runner_for, shape_of_row
from virnucpro.pipeline.parts import packs_of, parts_of
from virnucpro.pipeline.resuming import Stopped
from virnucpro.pipeline.shards import Shard, packs_in_block
from virnucpro.store.formats import PER_PROTEIN, TENSOR_FILES, Format
from virnucpro.store.run import BYTES_OF_A_NAME

MEASURED_SECONDS = 5.0
PACKS_MEASURED = 16  # at most, drawn from all of the input

BESIDE_ROWS = {"h5": BYTES_OF_A_NAME + 32, PER_PROTEIN.name: 560, "parquet": 40, "npz": 8, TENSOR_FILES.name: 290}
"""Bytes that a sequence takes in a file of each format, about, beside its rows and what `letters_of` counts."""


LEAST_BYTES = 8_192


@dataclasses.dataclass
class Size:
    """Of an input, or of a share of it: `letters` of names, `longest` of them; `sample`: some packs.

    `tokens`: those that are computed, with BOS and EOS, of long proteins in windows, and of equal ones once.
    """

    sequences: int = 0
    residues: int = 0
    tokens: int = 0
    letters: int = 0
    longest: int = 0
    sample: list[Pack] = dataclasses.field(default_factory=list)


def estimate(
    fasta: Fasta,
    model: str | ESM2,
    options: Options,
    format: Format,
    shard: Shard | None = None,
    rate: float | None = None,
    device: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """What embedding an input, or a share of it, takes, for JSON: of time, at `rate` tokens/s, and of the disk.

    model: its name where there is a rate; else the model, whose speed is measured on packs drawn from the input.
    device: what decides how many tokens a pack has, where `model` is a name.
    Raises FastaError and ArgumentError as `embed_file`, and Stopped.
    """
    if isinstance(model, str):
        model = planned(model)
        budget = options.token_budget or DEFAULT_TOKEN_BUDGET[find_device(device).type]
    else:
        budget = options.token_budget or budget_of(model)
    check_format(format, options, fasta)
    runner_for(model, options)  # which refuses layers that there are not
    reader = reader_of(fasta, dataclasses.replace(options, strict=False))
    packed = packs_of(format.named(reader), options, budget, shape_of_row(model, options))
    packs = NumberedPacks(packed, shard, packs_in_block(options.dedupe))
    if shard is not None:
        reader.own = packs.is_own
    size = size_of((each.pack for each in packs), parts_of(options, budget), stop)
    measured = rate is None and bool(size.sample)
    if measured:
        rate = speed_of(model, options, size.sample, stop)
    rows = size.residues if options.pool == "residue" else size.sequences
    values = rows * math.prod(shape_of_row(model, options)) * np.dtype(options.dtype).itemsize
    beside = letters_of(size, format) + BESIDE_ROWS[format.name] * size.sequences + LEAST_BYTES
    return {
        **reader.summary(),
        "sequences": size.sequences,
        "residues": size.residues,
        "tokens": size.tokens,
        "output_bytes": values + beside,
        "tokens_per_second": None if rate is None else round(rate, 1),
        "measured": measured,
        "hours": round(size.tokens / rate / 3600, 6) if rate else 0.0,
    }


def letters_of(size: Size, format: Format) -> int:
    """Bytes of the names, and of the proteins where the format has them, too."""
    if format.name == "npz":
        return 4 * size.longest * size.sequences
    return 2 * size.letters + size.residues if format.with_proteins else size.letters


def planned(name: str) -> ESM2:
    """A model of this shape, without values; ArgumentError where there is none."""
    if name not in SHAPES:
        raise ArgumentError(f"unknown model {name!r}; ESM-2 comes as {', '.join(SHAPES)}")
    with torch.device("meta"):
        return ESM2(SHAPES[name])


def size_of(packs: Iterator[Pack], parts: Callable[[Pack], Iterable[Pack]], stop: Callable[[], bool]) -> Size:
    """How much these packs are; of their `parts`, which are computed, a sample, in which all are as likely."""
    size, drawn = Size(), random.Random("sample")
    numbers = itertools.count()
    for each in packs:
        if stop():
            raise Stopped("stopped, and nothing was written")
        size.sequences += len(each)
        size.residues += len(each.input_ids) - 2 * len(each)
        size.letters += sum(len(name.encode("utf-8", "replace")) for name in each.sequence_ids)
        size.longest = max(size.longest, *map(len, each.sequence_ids))
        for part, number in zip(parts(each), numbers, strict=False):
            size.tokens += len(part.input_ids)
            if number < PACKS_MEASURED:
                size.sample.append(part)
            elif (place := drawn.randrange(number + 1)) < PACKS_MEASURED:
                size.sample[place] = part
    return size


def speed_of(model: ESM2, options: Options, packs: Sequence[Pack], stop: Callable[[], bool]) -> float:
    """Tokens/s of a model on these packs, over and over for `MEASURED_SECONDS`, but for what warms it up."""
    runner = runner_for(model, dataclasses.replace(options, strict=False, on_nan="skip"))
    began = time.perf_counter()
    tokens = sum(len(each.input_ids) for each in packs[:1])
    for _ in runner.run(packs[:1]):
        pass
    first = time.perf_counter() - began
    if first >= MEASURED_SECONDS:
        return tokens / first
    done = [0]

    def until(deadline: float) -> Iterator[Pack]:
        for each in itertools.cycle(packs):
            if stop():
                raise Stopped("stopped, and nothing was written")
            if done[0] and time.perf_counter() >= deadline:
                return
            done[0] += len(each.input_ids)
            yield each

    began = time.perf_counter()
    for _ in runner.run(until(began + MEASURED_SECONDS)):
        pass
    return done[0] / (time.perf_counter() - began)
