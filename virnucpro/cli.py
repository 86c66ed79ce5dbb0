"""The command ``virnucpro``."""

import argparse
import contextlib
import ctypes
import json
import logging
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.models.precision import PRECISIONS
from virnucpro.store.formats import FORMATS, LAYOUTS, TABLE, format_of
from virnucpro.store.journal import StoreError, begun_settings, check_output

if TYPE_CHECKING:  # it imports PyTorch; a mistake on the command line is told before that
    from virnucpro.pipeline.embed import Done

M_MMAP_THRESHOLD = -3  # mallopt(3)

EXIT_CODES = """\
exit codes: 0 done; 1 the input, the output, the model or the device is not as it should be; 2 the command is not;
130 stopped by Ctrl-C, 143 by SIGTERM. What was computed is kept, and --resume continues it."""


class Stop:
    """Whether Ctrl-C or SIGTERM asked to stop; the second time they end the program at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        """True from the first signal on."""
        return self.signal is not None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the two signals while inside."""
        if threading.current_thread() is not threading.main_thread():  # Python has signals in the main one only
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if sys.stderr.isatty():
            print("\nvirnucpro: finishing the batches in flight; once more ends at once", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the words after the program's name; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser().parse_args(words)
    logging.basicConfig(format="virnucpro: %(message)s", level=logging.WARNING)
    stop = Stop()
    try:
        summary = chosen.run(chosen, words, stop)
    except KeyboardInterrupt:
        return complain("stopped", chosen, words, 128 + (stop.signal or signal.SIGINT))
    except (FastaError, StoreError) as error:
        return complain(str(error), chosen, words, 1)
    except Exception as error:
        code = code_of(error, stop)
        if code is None:
            raise
        return complain(
            str(error) or f"stopped by {stop.signal.name if stop.signal else 'request'}", chosen, words, code
        )
    if chosen.json:
        print(json.dumps(summary, indent=2))
    if chosen.run is embed:
        tell(summary)
    return 0


def code_of(error: Exception, stop: Stop) -> int | None:
    """The exit code for what is not a mistake of this program's; None for what is."""
    import torch

    from virnucpro.models.checkpoint import CheckpointError
    from virnucpro.pipeline.embed import Stopped

    if isinstance(error, Stopped):
        return 128 + (stop.signal or signal.SIGINT)
    known = (ValueError, OSError, ArithmeticError, CheckpointError, torch.OutOfMemoryError)
    return 1 if isinstance(error, known) else None


def embed(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro embed``; returns the summary."""
    began = time.perf_counter()
    if chosen.output.exists() and Path(chosen.input).exists() and chosen.output.samefile(chosen.input):
        raise StoreError(f"{chosen.output} is the input: name another file")
    format = format_of(chosen.output, chosen.format, chosen.layout)
    if chosen.shard and format is not TABLE:
        raise StoreError(
            f"a shard is a part in the format h5, and {chosen.output} would be {format.name}: name a .h5 file; "
            "virnucpro merge makes other formats of the parts"
        )
    check_output(chosen.output, chosen.resume, chosen.force, format.is_folder)
    give_back_freed_memory()
    with Fasta(chosen.input) as fasta:
        from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
        from virnucpro.pipeline.embed import embed_file
        from virnucpro.pipeline.options import Options
        from virnucpro.pipeline.shards import Shard

        shard = Shard.parse(chosen.shard) if chosen.shard else None
        options = Options(
            pool=chosen.pool,
            layers=tuple(chosen.layers),
            max_length=chosen.max_length,
            chunk=chosen.chunk if chosen.translate else None,
            dtype=chosen.dtype,
            token_budget=chosen.token_budget,
            strict=chosen.strict,
        )
        if chosen.ray:
            if shard:
                raise StoreError("--shard divides an input among jobs and --ray among workers: use one of them")
            from virnucpro.pipeline.distributed import embed_with_ray

            with stop.on_signals(), Progress() as progress:
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
                    format=format,
                    command=shlex.join(["virnucpro", *words]),
                    resume=chosen.resume,
                    force=chosen.force,
                    stop=stop,
                    progress=progress,
                )
            return {"output": str(chosen.output), "seconds": round(time.perf_counter() - began, 3), **summary}
        device = None if chosen.device == "auto" else chosen.device
        precision = recommended_precision(device) if chosen.precision == "auto" else chosen.precision
        model, _ = load_esm2_model(chosen.model, device, precision=precision, weights=chosen.weights)
        loaded = time.perf_counter()
        with stop.on_signals(), Progress() as progress:
            summary = embed_file(
                fasta,
                chosen.output,
                model,
                options,
                format=format,
                shard=shard,
                about={"model": chosen.model, "weights": chosen.weights},
                command=shlex.join(["virnucpro", *words]),
                resume=chosen.resume,
                force=chosen.force,
                stop=stop,
                progress=progress,
            )
    now = time.perf_counter()
    seconds = {"seconds": round(now - began, 3), "loading_seconds": round(loaded - began, 3)}
    return {"output": str(chosen.output), **seconds, **summary}


def merge(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro merge``; returns the summary."""
    from virnucpro.pipeline.embed import Stopped
    from virnucpro.store.merge import merge as merge_parts

    format = format_of(chosen.output, chosen.format, chosen.layout)
    command = shlex.join(["virnucpro", *words])
    with stop.on_signals():
        summary = merge_parts(chosen.output, chosen.parts, format, command, chosen.force, chosen.allow_mixed, stop)
    if summary is None:
        raise Stopped("stopped; nothing was written")
    return summary


def give_back_freed_memory() -> None:
    """Have glibc return freed blocks of a megabyte and more to the system at once.

    By itself it raises that limit whenever such a block is freed, up to 32 MiB, and what a run of the model leaves
    between smaller blocks piles up to a hundred MiB before it stops growing.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def complain(message: str, chosen: argparse.Namespace, words: Sequence[str], code: int) -> int:
    """Tell what went wrong and what to do next; returns the exit code."""
    print(f"virnucpro: {message}", file=sys.stderr)
    with contextlib.suppress(StoreError):
        if chosen.run is embed and begun_settings(chosen.output) is not None and "--resume" not in message:
            again = shlex.join(
                ["virnucpro", *(word for word in words if word not in ("--force", "--resume")), "--resume"]
            )
            same_input = ", with the same standard input," if chosen.input == "-" else ""
            print(
                f"virnucpro: what was computed is kept; this{same_input} continues it:\n  {again}", file=sys.stderr
            )
    return code


def tell(summary: dict[str, Any]) -> None:
    """What the user must know of the input; on a terminal, also what was done."""
    notes = {f"skipped, {reason}": tally for reason, tally in summary["skipped"].items()}
    notes |= {f"cut to {summary['settings']['max_length']} residues": summary["truncated"]}
    notes |= {"names that came again": summary["repeated_names"]}
    for what, tally in notes.items():
        if tally["count"]:
            more = ", ..." if tally["count"] > len(tally["names"]) else ""
            print(f"virnucpro: {what}: {tally['count']:,} ({', '.join(tally['names'])}{more})", file=sys.stderr)
    if not summary["sequences"]:
        print("virnucpro: nothing was embedded: the output has no rows", file=sys.stderr)
    if sys.stderr.isatty():
        print(
            f"virnucpro: {summary['sequences']:,} sequences, {summary['residues']:,} residues in "
            f"{summary['output']} after {summary['seconds']:,.1f} s",
            file=sys.stderr,
        )


class Progress:
    """A line on a terminal: sequences, tokens/s, time left. Nothing where standard error is no terminal."""

    SECONDS_BETWEEN = 0.5

    def __init__(self) -> None:
        self._shown = -self.SECONDS_BETWEEN
        self._at_first: float | None = None

    def __call__(self, done: "Done") -> None:
        """Show how far it is, twice a second at most."""
        if self._at_first is None:
            self._at_first = done.fraction or 0.0
        if not sys.stderr.isatty() or time.monotonic() - self._shown < self.SECONDS_BETWEEN:
            return
        self._shown = time.monotonic()
        line = f"{done.sequences:,} sequences, {done.tokens / done.seconds:,.0f} tokens/s{self._left(done)}"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def _left(self, done: "Done") -> str:
        if done.fraction is None or self._at_first is None or done.fraction <= self._at_first:
            return ""
        left = done.seconds * (1 - done.fraction) / (done.fraction - self._at_first)
        return f", {done.fraction:.0%}, about {left / 60:,.0f} min left" if left > 90 else f", {done.fraction:.0%}"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown > 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    program = argparse.ArgumentParser("virnucpro", description="Fast ESM-2 embeddings of proteins and DNA.")
    commands = program.add_subparsers(required=True, metavar="COMMAND")
    add_embed(commands)
    add_merge(commands)
    return program


def add_embed(commands: Any) -> None:
    """The options of ``virnucpro embed``."""
    command = commands.add_parser(
        "embed",
        help="embed the sequences of a FASTA file",
        description="Embed the sequences of a FASTA file into an HDF5 file, a Parquet dataset or a .npz file.",
        epilog=EXIT_CODES,
    )
    command.set_defaults(run=embed)
    command.add_argument(
        "input", metavar="IN.fasta", help="proteins, or DNA with --translate; may be gzip; - for stdin"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.h5")
    add_format(command)
    model = command.add_argument_group("model")
    model.add_argument("--model", default="esm2_t33_650M_UR50D", help="fair-esm's name (default: %(default)s)")
    model.add_argument("--weights", default="pretrained", help="pretrained (default), random, or a fair-esm .pt")
    model.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="auto (default) is fp16 on a GPU with tensor cores, fp32 elsewhere",
    )
    model.add_argument(
        "--device", default="auto", help="auto (default; the GPU where there is one), cpu, cuda, cuda:N"
    )
    model.add_argument(
        "--token-budget",
        type=positive_or("auto"),
        default="auto",
        metavar="N",
        help="most tokens in a batch; auto (default) is what fills the device and fits into its memory",
    )
    kept = command.add_argument_group("what is kept")
    kept.add_argument(
        "--pool", choices=("mean", "bos", "residue"), default="mean", help="default: mean over residues"
    )
    kept.add_argument("--layers", type=int, nargs="+", default=[-1], metavar="N", help="default: -1, the last")
    kept.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="default: float32")
    sequences = command.add_argument_group("sequences")
    sequences.add_argument(
        "--translate", choices=("six-frame",), help="the input is DNA: embed VirNucPro's proteins"
    )
    sequences.add_argument(
        "--chunk", type=positive, default=500, metavar="N", help="nucleotides of a fragment (default: 500)"
    )
    sequences.add_argument(
        "--max-length",
        type=positive_or("none"),
        default=1022,
        metavar="N",
        help="residues embedded of a longer protein (default: 1022, as fair-esm); none for all",
    )
    sequences.add_argument(
        "--strict", action="store_true", help="what would be skipped, or named twice, is an error"
    )
    run = command.add_argument_group("run")
    run.add_argument(
        "--resume", action="store_true", help="continue an unfinished run; begin one where there is none"
    )
    run.add_argument("--force", action="store_true", help="drop an unfinished run, and replace OUT.h5 at the end")
    run.add_argument("--json", action="store_true", help="print a summary to standard output at the end")
    run.add_argument(
        "--shard", metavar="I/N", help="embed only the I-th of N shares of the input, for virnucpro merge"
    )
    many = command.add_argument_group("many GPUs")
    many.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="use all GPUs of this machine, or of the Ray cluster at host:port (auto: the one on this machine)",
    )
    many.add_argument(
        "--workers", type=positive, metavar="N", help="GPUs to use (default: all; without GPUs 1 worker)"
    )
    many.add_argument(
        "--allow-mixed", action="store_true", help="take GPUs of different kinds, whose rounding differs"
    )


def add_merge(commands: Any) -> None:
    """The options of ``virnucpro merge``."""
    command = commands.add_parser(
        "merge",
        help="put the parts of all shards together",
        description="Put the parts that `virnucpro embed --shard` wrote together, in the order of the input.",
        epilog=EXIT_CODES,
    )
    command.set_defaults(run=merge)
    command.add_argument("output", type=Path, metavar="OUT.h5")
    command.add_argument("parts", type=Path, nargs="+", metavar="PART.h5", help="of all shards, in any order")
    add_format(command)
    command.add_argument("--force", action="store_true", help="replace OUT.h5 when the new one is complete")
    command.add_argument(
        "--allow-mixed", action="store_true", help="take parts of different hardware, whose rounding differs"
    )
    command.add_argument("--json", action="store_true", help="print a summary to standard output at the end")


def add_format(command: argparse.ArgumentParser) -> None:
    """The options of an output's format."""
    command.add_argument(
        "--format", choices=tuple(FORMATS), help="default: by the output's ending, .h5, .parquet or .npz"
    )
    command.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="table",
        help="per-protein: a dataset for each protein, as UniProt's files",
    )


def positive(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1 is needed")
    return number


def positive_or(word: str) -> Any:
    """A number of at least 1, or None for `word`."""

    def number(text: str) -> int | None:
        return None if text == word else positive(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
