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
from virnucpro.data.proteins import Skipped
from virnucpro.pipeline.cluster import connected, resources
from virnucpro.pipeline.embed import Progressed, check_format, inputs_of, reader_of, summary_of, write_output
from virnucpro.pipeline.input import Numbered, NumberedPacks
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.parts import packs_of
from virnucpro.pipeline.pool import ALLOW_MIXED, Pool, Task
from virnucpro.pipeline.prefetch import ReadAhead
from virnucpro.pipeline.provenance import compared
from virnucpro.pipeline.resuming import Stopped, begin, earlier_settings, recorded_channels
from virnucpro.pipeline.shards import PACKS_IN_BLOCK, packs_in_block
from virnucpro.pipeline.worker import Engine, ESM2Engine, Plan, compact
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.run import Run, check_output
from virnucpro.store.settings import check_same

BLOCKS_READ_AHEAD = 4  # beside those that workers have


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
    progress: Callable[[Progressed], None] = lambda done: None,
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
    output = check_output(output, resume, force, inputs_of(fasta), format.holds)
    check_format(format, options, fasta)
    with (
        connected(address, workers) as ray,
        Run(output, resume, format.holds, format.in_place(), force) as run,
    ):
        complete = resume and run.begun is None and output.exists()
        known = earlier_settings(output) if resume else {}
        kind, count = resources(ray, device, 1 if complete else workers)
        apart = recorded_channels(known, output, model, precision)
        plan = Plan(model, weights, precision, kind, options, run.folder, run.segments, run.proof, engine, apart)
        reader = reader_of(fasta, options, on_skip)
        pool = Pool(ray, plan, count, allow_mixed)
        try:
            settings = {
                **{"model": model, "weights": weights},
                **pool.open({"threads": torch.get_num_threads(), **known}, stop),
            }
            packs = packs_of(format.named(reader), options, settings["token_budget"], pool.shape)
            source = NumberedPacks(packs)
            if run.begun is not None:
                settings |= agreed(run.begun, settings, output, allow_mixed)
            before, left = begin(run, compared(settings), source, format, resume, stop)
            if left is not None:
                pool.start(settings, stop)
            ready, done = time.perf_counter(), Progressed.after(before)
            if left is not None:
                if count > 1:  # one worker's rows are in order as they are
                    run.copy_ahead(math.prod(pool.shape) * np.dtype(options.dtype).itemsize)
                blocks = tasks(left, fasta, packs_in_block(options.dedupe))
                with ReadAhead(blocks, BLOCKS_READ_AHEAD, stop) as todo:
                    pool.run(todo, done, stop, progress, on_skip, run.add)
        finally:
            pool.close()
        if left is not None:
            if stop():
                raise Stopped
            write_output(run, source, format, {**settings, "command": command}, pool.shape, options, fasta, stop)
            done.end()
    return {
        **summary_of(done, settings, reader, torch.device("cpu")),
        "startup_seconds": round(ready - began, 3),
        "lost_workers": pool.losses,
        "workers": pool.summary(),
    }


def tasks(packs: Iterable[Numbered], fasta: Fasta, in_block: int = PACKS_IN_BLOCK) -> Iterator[Task]:
    """The blocks of these packs."""
    for _, group in itertools.groupby(packs, lambda each: each.number // in_block):
        yield Task([compact(each) for each in group], fasta.fraction())


def agreed(
    begun: Mapping[str, Any], settings: Mapping[str, Any], output: Path, allow_mixed: bool
) -> dict[str, Any]:
    """What of the settings that a run was begun with is kept; StoreError unless they are these."""
    then, now, kept = dict(begun), compared(settings), dict[str, Any]()
    if allow_mixed:
        devices = {device for each in (then, now) for device in str(each["device"]).split(" | ")}
        kept = {"device": " | ".join(sorted(devices)), "threads": then["threads"], ALLOW_MIXED: True}
    check_same({**then, **kept}, {**now, **kept}, f"{output} was begun")
    return kept
