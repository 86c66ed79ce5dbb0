"""What the commands do with the options chosen. They import PyTorch when they are run, and not before."""

import argparse
import contextlib
import ctypes
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.cli.interrupts import Stop
from virnucpro.cli.progress import Progress
from virnucpro.cli.report import tell, tell_estimate, tell_of_truncation
from virnucpro.cli.skipped import AN_INPUT_OR_OUTPUT, SkipLog
from virnucpro.cli.streams import output_to_errors
from virnucpro.data.fasta import Fasta
from virnucpro.data.six_frame import STANDARD
from virnucpro.errors import ArgumentError, UserError
from virnucpro.pipeline.shards import Shard
from virnucpro.store.formats import TABLE, TENSOR_FILES, format_of
from virnucpro.store.place import same
from virnucpro.store.run import check_output
from virnucpro.store.settings import plain

if TYPE_CHECKING:  # it imports PyTorch
    from virnucpro.pipeline.options import Options

DEFAULT_CHUNK = 500
STREAMS = {1: "where standard output goes", 2: "where standard error goes"}
SAVED = ("config.json", "*.index.json", "*.safetensors", "pytorch_model*.bin")  # by Transformers, of one model
M_MMAP_THRESHOLD = -3  # mallopt(3)


def embed(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro embed``; returns the summary."""
    if chosen.estimate:
        return estimated(chosen, stop)
    with SkipLog(chosen.skipped) as skips:
        summary = embed_input(chosen, words, stop, skips)
        skips.finish()
    tell(summary, skips.tallies)
    return summary


def embed_input(chosen: argparse.Namespace, words: Sequence[str], stop: Stop, skips: "SkipLog") -> dict[str, Any]:
    """Embed the input as chosen; returns the summary."""
    began = time.perf_counter()
    reads: list[str | int] = [0 if each == "-" else each for each in chosen.input]
    weights = files_of(chosen.weights, chosen.model)
    format = format_of(chosen.output, chosen.format, chosen.layout)
    if chosen.shard and format is not TABLE:
        raise ArgumentError(
            f"a shard is a part in the format h5, and {chosen.output} would be {format.name}: name a .h5 file; "
            "virnucpro merge makes other formats of the parts"
        )
    output = check_output(chosen.output, chosen.resume, chosen.force, [*reads, *weights], format.holds)
    check_streams(output)
    others: dict[str, list[str | int]] = {what: [number] for number, what in STREAMS.items()}
    others |= {AN_INPUT_OR_OUTPUT: reads, "a file of the weights": weights}
    skips.check(output, others, chosen.resume, chosen.force)
    give_back_freed_memory()
    with Fasta(*chosen.input) as fasta:
        from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
        from virnucpro.pipeline.embed import check_format, embed_file
        from virnucpro.pipeline.resuming import earlier_settings, recorded_channels

        options = options_of(chosen)
        check_format(format, options, fasta)
        if format is TENSOR_FILES:
            tell_of_truncation(options.max_length, options.chunk)
        shard = Shard.parse(chosen.shard) if chosen.shard else None
        skips.open()
        run: dict[str, Any] = {
            "format": format,
            "command": shlex.join(["virnucpro", *words]),
            "resume": chosen.resume,
            "force": chosen.force,
            "stop": stop,
            "on_skip": skips,
        }
        if chosen.ray:
            from virnucpro.pipeline.cluster import check_local
            from virnucpro.pipeline.distributed import embed_with_ray

            if chosen.ray == "local":
                check_local(chosen.device, chosen.workers)
            with output_to_errors(), stop.on_signals(), Progress() as progress:
                summary = embed_with_ray(
                    fasta,
                    chosen.output,
                    chosen.model,
                    options,
                    weights=chosen.weights,
                    precision=chosen.precision,
                    device=chosen.device,
                    address=chosen.ray,
                    workers=chosen.workers,
                    allow_mixed=chosen.allow_mixed,
                    progress=progress,
                    **run,
                )
            return {"output": str(chosen.output), "seconds": round(time.perf_counter() - began, 3), **summary}
        device = None if chosen.device == "auto" else chosen.device
        precision = recommended_precision(device) if chosen.precision == "auto" else chosen.precision
        begun = earlier_settings(output) if chosen.resume else {}
        model, _ = load_esm2_model(
            chosen.model,
            device,
            precision=precision,
            weights=chosen.weights,
            channels_apart=recorded_channels(begun, output, chosen.model, precision),
        )
        loaded = time.perf_counter()
        with stop.on_signals(), Progress() as progress:
            summary = embed_file(
                fasta,
                chosen.output,
                model,
                options,
                shard=shard,
                about={"model": chosen.model, "weights": chosen.weights},
                progress=progress,
                **run,
            )
    now = time.perf_counter()
    seconds = {"seconds": round(now - began, 3), "loading_seconds": round(loaded - began, 3)}
    return {"output": str(chosen.output), **seconds, **summary}


def options_of(chosen: argparse.Namespace) -> "Options":
    """What is computed and kept."""
    from virnucpro.data.windows import Window
    from virnucpro.pipeline.options import Options

    long = Window.parse(chosen.long) if chosen.long else None
    return Options(
        pool=chosen.pool,
        layers=tuple(chosen.layers),
        max_length=getattr(chosen, "max_length", None if long else Options.max_length),
        chunk=(chosen.chunk or DEFAULT_CHUNK) if chosen.translate else None,
        dtype=chosen.dtype,
        token_budget=chosen.token_budget,
        strict=chosen.strict,
        on_nan=chosen.on_nan,
        genetic_code=chosen.genetic_code or STANDARD,
        long=long,
        dedupe=chosen.dedupe,
    )


def estimated(chosen: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    """``virnucpro embed --estimate``; returns the summary, and prints it unless that will be printed."""
    format = format_of(chosen.output, chosen.format, chosen.layout)
    with Fasta(*chosen.input) as fasta:
        from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
        from virnucpro.pipeline.estimate import estimate

        options = options_of(chosen)
        shard = Shard.parse(chosen.shard) if chosen.shard else None
        device = None if chosen.device == "auto" else chosen.device
        model, rate = chosen.model, chosen.estimate
        if rate < 0:  # it is measured, and what would be downloaded is as fast with random values
            weights = "random" if chosen.weights == "pretrained" else chosen.weights
            precision = recommended_precision(device) if chosen.precision == "auto" else chosen.precision
            rate = None
            model, _ = load_esm2_model(chosen.model, device, precision=precision, weights=weights)
        with stop.on_signals():
            summary = estimate(fasta, model, options, format, shard, rate, device, stop)
    if not chosen.json:
        tell_estimate(summary)
    return summary


def files_of(weights: str, model: str) -> list[str | int]:
    """The files that hold the weights: those named, what Transformers saved beside them, and fair-esm's cache."""
    if weights == "random":
        return []
    if weights == "pretrained":
        caches = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
        folder = Path(os.environ.get("TORCH_HOME", caches), "hub", "checkpoints").expanduser()  # as torch.hub
        return [str(each) for each in folder.glob("*.pt")]
    path = Path(weights)
    patterns: tuple[str, ...] = ("*", f"{model}/*")
    if not path.is_dir():
        path, patterns = path.parent, SAVED
    return [weights, *(str(each) for pattern in patterns for each in path.glob(pattern))]


def check_streams(output: Path) -> None:
    """Raise ArgumentError where the output is the file that a standard stream goes to: that would be lost."""
    for number, what in STREAMS.items():
        if same(output, [number]):
            raise ArgumentError(f"the output {output} is {what}: name another file")


def merge(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro merge``; returns the summary."""
    from virnucpro.pipeline.embed import input_again
    from virnucpro.pipeline.resuming import Stopped
    from virnucpro.store.merge import merge as merge_parts

    format = format_of(chosen.output, chosen.format, chosen.layout)

    inputs = chosen.input or []

    def proteins(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        tell_of_truncation(plain(settings["max_length"]), plain(settings["chunk"]))
        return input_again(inputs, settings)

    command = shlex.join(["virnucpro", *words])
    check_streams(chosen.output)
    with stop.on_signals():
        how = (chosen.force, chosen.allow_mixed, stop, inputs, proteins)
        summary = merge_parts(chosen.output, chosen.parts, format, command, *how)
    if summary is None:
        raise Stopped("stopped, and nothing was written")
    return summary


def verify(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro verify``; returns the summary, and prints a line a file unless that will be printed."""
    from virnucpro.store.embeddings import Embeddings

    files = []
    for path in chosen.files:
        found: dict[str, Any] = {"file": str(path), "ok": False}
        try:
            with Embeddings(path) as embeddings:
                found |= {"ok": embeddings.verify(), "sequences": len(embeddings)}
            line = f"{path}: ok, {found['sequences']:,} sequences"
            if not found["ok"]:
                found["reason"] = "it has no checksums, as files of virnucpro 0.4.0"
                line = f"{path}: not proved: {found['reason']}"
        except UserError as error:
            found["reason"] = line = str(error)
        files.append(found)
        if not chosen.json:
            print(" ".join(line.splitlines()), flush=True)
    return {"ok": all(each["ok"] for each in files), "files": files}


def give_back_freed_memory() -> None:
    """Have glibc return freed blocks of a megabyte and more to the system at once.

    By itself it raises that limit whenever such a block is freed, up to 32 MiB, and what a run of the model leaves
    between smaller blocks piles up to a hundred MiB before it stops growing.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
