"""`embed_file`: from FASTA to a file of embeddings."""

import math
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.proteins import ProteinReader, Skipped, Tally
from virnucpro.data.six_frame import STANDARD
from virnucpro.errors import ArgumentError
from virnucpro.models.esm2 import ESM2, SHAPES
from virnucpro.names import NOT_FINITE
from virnucpro.pipeline.input import InputChangedError, NumberedPacks
from virnucpro.pipeline.options import Options, runner_for, shape_of_row
from virnucpro.pipeline.parts import in_parts, packs_of
from virnucpro.pipeline.prefetch import PACKS_AHEAD, BackgroundWriter, InterruptiblePacks, ReadAhead
from virnucpro.pipeline.provenance import compared, settings_of
from virnucpro.pipeline.resuming import Stopped, begin, earlier_settings, until
from virnucpro.pipeline.shards import Shard, packs_in_block
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.npz import TooLargeError
from virnucpro.store.rows import Counts
from virnucpro.store.run import Run, check_output
from virnucpro.store.settings import check_same, plain

DEFAULTS = Options()


@dataclass
class Progressed:
    """How far a run is. `sequences` and `residues`: in all; `resumed`: of the sequences, by an earlier run.

    `not_finite`: sequences left out because their embeddings have NaN or Inf, in all; of an earlier run no names.
    `speeds`: tokens/s of each worker, where there are several.
    """

    sequences: int = 0
    residues: int = 0
    resumed: int = 0
    tokens: int = 0  # by this run
    not_finite: Tally = field(default_factory=Tally)
    fraction: float | None = None  # of the input's bytes that were read
    seconds: float = 0.0  # from the start to the last result
    file_seconds: float | None = None  # from the start to the file in its place
    speeds: list[float] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    @classmethod
    def after(cls, before: Counts) -> Self:
        """At the beginning of a run that continues another one."""
        return cls(before.sequences, before.residues, before.sequences, not_finite=Tally(before.skipped))

    def count(self, sequences: int, residues: int, not_finite: Iterable[str], fraction: float | None) -> None:
        """A batch more, or a block of several."""
        self.sequences += sequences
        self.residues += residues
        self.tokens += residues + 2 * sequences
        for name in not_finite:
            self.not_finite.add(name)
        self.fraction, self.seconds = fraction, time.perf_counter() - self._started

    def end(self) -> None:
        """The file is in its place."""
        self.file_seconds = round(time.perf_counter() - self._started, 3)


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
    progress: Callable[[Progressed], None] = lambda done: None,
    on_skip: Callable[[Skipped], None] = lambda skipped: None,
) -> dict[str, Any]:
    """Embed a FASTA file into a file (docs/embed.md has the layouts); returns a summary, for JSON.

    format: of the output. shard: embed only this share of the input, into a part for `virnucpro merge`, a table.
    about: what else decides the results and is kept with them, as the model's name. command: kept too.
    resume: continue an unfinished run of `output` where there is one. force: drop it, and replace `output`.
    stop: asked before each batch and while the file is written; when true, what is computed is put on disk and
        Stopped is raised. progress: called after each batch. on_skip: called for each record that gives no row.

    Whatever is raised, what was computed before is kept for ``resume=True``: StoreError for the output, FastaError
    for the input, and what `AsyncInferenceRunner` raises.
    """
    output = check_output(output, resume, force, inputs_of(fasta), format.holds)
    check_format(format, options, fasta)
    settings = {**(about or {}), **settings_of(model, options, earlier_settings(output) if resume else {})}
    in_block = packs_in_block(options.dedupe)
    settings |= shard.settings(in_block) if shard is not None else {}
    runner, shape = runner_for(model, options), shape_of_row(model, options)
    reader = reader_of(fasta, options, on_skip)
    packs = packs_of(format.named(reader), options, settings["token_budget"], shape)
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])  # sums are split among threads, and their rounding follows
    source = NumberedPacks(packs, shard, in_block)
    if shard is not None:
        reader.own = source.is_own
    with Run(output, resume, format.holds, format.in_place(), force) as run:
        if run.begun is not None:
            check_same(run.begun, compared(settings), f"{run.folder} was begun")
        before, left = begin(run, compared(settings), source, format, resume, stop)
        done = Progressed.after(before)
        if left is not None:
            write = BackgroundWriter(run.writer(options.dtype), run.add)
            with ReadAhead(left, PACKS_AHEAD, stop) as ahead, write:
                interruptible = InterruptiblePacks(ahead, stop)
                for result in in_parts(runner, options, settings["token_budget"]).run(interruptible):
                    write(result, interruptible.begun.popleft())
                    residues, left_out = result.residues, result.skipped.values()
                    done.count(len(residues), sum(residues), left_out, fasta.fraction())
                    for name in left_out:
                        on_skip(Skipped(name, NOT_FINITE))
                    progress(done)
                if interruptible.error:
                    raise interruptible.error
            if stop():
                raise Stopped
            write_output(run, source, format, {**settings, "command": command}, shape, options, fasta, stop)
            done.end()
    return summary_of(done, settings, reader, runner.device)


def write_output(
    run: Run,
    source: NumberedPacks,
    format: Format,
    settings: Mapping[str, Any],
    shape: tuple[int, ...],
    options: Options,
    fasta: Fasta,
    stop: Callable[[], bool],
) -> None:
    """Put the rows of all packs of `source`, which were read to the end, together; Stopped where `stop` says so.

    Raises InputChangedError where the input was written to while it was read, and is another one now.
    """
    check_untouched(fasta, source, options, settings["token_budget"], shape, stop)
    rows = run.rows(source.numbers, math.prod(shape), options.dtype)
    attributes = {**settings, **source.attributes}
    ragged = options.pool == "residue"

    def write(path: Path, in_place: bool) -> bool:
        more: dict[str, Any] = {"in_place": True} if in_place else {}
        if "shard" in settings:
            more["blocks"] = source.blocks
        if format.with_proteins:
            more["proteins"] = proteins_again(fasta.paths, options, settings["token_budget"], shape, source.digest)
        return format.write(path, rows, attributes, shape, ragged, stop, **more)

    try:
        if not run.finish(rows, write, stop):
            raise Stopped
    except TooLargeError as error:
        raise TooLargeError(
            f"{error}. What was computed is kept: rename {run.folder} to NAME.h5.partial, and run again with "
            "-o NAME.h5 --resume"
        ) from None


def check_untouched(
    fasta: Fasta,
    source: NumberedPacks,
    options: Options,
    token_budget: int,
    shape: tuple[int, ...],
    stop: Callable[[], bool],
) -> None:
    """Raise InputChangedError where a file's time has changed since it was opened, and what it says has, too.

    Also where that cannot be told, as a pipe was read beside it, which is gone; Stopped where `stop` says so.
    """
    if not fasta.touched:
        return
    if fasta.lasting:
        with Fasta(*fasta.paths) as again:
            now = NumberedPacks(packs_of(reader_of(again, options), options, token_budget, shape))
            for _ in until(stop, now):
                pass
        if now.digest == source.digest:
            return
    raise InputChangedError(
        f"{' or '.join(fasta.paths)} was changed while it was read, so what was embedded may be of neither "
        "the old nor the new one: begin anew with --force, when nobody writes to it"
    )


def check_format(format: Format, options: Options, fasta: Fasta) -> None:
    """Raise UserError where this format cannot hold such rows, or needs an input again that can be read once."""
    format.check_rows(options.dtype, len(options.layers), options.pool == "residue")
    if format.with_proteins and not fasta.lasting:
        raise ArgumentError(
            f"the layout {format.name} has the proteins, too, for which the input is read again at the end, and "
            f"{' or '.join(fasta.paths)} is no file that can be: put it into one"
        )


def proteins_again(
    paths: Sequence[str], options: Options, token_budget: int, shape: tuple[int, ...], digest: str
) -> Iterator[tuple[str, str]]:
    """The proteins of an input that was embedded, ``(name, protein)``, as they were; a pack of them is held.

    Raises InputChangedError at the end where the input, whose `digest` was this one, is another one now.
    """
    held: deque[tuple[str, str]] = deque()

    def holding(proteins: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for each in proteins:
            held.append(each)
            yield each

    with Fasta(*paths) as fasta:
        source = NumberedPacks(packs_of(holding(reader_of(fasta, options)), options, token_budget, shape))
        for each in source:
            for _ in each.pack.sequence_ids:
                yield held.popleft()
    if source.digest != digest:
        raise InputChangedError(f"{' or '.join(paths)} is not what was embedded: begin anew with --force")


def input_again(paths: Sequence[str], settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """As `proteins_again`, of what a part was made of, by its settings."""
    length, chunk, code = (plain(settings.get(name)) for name in ("max_length", "chunk", "genetic_code"))
    dedupe = plain(settings.get("dedupe")) is not None
    options = Options(max_length=length, chunk=chunk, genetic_code=code or STANDARD, dedupe=dedupe)
    shape = (SHAPES[str(settings["model"])].dim,)
    return proteins_again(paths, options, settings["token_budget"], shape, settings["input_digest"])


def reader_of(
    fasta: Fasta, options: Options, on_skip: Callable[[Skipped], None] = lambda skipped: None
) -> ProteinReader:
    """The proteins of an input."""
    how = (options.max_length, options.chunk, options.strict, on_skip, options.genetic_code)
    return ProteinReader(fasta, *how)


def inputs_of(fasta: Fasta) -> list[str | int]:
    """What is read, for `check_output`: a path, or the descriptor of standard input."""
    return [0 if path == "-" else path for path in fasta.paths]


def summary_of(
    done: Progressed, settings: Mapping[str, Any], reader: ProteinReader, device: torch.device
) -> dict[str, Any]:
    """What a run did, for JSON."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    records = reader.summary()
    if not settings.get("chunk"):  # else these are some frames of a record
        records["embedded_records"] -= done.not_finite.count
    if "shard" in settings:
        records["input_records"] = reader.all_records
    return {
        "sequences": done.sequences,
        "residues": done.residues,
        "resumed_sequences": done.resumed,
        "tokens_per_second": round(done.tokens / done.seconds, 1) if done.tokens else None,
        "embedding_seconds": round(done.seconds, 3),
        "file_seconds": done.file_seconds,
        "peak_resident_bytes": memory,
        "peak_gpu_bytes": gpu,
        **records,
        "not_finite": done.not_finite.summary(),
        "settings": dict(settings),
    }
