"""One run on many GPUs: a Ray actor for each, which the driver hands blocks of packs.

The driver reads the input and packs it, at tens of millions of tokens a second, and sends a block to whichever
worker has room. Workers write what they embed to the run's folder themselves (see ``store/segments.py``), so
embeddings never pass through Ray; the driver holds the blocks in flight. When a worker dies, the blocks that it
had are handed out again. At the end the rows are put together in the order of the input.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import pack
from virnucpro.data.proteins import ProteinReader, Skipped
from virnucpro.pipeline.cluster import connected, resources
from virnucpro.pipeline.embed import Done, inputs_of, summary_of
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.pool import ALLOW_MIXED, DoneByWorkers, Pool, Task
from virnucpro.pipeline.prefetch import ReadAhead
from virnucpro.pipeline.provenance import Place, changed, compared
from virnucpro.pipeline.resuming import Stopped, complete_work, earlier_settings, recorded_channels, until
from virnucpro.pipeline.shards import Numbered, numbered
from virnucpro.pipeline.worker import Engine, ESM2Engine, Plan, compact
from virnucpro.store.committed import Committed
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.per_protein import checked
from virnucpro.store.segmented_run import RUN, SegmentedRun
from virnucpro.store.segments import Block, SegmentRows, missing_blocks
from virnucpro.store.unfinished import check_output, check_same

BLOCKS_READ_AHEAD = 4  # beside those that workers have
RAY = "ray"  # a setting


def embed_with_ray(
    fasta: Fasta,
    output: str | os.PathLike[str],
    model: str,
    options: Options,
    *,
    weights: str = "pretrained",
    precision: str = "auto",
    device: str = "auto",
    address: str = "local",
    workers: int | None = None,
    allow_mixed: bool = False,
    format: Format = TABLE,
    command: str = "",
    resume: bool = False,
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Done], None] = lambda done: None,
    on_skip: Callable[[Skipped], None] = lambda skipped: None,
    engine: Callable[[Plan], Engine] = ESM2Engine,
) -> dict[str, Any]:
    """As `embed_file`, on `workers` GPUs, a worker each: by default on all, or without GPUs one worker.

    device: ``auto`` (the GPUs, where there are any), ``cuda`` or ``cpu``. address: of a Ray cluster, ``auto`` for
    the one on this machine, or ``local`` to start one for this run. `output` must be on storage that all nodes
    share. allow_mixed: workers may have different hardware, whose rounding differs; it is recorded in ``device``.
    engine: what embeds, another one in tests.

    The datasets have the same bytes as those of `embed_file` on the same kind of hardware. Raises RayError, too.
    """
    began = time.perf_counter()
    output = check_output(output, resume, force, inputs_of(fasta), format.is_folder)
    with connected(address, workers) as ray, SegmentedRun(output, resume, format.is_folder) as run:
        complete = resume and run.begun is None and output.exists()
        known = earlier_settings(output) if resume else {}
        kind, count = resources(ray, device, 1 if complete else workers)
        apart = recorded_channels(known, output, model, precision)
        plan = Plan(model, weights, precision, kind, options, run.folder, run.segments, run.proof, engine, apart)
        reader = ProteinReader(fasta, options.max_length, options.chunk, options.strict, on_skip)
        pool = Pool(ray, plan, count, allow_mixed)
        try:
            settings = {
                **{"model": model, "weights": weights},
                **pool.open({"threads": torch.get_num_threads(), **known}, stop),
            }
            packs = pack(checked(reader) if format.named else reader, settings["token_budget"])
            if complete:
                work = complete_work(output, compared(settings), until(stop, packs), format)
                return summary_of(Done.after(work.before), settings, reader, torch.device("cpu"))
            if run.begun is not None:
                settings |= agreed(run.begun, settings, output, allow_mixed)
            before = run.begin({**compared(settings), RAY: True})
            pool.start(settings, stop)
            ready = time.perf_counter()
            done = DoneByWorkers()
            if format is TABLE:
                run.copy_ahead(math.prod(pool.shape) * np.dtype(options.dtype).itemsize)
            with ReadAhead(tasks(numbered(packs), before, fasta), BLOCKS_READ_AHEAD, stop) as todo:
                blocks = pool.run(todo, done, stop, progress, on_skip, run.add)
        finally:
            pool.close()
        if stop():
            raise Stopped
        rows = rows_of(run, blocks, pool.shape, options)
        attributes = {**settings, "command": command, "input_digest": rows.committed.digest}
        ragged = options.pool == "residue"

        def write(path: Path, copied: bool) -> bool:
            more = {"copied": True} if copied else {}
            return format.write(path, rows, attributes, pool.shape, ragged, stop, **more)

        if not run.finish(rows, write, stop):
            raise Stopped
        done.end()
    return {
        **summary_of(done, settings, reader, torch.device("cpu")),
        "startup_seconds": round(ready - began, 3),
        "lost_workers": pool.losses,
        "workers": pool.summary(),
    }


def rows_of(run: SegmentedRun, blocks: int, shape: tuple[int, ...], options: Options) -> SegmentRows:
    """All rows, in order; StoreError where some are missing on disk."""
    missing = missing_blocks(run.blocks, blocks)
    if missing:
        raise StoreError(
            f"{len(missing)} of {blocks} blocks are not on disk, the first is {missing[0]}: run again "
            "with --resume"
        )
    wanted = {number: run.blocks[number] for number in range(blocks)}
    return SegmentRows(wanted, math.prod(shape), np.dtype(options.dtype))


def tasks(packs: Iterable[Numbered], before: Mapping[int, Block], fasta: Fasta) -> Iterator[Task | Block | int]:
    """The blocks of an input in order: a `Block` where it is in `before`, or a `Task`; then how many there are.

    Raises FastaError where what is in `before` is not of this input.
    """
    count = 0
    for number, group in itertools.groupby(packs, lambda each: each.block):
        block, count = list(group), number + 1
        place = Place(block[0].place.begins, block[-1].place.digest)
        found = before.get(number)
        if found is None:
            yield Task(number, place, [compact(each.pack) for each in block], fasta.fraction())
        elif found.digest == place.digest:
            yield found
        else:
            break
    else:
        if all(number < count for number in before):
            yield count
            return
    sequences = sum(counts.sequences for block in before.values() for counts in block.packs)
    raise changed(Committed(sequences, skipped=sum(len(block.skipped) for block in before.values())))


def agreed(
    begun: Mapping[str, Any], settings: Mapping[str, Any], output: Path, allow_mixed: bool
) -> dict[str, Any]:
    """What of the settings that a run was begun with is kept; StoreError unless they are these."""
    then = {name: value for name, value in begun.items() if name not in (RUN, RAY)}
    if RAY not in begun:
        raise StoreError(f"{output} was begun without --ray: resume it without, or begin anew with --force")
    now, kept = compared(settings), dict[str, Any]()
    if allow_mixed:
        devices = {device for each in (then, now) for device in str(each["device"]).split(" | ")}
        kept = {"device": " | ".join(sorted(devices)), "threads": then["threads"], ALLOW_MIXED: True}
    check_same({**then, **kept}, {**now, **kept}, f"{output} was begun")
    return kept
