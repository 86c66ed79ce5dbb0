# PYTHON_ARGCOMPLETE_OK
"""The command ``virnucpro``."""

import argparse
import contextlib
import ctypes
import errno
import importlib.util
import io
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from virnucpro.data.fasta import Fasta
from virnucpro.errors import ArgumentError, UserError
from virnucpro.models.precision import PRECISIONS
from virnucpro.store.formats import FORMATS, LAYOUTS, TABLE, format_of
from virnucpro.store.journal import begun_settings, check_output

if TYPE_CHECKING:  # these import PyTorch; a mistake on the command line is told before that
    from virnucpro.data.proteins import Skipped, Tally
    from virnucpro.pipeline.embed import Done

M_MMAP_THRESHOLD = -3  # mallopt(3)
DEFAULT_CHUNK = 500

EXIT_CODES = """\
exit codes: 0 done; 1 the input, the output, the model or the device is not as it should be; 2 the command is not;
130 stopped by Ctrl-C, 143 by SIGTERM. What was computed is kept, and --resume continues it."""

OUT_OF_MEMORY = (
    "can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc", "can't start new thread",
    "out of memory", "failed to map segment",
)  # fmt: skip
"""What PyTorch, the C++ library, the loader and Python say in errors of a common type where memory is used up."""


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
            say("\nvirnucpro: finishing the batches in flight; once more ends at once")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the words after the program's name; returns the exit code."""
    open_standard_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = parser()
    complete_words(program)
    try:
        chosen = program.parse_args(words)
        refuse_contradictions(chosen)
    finally:
        flush_output()
    logging.basicConfig(format="virnucpro: %(message)s", level=logging.WARNING)
    stop = Stop()
    try:
        summary = chosen.run(chosen, words, stop)
        if chosen.json:
            write_summary(summary)
    except KeyboardInterrupt as error:
        return complain("stopped", error, chosen, words, 128 + (stop.signal or signal.SIGINT))
    except Exception as error:
        found = explained(error, stop)
        if found is None:
            raise
        return complain(found[0], error, chosen, words, found[1])
    return 0


def open_standard_streams() -> None:
    """Open those of the three standard streams that are closed: else a file of the program's gets their number.

    Using standard input or output is an error then; what goes to standard error is lost.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def complete_words(program: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how to complete a word, where argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ and importlib.util.find_spec("argcomplete"):
        import argcomplete

        argcomplete.autocomplete(program)


def explained(error: Exception, stop: Stop) -> tuple[str, int] | None:
    """What to say and the exit code for what is not a mistake of this program's; None for what is."""
    shortage = out_of_memory(error)
    if shortage is not None and not isinstance(error, UserError):
        return shortage, 1
    if isinstance(error, UserError):
        return shortage or str(error), 1
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"the system refused{where}: {error.strerror or error}", 1

    from virnucpro.pipeline.embed import Stopped

    if isinstance(error, Stopped):
        by = stop.signal.name if stop.signal else "request"
        return str(error) or f"stopped by {by}", 128 + (stop.signal or signal.SIGINT)
    return None


def out_of_memory(error: BaseException) -> str | None:
    """What to say where memory was used up, which each library tells in its own way; None for other errors."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        known = isinstance(cause, RuntimeError | ImportError | OSError) and any(
            sign in text for sign in OUT_OF_MEMORY
        )
        if type(cause).__name__ == "OutOfMemoryError":  # PyTorch's, of a GPU; the runner says what to do
            return text
        if isinstance(cause, MemoryError) or known or getattr(cause, "errno", None) == errno.ENOMEM:
            details = f" ({text.splitlines()[0]})" if text else ""
            return (
                f"the memory, or what a limit leaves of it, is used up{details}: take a smaller --model, "
                "--token-budget or --max-length"
            )
        cause = cause.__cause__
    return None


def embed(chosen: argparse.Namespace, words: Sequence[str], stop: Stop) -> dict[str, Any]:
    """``virnucpro embed``; returns the summary."""
    with SkipLog(chosen.skipped, [chosen.output, *chosen.input]) as skips:
        summary = embed_input(chosen, words, stop, skips)
    tell(summary, skips.tallies)
    return summary


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


def embed_input(chosen: argparse.Namespace, words: Sequence[str], stop: Stop, skips: "SkipLog") -> dict[str, Any]:
    """Embed the input as chosen; returns the summary."""
    began = time.perf_counter()
    reads = [0 if each == "-" else each for each in chosen.input]
    reads += [chosen.weights] if chosen.weights not in ("pretrained", "random") else []
    format = format_of(chosen.output, chosen.format, chosen.layout)
    if chosen.shard and format is not TABLE:
        raise ArgumentError(
            f"a shard is a part in the format h5, and {chosen.output} would be {format.name}: name a .h5 file; "
            "virnucpro merge makes other formats of the parts"
        )
    check_output(chosen.output, chosen.resume, chosen.force, reads, format.is_folder)
    give_back_freed_memory()
    with Fasta(*chosen.input) as fasta:
        from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
        from virnucpro.pipeline.embed import embed_file
        from virnucpro.pipeline.options import Options
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
                    progress=progress,
                    **run,
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
                shard=shard,
                about={"model": chosen.model, "weights": chosen.weights},
                progress=progress,
                **run,
            )
    now = time.perf_counter()
    seconds = {"seconds": round(now - began, 3), "loading_seconds": round(loaded - began, 3)}
    return {"output": str(chosen.output), **seconds, **summary}


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether both are there and the same."""
    with contextlib.suppress(OSError):
        return Path(one).samefile(other)
    return False


def give_back_freed_memory() -> None:
    """Have glibc return freed blocks of a megabyte and more to the system at once.

    By itself it raises that limit whenever such a block is freed, up to 32 MiB, and what a run of the model leaves
    between smaller blocks piles up to a hundred MiB before it stops growing.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def say(text: str) -> None:
    """A line to standard error, which may be closed or on a full disk: the run matters more."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def complain(
    message: str, error: BaseException, chosen: argparse.Namespace, words: Sequence[str], code: int
) -> int:
    """Tell what went wrong and what to do next; returns the exit code."""
    if chosen.debug:
        say("".join(traceback.format_exception(error)).rstrip())
    strict = getattr(chosen, "strict", False)
    hint = "; without --strict it is no error" if strict and type(error).__name__ == "RecordError" else ""
    say(f"virnucpro: {message}{hint}")
    with contextlib.suppress(UserError):
        if (
            chosen.run is embed
            and getattr(error, "resume_helps", True)
            and begun_settings(chosen.output) is not None
        ):
            again = shlex.join(
                ["virnucpro", *(word for word in words if word not in ("--force", "--resume")), "--resume"]
            )
            same_input = ", with the same standard input," if "-" in chosen.input else ""
            say(f"virnucpro: what was computed is kept; this{same_input} continues it:\n  {again}")
    return code


def write_summary(summary: dict[str, Any]) -> None:
    """The summary as JSON to standard output; SummaryError where that cannot be written."""
    error: Exception | None
    try:
        print(json.dumps(summary, indent=2))
        error = flush_output()
    except (OSError, ValueError) as raised:
        error = raised
        flush_output()
    if error is not None:
        raise SummaryError(
            f"{summary['output']} is complete, but its summary cannot be written to standard output: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error


def flush_output() -> Exception | None:
    """Write what standard output holds back; what failed there, after which Python does not try it again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            number = sys.stdout.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
        return error
    return None


class SummaryError(UserError):
    """The summary could not be written."""

    resume_helps = False


def tell(summary: dict[str, Any], skipped: "dict[str, Tally]") -> None:
    """What the user must know of the input; on a terminal, also what was done."""
    for reason, tally in skipped.items():
        if reason in (
            *summary["skipped"],
            "no open reading frame",
        ):  # NaN is told below, with that of earlier runs
            say(f"virnucpro: skipped, {reason}: {tally}")
    notes = {
        f"cut to {summary['settings']['max_length']} residues": summary["truncated"],
        "names that came again": summary["repeated_names"],
        "look like DNA and were embedded as proteins": summary["like_dna"],
        "left out, because of NaN or Inf in the embedding": summary["not_finite"],
    }
    for what, tally in notes.items():
        if tally["count"]:
            more = ", ..." if tally["count"] > len(tally["names"]) else ""
            say(f"virnucpro: {what}: {tally['count']:,} ({', '.join(tally['names'])}{more})")
    lost = sum(tally["count"] for tally in summary["skipped"].values())
    lost += 0 if summary["settings"]["chunk"] else summary["not_finite"]["count"]  # of DNA these are frames
    closed = summary["without_open_frame"]["count"]
    if lost or closed:
        frames = f", {closed:,} without an open reading frame" if closed else ""
        embedded = f"{summary['records']:,} records: {summary['embedded_records']:,} embedded"
        say(f"virnucpro: {embedded}, {lost:,} skipped{frames}")
    if not summary["sequences"]:
        say("virnucpro: nothing was embedded: the output has no rows")
    if sys.stderr.isatty():
        say(
            f"virnucpro: {summary['sequences']:,} sequences, {summary['residues']:,} residues in "
            f"{summary['output']} after {summary['seconds']:,.1f} s"
        )


class SkipLog:
    """Counts what is skipped, by reason, and writes a line of each to the file of ``--skipped``.

    A context manager; the file, a table whose columns are separated by tabs, is made by `open`. UserError where it
    cannot be written, or is one of `others`.
    """

    COLUMNS = ("name", "reason", "file", "line", "detail")

    def __init__(self, path: Path | None, others: Iterable[str | os.PathLike[str]]):
        self._path, self._others = path, list(others)
        self._file: io.TextIOBase | None = None
        self.tallies: dict[str, Tally] = {}
        self._lock = threading.Lock()  # what is read and what is computed is skipped in two threads

    def open(self) -> None:
        """Make the file, if one was asked for."""
        if self._path is None:
            return
        if any(same_file(self._path, other) or str(self._path) == str(other) for other in self._others):
            raise UserError(f"--skipped {self._path} is an input or the output: name another file")
        with self._writing():
            self._file = self._path.open("w", encoding="utf-8")
            self._write(self.COLUMNS)

    def __call__(self, skipped: "Skipped") -> None:
        """Another one."""
        from virnucpro.data.proteins import Tally

        line = "" if skipped.line is None else str(skipped.line)
        with self._lock, self._writing():
            self.tallies.setdefault(skipped.reason, Tally()).add(skipped.name, skipped.detail)
            self._write((skipped.name, skipped.reason, skipped.file, line, skipped.detail))

    def _write(self, cells: Sequence[str]) -> None:
        if self._file is not None:
            self._file.write("\t".join(cells) + "\n")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write --skipped {self._path}: {error.strerror or error}") from error

    def __enter__(self) -> "SkipLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        try:
            with self._writing():
                self._file.close()
        except UserError:
            if kind is None:  # else that is what the user must know
                raise


class Progress:
    """How far a run is: tqdm's bar on a terminal, and a line a minute elsewhere, as in a log."""

    SECONDS_BETWEEN_LINES = 60.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._told = time.monotonic()
        self._at_first: float | None = None

    def __call__(self, done: "Done") -> None:
        """Show it, if it is time."""
        fraction = done.fraction or 0.0
        if self._at_first is None:
            self._at_first = fraction
        about = f"{done.sequences:,} sequences, {done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s"
        if done.speeds:
            about += f" ({', '.join(f'{speed:,.0f}' for speed in done.speeds)})"
        if sys.stderr.isatty():
            self._show(done.fraction, about)
        elif time.monotonic() - self._told >= self.SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            say(f"virnucpro: {about}{self._left(done.seconds, fraction)}")

    def _show(self, fraction: float | None, about: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._bar is None:
                self._bar = bar(fraction, about)
            self._bar.set_postfix_str(about, refresh=False)
            self._bar.update(0 if fraction is None else fraction - self._bar.n)

    def _left(self, seconds: float, fraction: float) -> str:
        if self._at_first is None or fraction <= self._at_first:
            return ""
        left = seconds * (1 - fraction) / (fraction - self._at_first)
        return f", {fraction:.0%}, about {left / 60:,.0f} min left"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()


def bar(fraction: float | None, about: str) -> Any:
    """A bar that begins at this share of the input, with a text; without a length where the share is unknown."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.monitor_interval = 0  # no thread of its own: each batch updates it
    width = None
    with contextlib.suppress(OSError, ValueError):
        if not os.get_terminal_size(
            sys.stderr.fileno()
        ).columns:  # as of some containers': tqdm would show nothing
            width = 80
    known = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    return tqdm(
        total=None if fraction is None else 1.0,
        initial=fraction or 0.0,
        bar_format="{elapsed}{postfix}" if fraction is None else known,
        postfix=about,
        file=sys.stderr,
        mininterval=0.5,
        miniters=0,
        leave=False,
        ncols=width,
        nrows=None if width is None else 24,
        dynamic_ncols=width is None,
    )


def refuse_contradictions(chosen: argparse.Namespace) -> None:
    """End the program with the usage where an option has no effect beside the others."""
    if chosen.run is not embed:
        return
    if chosen.chunk is not None and not chosen.translate:
        chosen.refuse("--chunk is for DNA: it needs --translate six-frame")
    if chosen.strict and chosen.on_nan == "skip":
        chosen.refuse("--strict makes an error of what --on-nan skip would leave out: choose one")
    if chosen.shard and chosen.ray:
        chosen.refuse("--shard divides an input among jobs, and --ray among workers: choose one")
    if chosen.workers and not chosen.ray:
        chosen.refuse("--workers is for --ray")
    if chosen.allow_mixed and not chosen.ray:
        chosen.refuse("--allow-mixed is for --ray, and for virnucpro merge")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    program = argparse.ArgumentParser("virnucpro", description="Fast ESM-2 embeddings of proteins and DNA.")
    program.add_argument("--version", action="version", version=f"virnucpro {installed_version()}")
    commands = program.add_subparsers(required=True, metavar="COMMAND")
    add_embed(commands)
    add_merge(commands)
    return program


def add_embed(commands: Any) -> None:
    """The options of ``virnucpro embed``."""
    command = commands.add_parser(
        "embed",
        help="embed the sequences of FASTA files",
        description="Embed the sequences of FASTA files into an HDF5 file, a Parquet dataset or a .npz file.",
        epilog=EXIT_CODES,
    )
    command.set_defaults(run=embed, refuse=command.error)
    command.add_argument(
        "input",
        metavar="IN.fasta",
        nargs="+",
        type=file_name,
        help="proteins, or DNA with --translate; may be gzip, bzip2, xz or zstd; - for stdin",
    )
    command.add_argument("-o", "--output", type=path, required=True, metavar="OUT.h5")
    add_format(command)
    model = command.add_argument_group("model")
    name = model.add_argument(
        "--model", default="esm2_t33_650M_UR50D", help="fair-esm's name (default: %(default)s)"
    )
    name.completer = model_names
    model.add_argument(
        "--weights",
        type=file_name,
        default="pretrained",
        help="pretrained (default), random, or a fair-esm .pt",
    )
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
    kept.add_argument(
        "--on-nan",
        choices=("error", "skip"),
        default="error",
        help="what to do where an embedding has NaN or Inf: stop (default), or leave the sequence out",
    )
    sequences = command.add_argument_group("sequences")
    sequences.add_argument(
        "--translate", choices=("six-frame",), help="the input is DNA: embed VirNucPro's proteins"
    )
    sequences.add_argument(
        "--chunk",
        type=positive,
        metavar="N",
        help=f"with --translate: nucleotides of a fragment (default: {DEFAULT_CHUNK})",
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
    sequences.add_argument(
        "--skipped", type=path, metavar="FILE", help="write a table of every skipped record, with reason and line"
    )
    run = command.add_argument_group("run")
    run.add_argument(
        "--resume", action="store_true", help="continue an unfinished run; begin one where there is none"
    )
    run.add_argument("--force", action="store_true", help="drop an unfinished run, and replace OUT.h5 at the end")
    run.add_argument("--json", action="store_true", help="print a summary to standard output at the end")
    run.add_argument("--debug", action="store_true", help="show where in the program an error came from")
    many = command.add_argument_group("many GPUs or jobs")
    many.add_argument(
        "--shard", metavar="I/N", help="embed only the I-th of N shares of the input, for virnucpro merge"
    )
    many.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="use all GPUs of this machine, or of the Ray cluster at host:port (auto: the one on this machine)",
    )
    many.add_argument(
        "--workers", type=positive, metavar="N", help="GPUs to use (default: all; without GPUs one worker)"
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
    command.add_argument("output", type=path, metavar="OUT.h5")
    command.add_argument("parts", type=path, nargs="+", metavar="PART.h5", help="of all shards, in any order")
    add_format(command)
    command.add_argument("--force", action="store_true", help="replace OUT.h5 when the new one is complete")
    command.add_argument(
        "--allow-mixed", action="store_true", help="take parts of different hardware, whose rounding differs"
    )
    command.add_argument("--json", action="store_true", help="print a summary to standard output at the end")
    command.add_argument("--debug", action="store_true", help="show where in the program an error came from")


def add_format(command: argparse.ArgumentParser) -> None:
    """The options of an output's format."""
    command.add_argument(
        "--format", choices=tuple(FORMATS), help="default: by the output's ending, .h5, .parquet or .npz"
    )
    command.add_argument(
        "--layout", choices=LAYOUTS, default="table", help="per-protein: a dataset for each protein, as UniProt's"
    )


def installed_version() -> str:
    """The version of this program."""
    try:
        return version("virnucpro")
    except PackageNotFoundError:
        return "(not installed: running from its source tree)"


def model_names(**_: Any) -> list[str]:
    """The models, for a shell that completes their names."""
    from virnucpro.models.esm2 import SHAPES

    return list(SHAPES)


def file_name(text: str) -> str:
    """A file's name, which may not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is needed, and this is empty")
    return text


def path(text: str) -> Path:
    """As `file_name`, a path."""
    return Path(file_name(text))


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
