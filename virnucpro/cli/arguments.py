"""The words of the command line: which there are, and which contradict each other."""

import argparse
import importlib.util
import itertools
import math
import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from virnucpro.cli.commands import DEFAULT_CHUNK, embed, merge, verify
from virnucpro.data.six_frame import GENETIC_CODES
from virnucpro.models.precision import PRECISIONS
from virnucpro.store.formats import BY_NAME, LAYOUTS

MEASURE = "measure"
MEASURED = -1.0  # no rate is given

EXIT_CODES = """\
exit codes: 0 done; 1 the input, the output, the model or the device is not as it should be; 2 the command is not;
130 stopped by Ctrl-C, 143 by SIGTERM. What was computed is kept, and --resume continues it."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    program = argparse.ArgumentParser("virnucpro", description="Fast ESM-2 embeddings of proteins and DNA.")
    program.add_argument("--version", action="version", version=f"virnucpro {installed_version()}")
    commands = program.add_subparsers(required=True, metavar="COMMAND")
    add_embed(commands)
    add_merge(commands)
    add_verify(commands)
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
        help="pretrained (default), random, fair-esm's .pt or a folder of them, or one that Transformers saved",
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
        "--genetic-code",
        type=int,
        choices=GENETIC_CODES,
        metavar="N",
        help="with --translate: NCBI's number of the genetic code (default: 1, the standard one)",
    )
    sequences.add_argument(
        "--max-length",
        type=positive_or("none"),
        default=argparse.SUPPRESS,
        metavar="N",
        help="residues embedded of a longer protein (default: 1022, as fair-esm); none for all",
    )
    sequences.add_argument(
        "--long",
        type=not_empty,
        metavar="window:SIZE:OVERLAP",
        help="embed longer proteins whole, in overlapping windows of SIZE residues, instead of --max-length",
    )
    sequences.add_argument(
        "--dedupe",
        action="store_true",
        help="compute equal sequences once, among half a million tokens of the input at a time",
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
    run.add_argument(
        "--estimate",
        nargs="?",
        const=MEASURE,
        type=rate,
        metavar="TOKENS/S",
        help="tell how much the input is, the output's size and the hours it takes, at this rate or one that is "
        "measured here in seconds, and stop; nothing is written",
    )
    run.add_argument("--json", action="store_true", help="print a summary to standard output at the end")
    run.add_argument("--debug", action="store_true", help="show where in the program an error came from")
    many = command.add_argument_group("many GPUs or jobs")
    many.add_argument(
        "--shard",
        metavar="I/N",
        type=not_empty,
        help="embed only the I-th of N shares of the input, for virnucpro merge",
    )
    many.add_argument(
        "--ray",
        nargs="?",
        const="local",
        type=not_empty,
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
    command.set_defaults(run=merge, refuse=command.error)
    command.add_argument("output", type=path, metavar="OUT.h5")
    command.add_argument("parts", type=path, nargs="+", metavar="PART.h5", help="of all shards, in any order")
    add_format(command)
    command.add_argument(
        "--input",
        type=file_name,
        nargs="+",
        metavar="IN.fasta",
        help="with --layout virnucpro: the files that the shards are of, for the proteins",
    )
    command.add_argument("--force", action="store_true", help="replace OUT.h5 when the new one is complete")
    command.add_argument(
        "--allow-mixed", action="store_true", help="take parts of different hardware, whose rounding differs"
    )
    command.add_argument("--json", action="store_true", help="print a summary to standard output at the end")
    command.add_argument("--debug", action="store_true", help="show where in the program an error came from")


def add_verify(commands: Any) -> None:
    """The options of ``virnucpro verify``."""
    command = commands.add_parser(
        "verify",
        help="check that files hold what was written to them",
        description="Read outputs or parts to the end, and compare all with its checksums. Prints a line a file.",
        epilog="exit codes: 0 all are as they were written; 1 one is damaged, or has no checksums; 2 the command "
        "is wrong.",
    )
    command.set_defaults(run=verify)
    command.add_argument("files", type=path, nargs="+", metavar="FILE", help="of any format that virnucpro writes")
    command.add_argument("--json", action="store_true", help="print the result as JSON instead")
    command.add_argument("--debug", action="store_true", help="show where in the program an error came from")


def add_format(command: argparse.ArgumentParser) -> None:
    """The options of an output's format."""
    command.add_argument(
        "--format", choices=tuple(BY_NAME), help="default: by the output's ending, .h5, .parquet or .npz"
    )
    command.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="table",
        help="per-protein: a dataset for each protein, as UniProt's; virnucpro: a folder of the files that "
        "VirNucPro reads",
    )


def refuse_contradictions(chosen: argparse.Namespace) -> None:
    """End the program with the usage where an option has no effect beside the others."""
    if chosen.run is merge and bool(chosen.input) != (chosen.layout == "virnucpro"):
        chosen.refuse("--layout virnucpro needs --input, the files that the shards are of, and nothing else does")
    if chosen.run is not embed:
        return
    if chosen.chunk is not None and not chosen.translate:
        chosen.refuse("--chunk is for DNA: it needs --translate six-frame")
    if chosen.genetic_code is not None and not chosen.translate:
        chosen.refuse("--genetic-code is for DNA: it needs --translate six-frame")
    if chosen.long and getattr(chosen, "max_length", None) is not None:
        chosen.refuse("--max-length cuts a longer protein, and --long embeds all of it: choose one")
    if chosen.strict and chosen.on_nan == "skip":
        chosen.refuse("--strict makes an error of what --on-nan skip would leave out: choose one")
    if chosen.estimate and chosen.ray:
        chosen.refuse("--estimate is for one GPU: leave out --ray, and divide the hours by the number of GPUs")
    if chosen.shard and chosen.ray:
        chosen.refuse("--shard divides an input among jobs, and --ray among workers: choose one")
    if chosen.workers and not chosen.ray:
        chosen.refuse("--workers is for --ray")
    if chosen.allow_mixed and not chosen.ray:
        chosen.refuse("--allow-mixed is for --ray, and for virnucpro merge")


def complete_words(program: argparse.ArgumentParser) -> None:
    """Answer a shell that asks how to complete a word, where argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ and importlib.util.find_spec("argcomplete"):
        import argcomplete

        argcomplete.autocomplete(program)


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


def not_empty(text: str) -> str:
    """Anything that is not empty, as a variable that is not set would leave it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("a value is needed, and this is empty")
    return text


def file_name(text: str) -> str:
    """A file's name, which may not be empty."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is needed, and this is empty")
    return text


def path(text: str) -> Path:
    """As `file_name`, a path; no standard stream, which cannot be moved into place or read twice."""
    if text == "-":
        raise argparse.ArgumentTypeError("a file is needed, and no standard stream; a file of this name is ./-")
    return Path(file_name(text))


def rate(text: str) -> float:
    """Tokens/s, a number above 0; `MEASURE` as it is."""
    if text == MEASURE:
        return MEASURED
    if not is_number(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens/s")
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0 is needed")
    return float(text)


def with_values(words: Sequence[str]) -> list[str]:
    """The words, where ``--estimate`` without a number has its value: argparse would take an input for it."""
    found: list[str] = []
    for word, after in itertools.zip_longest(words, words[1:], fillvalue=""):
        is_alone = word == "--estimate" and not is_number(after) and "--" not in found
        found.append(f"--estimate={MEASURE}" if is_alone else word)
    return found


def is_number(text: str) -> bool:
    """Whether Python reads it as one."""
    try:
        float(text)
    except ValueError:
        return False
    return True


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
