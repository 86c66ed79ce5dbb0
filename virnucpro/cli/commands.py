"""What the commands do with the options chosen. They import PyTorch when they are run, and not before."""

import argparse
import contextlib
import ctypes
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro.cli.interrupts import Stop
from virnucpro.cli.progress import Progress
from virnucpro.cli.report import SkipLog, tell
from virnucpro.cli.streams import output_to_errors
from virnucpro.data.fasta import Fasta
from virnucpro.errors import ArgumentError, UserError
from virnucpro.store.formats import TABLE, format_of
from virnucpro.store.run import check_output

DEFAULT_CHUNK = 500
M_MMAP_THRESHOLD = -3  # mallopt(3)


def embed(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro embed``; returns the summary."""
    with SkipLog(chosen.skipped, [chosen.output, *chosen.input]) as skips:
        summary = embed_input(chosen, words, stop, skips)
    tell(summary, skips.tallies)
    return summary


def embed_input(chosen: argparse.Namespace, words: Sequence[str], stop: Stop, skips: "SkipLog") -> dict[str, Any]:
    """Embed the input as chosen; returns the summary."""
    began = time.perf_counter()
    reads = [0 if each == "-" else each for each in chosen.input] + files_of(chosen.weights, chosen.model)
    format = format_of(chosen.output, chosen.format, chosen.layout)
    if chosen.shard and format is not TABLE:
        raise ArgumentError(
            f"a shard is a part in the format h5, and {chosen.output} would be {format.name}: name a .h5 file; "
            "virnucpro merge makes other formats of the parts"
        )
    output = check_output(chosen.output, chosen.resume, chosen.force, reads, format.is_folder)
    give_back_freed_memory()
    with Fasta(*chosen.input) as fasta:
        from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
        from virnucpro.pipeline.embed import embed_file
        from virnucpro.pipeline.options import Options
        from virnucpro.pipeline.resuming import earlier_settings, recorded_channels
        from virnucpro.pipeline.shards import Shard

        options = Options(
            pool=chosen.pool,
            layers=tuple(chosen.layers),
            max_length=chosen.max_length,
            chunk=(chosen.chunk or DEFAULT_CHUNK) if chosen.translate else None,
            dtype=chosen.dtype,
            token_budget=chosen.token_budget,
            strict=chosen.strict,
            on_nan=chosen.on_nan,
        )
        shard = Shard.parse(chosen.shard) if chosen.shard else None
        skips.open(chosen.resume)
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


def files_of(weights: str, model: str) -> list[str | int]:
    """The files that hold the weights, as far as the command line names them."""
    if weights in ("pretrained", "random"):
        return []
    return [weights, *(str(each) for pattern in ("*", f"{model}/*") for each in Path(weights).glob(pattern))]


def merge(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro merge``; returns the summary."""
    from virnucpro.pipeline.resuming import Stopped
    from virnucpro.store.merge import merge as merge_parts

    format = format_of(chosen.output, chosen.format, chosen.layout)
    command = shlex.join(["virnucpro", *words])
    with stop.on_signals():
        summary = merge_parts(chosen.output, chosen.parts, format, command, chosen.force, chosen.allow_mixed, stop)
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
            print(line, flush=True)
    return {"ok": all(each["ok"] for each in files), "files": files}


def give_back_freed_memory() -> None:
    """Have glibc return freed blocks of a megabyte and more to the system at once.

    By itself it raises that limit whenever such a block is freed, up to 32 MiB, and what a run of the model leaves
    between smaller blocks piles up to a hundred MiB before it stops growing.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
