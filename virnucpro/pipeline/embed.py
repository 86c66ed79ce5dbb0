"""From FASTA to embeddings: `embed_file` writes an HDF5 file, `embed` returns an array."""

import functools
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import pack
from virnucpro.data.proteins import ProteinReader
from virnucpro.models.esm2 import ESM2
from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
from virnucpro.models.token_budget import token_budget
from virnucpro.pipeline.options import Options, runner_for, shape_of_row
from virnucpro.pipeline.prefetch import BackgroundWriter, InterruptiblePacks, ReadAhead
from virnucpro.pipeline.provenance import check_complete, remaining, settings_in, settings_of
from virnucpro.pipeline.shards import Shard, ShardOfPacks, check_complete_shard
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.journal import Partial, begun_settings, check_output, folder_of, remove
from virnucpro.store.merge import write_part
from virnucpro.store.per_protein import checked

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


def embed(
    sequences: str | os.PathLike[str] | Mapping[str, str] | Iterable[tuple[str, str]],
    model: str = "esm2_t33_650M_UR50D",
    *,
    precision: str = "auto",
    weights: str | os.PathLike[str] = "pretrained",
    device: str | torch.device | None = None,
    pool: str = "mean",
    layers: int | Sequence[int] = -1,
    max_length: int | None = 1022,
    chunk: int | None = None,
    token_budget: int | None = None,
) -> tuple[list[str], Any]:
    """Embed proteins; returns their names and embeddings, in the order given.

    sequences: ``{name: protein}``, pairs ``(name, protein)``, or the path of a FASTA file (``-``: standard input).
    model, precision, weights, device: as for `load_esm2_model`; ``auto`` is FP16 on a GPU, FP32 on the CPU.
    pool, layers, max_length, chunk, token_budget: see `Options`; with `chunk` the sequences are DNA, and the names
        are those of the fragments' frames.

    The embeddings are a float32 array ``[N, D]``, or with several layers ``[N, layers, D]``; with
    ``pool="residue"`` a list of N arrays ``[residues, D]``.
    Raises ValueError for what `virnucpro embed` would skip: an empty sequence, an unknown letter, two of one name;
    else as `load_esm2_model` and `AsyncInferenceRunner`.
    """
    chosen = (layers,) if isinstance(layers, int) else tuple(layers)
    options = Options(pool, chosen, max_length, chunk, token_budget=token_budget, strict=True)
    if precision == "auto":
        precision = recommended_precision(device)
    if isinstance(sequences, str | os.PathLike):
        with Fasta(sequences) as fasta:
            return _embed(fasta, load_esm2_model(model, device, precision=precision, weights=weights)[0], options)
    pairs = sequences.items() if isinstance(sequences, Mapping) else sequences
    return _embed(pairs, load_esm2_model(model, device, precision=precision, weights=weights)[0], options)


def _embed(records: Iterable[tuple[str, str]], model: ESM2, options: Options) -> tuple[list[str], Any]:
    names: list[str] = []
    parts: list[np.ndarray] = []
    shape = shape_of_row(model, options)
    reader = ProteinReader(records, options.max_length, options.chunk, options.strict)
    with ReadAhead(pack(reader, options.token_budget or token_budget(model)), PACKS_AHEAD) as packs:
        for result in runner_for(model, options).run(packs):
            names += result.sequence_ids
            rows = result.embeddings.numpy().reshape(-1, *shape)
            parts += np.split(rows, np.cumsum(result.residues)[:-1]) if options.pool == "residue" else [rows]
    if options.pool == "residue":
        return names, parts
    return names, np.concatenate(parts) if parts else np.empty((0, *shape), dtype=np.float32)


def embed_file(
    fasta: Fasta,
    output: str | os.PathLike[str],
    model: ESM2,
    options: Options = DEFAULTS,
    *,
    format: Format = TABLE,
    shard: Shard | None = None,
    about: Mapping[str, Any] | None = None,
    command: str = "",
    resume: bool = False,
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Done], None] = lambda done: None,
) -> dict[str, Any]:
    """Embed a FASTA file into a file (docs/embed.md has the layouts); returns a summary, for JSON.

    format: of the output. shard: embed only this share of the input, into a part for `virnucpro merge`, a table.
    about: what else decides the results and is kept with them, as the model's name. command: kept too.
    resume: continue an unfinished run of `output` where there is one. force: drop it, and replace `output`.
    stop: asked before each batch and while the file is written; when true, what is computed is put on disk and
        Stopped is raised. progress: called after each batch.

    Whatever is raised, what was computed before is kept for ``resume=True``: StoreError for the output, FastaError
    for the input, and what `AsyncInferenceRunner` raises.
    """
    output = Path(output)
    check_output(output, resume, force, format.is_folder)
    begun = begun_settings(output) if resume else None
    complete = resume and begun is None and output.exists()
    settings = {**(about or {}), **settings_of(model, options, settings_in(output) if complete else begun or {})}
    settings |= shard.settings if shard else {}
    runner, shape = runner_for(model, options), shape_of_row(model, options)
    reader = ProteinReader(fasta, options.max_length, options.chunk, options.strict)
    packs_of_input = pack(checked(reader) if format.named else reader, settings["token_budget"])
    done = Done()
    if complete and shard:
        done.sequences, done.residues = check_complete_shard(output, settings, packs_of_input, shard)
    elif complete:
        done.sequences, done.residues = check_complete(output, settings, packs_of_input, format)
    if complete:
        done.resumed = done.sequences
        remove(folder_of(output))  # what a run that was killed while it tidied up left
        return summary_of(done, settings, reader)
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])  # sums are split among threads, and their rounding follows
    with Partial(output, settings, math.prod(shape), options.dtype, resume) as partial:
        done.sequences, done.residues = partial.committed.sequences, partial.committed.residues
        done.resumed = done.sequences
        part = ShardOfPacks(packs_of_input, shard, partial.committed) if shard else None
        todo = part or remaining(packs_of_input, partial.committed)
        with ReadAhead(todo, PACKS_AHEAD, stop) as packs, BackgroundWriter(partial) as write:
            source = InterruptiblePacks(packs, stop)
            for result in runner.run(source):
                write(result, source.digests.popleft())
                done.count(result.residues, fasta.fraction())
                progress(done)
        if source.error:
            raise source.error
        attributes = {**settings, "command": command, "input_digest": partial.committed.digest}
        write_rows = format.write
        if part:
            attributes |= part.attributes
            write_rows = functools.partial(write_part, block_sizes=part.block_sizes)
        ragged = options.pool == "residue"
        if stop() or not partial.finish(
            lambda path, rows: write_rows(path, rows, attributes, shape, ragged, stop)
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
