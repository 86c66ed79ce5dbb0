"""Where a run begins: anew, after what an unfinished one committed, or at the end of a complete file."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.data.packing import Pack
from virnucpro.models.apart import Channels
from virnucpro.models.esm2_flash import check_channels
from virnucpro.pipeline.provenance import CHANNELS_APART, Place, added, check_complete, compared, remaining
from virnucpro.store.committed import Committed
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.hdf5 import Complete
from virnucpro.store.journal import Partial
from virnucpro.store.place import folder_of
from virnucpro.store.unfinished import begun_settings, remove


class Stopped(Exception):
    """The run was asked to stop, and what is computed is on disk."""


@dataclass(frozen=True)
class Work:
    """What is left to do: `packs`, each with its place in the input, and `partial`, where their rows go.

    `before`: what an earlier run did. Without `partial` it did everything.
    """

    before: Committed
    packs: Iterator[tuple[Pack, Place]]
    partial: Partial | None


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
    output: Path,
    settings: Mapping[str, Any],
    packs: Iterable[Pack],
    row_size: int,
    dtype: str,
    resume: bool,
    stop: Callable[[], bool],
    format: Format = TABLE,
) -> Work:
    """Find out what there is to do; close `Work.partial` after it.

    `packs`: of the whole input. With `resume` a complete file, too, is continued where its input has grown: its
    rows are put back into the folder of a run, and it stays as it is until the new one is complete. Of the
    formats only a table can: StoreError for another one whose input has grown.
    Raises what `Partial` raises, InputChangedError for another input, and Stopped when `stop` says so.
    """
    begun = compared(settings)
    if not resume or begun_settings(output) is not None or not output.exists():
        partial = Partial(output, begun, row_size, dtype, resume, format.is_folder)
        return Work(partial.committed, remaining(packs, partial.committed), partial)
    if format is not TABLE:
        return complete_work(output, begun, until(stop, packs), format)
    with Complete(output) as complete:
        check_complete(output, complete.settings, begun)
        stays, new = added(until(stop, packs), complete.committed)
        first = next(new, None)
        if first is None:
            remove(folder_of(output))  # what a run that was killed while it tidied up left
            return Work(complete.committed, new, None)
        with contextlib.ExitStack() as on_failure:
            partial = on_failure.enter_context(Partial(output, begun, row_size, dtype, resume))
            complete.put_back(partial, stays.begins, stays.digest)
            on_failure.pop_all()
    return Work(partial.committed, itertools.chain([first], new), partial)


def complete_work(output: Path, settings: Mapping[str, Any], packs: Iterable[Pack], format: Format) -> Work:
    """What there is to do where a complete output of any format has all of the input: nothing."""
    with Embeddings(output) as complete:
        if complete.settings["format"] != format.content:
            raise StoreError(
                f"{output} is complete, and not in the format {format.name}: give another name, or --force"
            )
        check_complete(output, complete.settings, settings)
        about, lengths = complete.settings, complete.lengths
    if format is TABLE:
        with Complete(output) as table:
            before = table.committed
    else:
        skipped = len(json.loads(about.get("skipped", "[]")))
        before = Committed(len(lengths), int(lengths.sum()), digest=about["input_digest"], skipped=skipped)
    _, new = added(packs, before)
    if next(new, None) is not None:
        raise StoreError(
            f"the input of {output} has grown, and only tables (.h5) can be continued, and without --ray: give "
            "another name, or --force"
        )
    remove(folder_of(output))  # what a run that was killed while it tidied up left
    return Work(before, new, None)


def until(stop: Callable[[], bool], packs: Iterable[Pack]) -> Iterator[Pack]:
    """The packs; raises Stopped when `stop` says so."""
    for each in packs:
        if stop():
            raise Stopped
        yield each
