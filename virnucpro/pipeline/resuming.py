"""Where a run begins: anew, after what an unfinished one committed, or at the end of a complete file."""

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from virnucpro.models.apart import Channels
from virnucpro.models.esm2_flash import check_channels
from virnucpro.pipeline.input import InputChangedError, Numbered, NumberedPacks, Stays, added, left, stored_counts
from virnucpro.pipeline.provenance import CHANNELS_APART, check_complete
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError, reading
from virnucpro.store.formats import TABLE, Format, open_reader, open_table
from virnucpro.store.hdf5 import Table
from virnucpro.store.rows import Counts
from virnucpro.store.run import Run, begun_settings
from virnucpro.store.settings import differences

Item = TypeVar("Item")


class Stopped(Exception):
    """The run was asked to stop, and what is computed is on disk."""


def earlier_settings(output: Path) -> Mapping[str, Any]:
    """The settings of the run that ``--resume`` continues; empty where there is none."""
    if (begun := begun_settings(output)) is not None:
        return begun
    if not output.exists():
        return {}
    with Embeddings(output) as complete:
        return complete.settings


def recorded_channels(begun: Mapping[str, Any], output: Path, model: str, precision: str) -> Channels | None:
    """The channels apart of a run of `output`, whose settings are `begun`, for ``load_esm2_model``.

    None where it has none to tell, or is of another model or precision, which is refused later. Raises StoreError
    for what are no channels of the model.
    """
    then = str(begun.get("model")), str(begun.get("precision"))
    if then != (model, precision) or precision != "int8" or CHANNELS_APART not in begun:
        return None
    try:
        channels: Channels = json.loads(begun[CHANNELS_APART])
        check_channels(channels, model)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"{output} has no {CHANNELS_APART} to go on with ({error}): begin anew with --force"
        ) from error
    return channels


def begin(
    run: Run,
    settings: Mapping[str, Any],
    source: NumberedPacks,
    format: Format,
    resume: bool,
    stop: Callable[[], bool],
) -> tuple[Counts, Iterator[Numbered] | None]:
    """What an earlier run did, and the packs that are left to embed; None where a complete output has all.

    With `resume` a complete output, too, is continued where its input has grown: its rows are put back into the
    run, and it stays as it is until the new one is complete. Of the formats only a table that is no part can:
    StoreError for another one whose input has grown.
    Raises InputChangedError for another input, StoreError, and Stopped when `stop` says so.
    """
    if not resume or run.begun is not None or not run.output.exists():
        run.begin(settings)
        before = stored_counts(run)
        return before, left(source, run)
    with reading(run.output), contextlib.closing(open_reader(run.output)) as complete:
        about, lengths = complete.settings, complete.lengths
        if about["format"] not in format.contents:
            raise StoreError(
                f"{run.output} is complete, and not in the format {format.name}: give another name, or --force"
            )
        check_complete(run.output, about, settings)
        skipped = complete.skipped if isinstance(complete, Table) else json.loads(about.get("skipped", "[]"))
        before, digest = Counts(len(lengths), int(lengths.sum()), skipped=len(skipped)), str(about["input_digest"])
    packs = until(stop, source)
    if "shard" in about:
        for _ in packs:
            pass
        own = sum(count for _, count in source.blocks)
        if own != before.taken or differences({**about, **source.attributes}, about):
            raise InputChangedError(
                f"{run.output} is complete, and the input is not the one that it is a share of, or has grown: "
                "embed all shards of the new one, with --force"
            )
        return before, None
    stays, new = added(packs, source, before.taken, digest)
    first = next(new, None)
    if first is None:
        return before, None
    if format is not TABLE:
        raise StoreError(
            f"the input of {run.output} has grown, and only tables (.h5) can be continued: give another name, or "
            "--force"
        )
    run.begin(settings)
    put_back(run, stays, first.begins)
    return Counts.of(list(run.done.values())), itertools.chain([first], new)


def put_back(run: Run, stays: Stays, end: int) -> None:
    """Take the packs that stay of a complete table as packs of a run. `end`: sequences of the input in them."""
    with contextlib.closing(open_table(run.output)) as table, reading(run.output):
        table.prove_names()
        writer = run.writer(table.dtype.name)
        size, start, first = math.prod(table.shape), 0, 0
        for (number, begins, digest), (_, ends, _) in itertools.pairwise([*stays, (0, end, "")]):
            skipped = table.skipped[slice(*np.searchsorted(table.skipped, [begins, ends]))].tolist()
            count = ends - begins - len(skipped)
            names = [name for some in table.names_between(start, start + count) for name in some]
            last = table.rows_before(start + count)
            rows = [values for values, _ in table.rows_between(first, last)]
            values = np.concatenate([np.empty((0, size), table.dtype), *rows])
            writer.append(number, names, table.lengths[start : start + count].tolist(), values, digest, skipped)
            start, first = start + count, last
        run.add(writer.commit())
        writer.close()


def until(stop: Callable[[], bool], packs: Iterable[Item]) -> Iterator[Item]:
    """The packs; raises Stopped when `stop` says so."""
    for each in packs:
        if stop():
            raise Stopped
        yield each
