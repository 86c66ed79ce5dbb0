"""`embed_file`: from FASTA to a file of embeddings."""

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import pack
from virnucpro.data.proteins import ProteinReader, Skipped
from virnucpro.models.esm2 import ESM2
from virnucpro.pipeline.options import Options, runner_for, shape_of_row
from virnucpro.pipeline.prefetch import BackgroundWriter, InterruptiblePacks, ReadAhead
from virnucpro.pipeline.provenance import check_complete, remaining, settings_in, settings_of
from virnucpro.store.hdf5 import write_hdf5
from virnucpro.store.journal import Partial, begun_settings, check_output, folder_of, remove

PACKS_AHEAD = 4  # read, tokenised and packed while the device computes
DEFAULTS = Options()


class Stopped(Exception):
    """The run was asked to stop, and what is computed is on disk."""


@dataclass
class Done:
    """How far a run is. `sequences` and `residues`: in all; `resumed`: of the sequences, by an earlier run."""

    sequences: int = 0
    residues: int = 0
    resumed: int = 0
    tokens: int = 0  # by this run
    fraction: float | None = None  # of the input's bytes that were read
    seconds: float = 0.0  # from the start to the last result
    _started: float = field(default_factory=time.perf_counter)

    def count(self, residues: Sequence[int], fraction: float | None) -> None:
        """A batch more."""
        self.sequences += len(residues)
        self.residues += sum(residues)
        self.tokens += sum(residues) + 2 * len(residues)
        self.fraction, self.seconds = fraction, time.perf_counter() - self._started


def embed_file(
    fasta: Fasta,
    output: str | os.PathLike[str],
    model: ESM2,
    options: Options = DEFAULTS,
    *,
    about: Mapping[str, Any] | None = None,
    command: str = "",
    resume: bool = False,
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Done], None] = lambda done: None,
    on_skip: Callable[[Skipped], None] = lambda skipped: None,
) -> dict[str, Any]:
    """Embed a FASTA file into an HDF5 file (docs/embed.md has its layout); returns a summary, for JSON.

    about: what else decides the results and is kept with them, as the model's name. command: kept too.
    resume: continue an unfinished run of `output` where there is one. force: drop it, and replace `output`.
    stop: asked before each batch and while the file is written; when true, what is computed is put on disk and
        Stopped is raised. progress: called after each batch. on_skip: called for each record that gives no row.

    Whatever is raised, what was computed before is kept for ``resume=True``: StoreError for the output, FastaError
    for the input, and what `AsyncInferenceRunner` raises.
    """
    output = Path(output)
    check_output(output, resume, force)
    begun = begun_settings(output) if resume else None
    complete = resume and begun is None and output.exists()
    settings = {**(about or {}), **settings_of(model, options, settings_in(output) if complete else begun or {})}
    runner, shape = runner_for(model, options), shape_of_row(model, options)
    reader = ProteinReader(fasta, options.max_length, options.chunk, options.strict, on_skip)
    done = Done()
    if complete:
        done.sequences, done.residues = check_complete(output, settings, pack(reader, settings["token_budget"]))
        done.resumed = done.sequences
        remove(folder_of(output))  # what a run that was killed while it tidied up left
        return summary_of(done, settings, reader)
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])  # sums are split among threads, and their rounding follows
    with Partial(output, settings, math.prod(shape), options.dtype, resume) as partial:
        done.sequences, done.residues = partial.committed.sequences, partial.committed.residues
        done.resumed = done.sequences
        todo = remaining(pack(reader, settings["token_budget"]), partial.committed)
        with ReadAhead(todo, PACKS_AHEAD, stop) as packs, BackgroundWriter(partial) as write:
            source = InterruptiblePacks(packs, stop)
            for result in runner.run(source):
                write(result, source.digests.popleft())
                done.count(result.residues, fasta.fraction())
                progress(done)
        if source.error:
            raise source.error
        attributes = {**settings, "command": command, "input_digest": partial.committed.digest}
        ragged = options.pool == "residue"
        if stop() or not partial.finish(
            lambda path, rows: write_hdf5(path, rows, attributes, shape, ragged, stop)
        ):
            raise Stopped
    return summary_of(done, settings, reader)


def summary_of(done: Done, settings: Mapping[str, Any], reader: ProteinReader) -> dict[str, Any]:
    """What a run did, for JSON."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "sequences": done.sequences,
        "residues": done.residues,
        "resumed_sequences": done.resumed,
        "tokens_per_second": round(done.tokens / done.seconds, 1) if done.tokens else None,
        "embedding_seconds": round(done.seconds, 3),
        "peak_resident_bytes": memory,
        "peak_gpu_bytes": gpu,
        **reader.summary(),
        "settings": dict(settings),
    }
