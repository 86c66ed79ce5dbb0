"""`embed`: sequences that Python has, or a FASTA file, to an array."""

import contextlib
import io
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.proteins import ProteinReader, Tally
from virnucpro.data.windows import Window
from virnucpro.errors import FastaError
from virnucpro.models.esm2 import ESM2
from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
from virnucpro.models.forking import came_out_of_a_fork
from virnucpro.models.token_budget import token_budget as budget_of
from virnucpro.pipeline.options import Options, runner_for, shape_of_row
from virnucpro.pipeline.parts import in_parts, packs_of
from virnucpro.pipeline.prefetch import PACKS_AHEAD, ReadAhead

logger = logging.getLogger(__name__)

ACCEPTED = (
    "embed takes a list of sequences, {name: sequence}, pairs (name, sequence), Biopython's SeqRecords, or the "
    "path of a FASTA file"
)


def embed(
    sequences: Any,
    model: str = "esm2_t33_650M_UR50D",
    *,
    precision: str = "auto",
    weights: str | os.PathLike[str] = "pretrained",
    device: str | torch.device | None = None,
    pool: str = "mean",
    layers: int | Sequence[int] = -1,
    max_length: int | None = Options.max_length,
    long: str | None = None,
    dedupe: bool = False,
    chunk: int | None = None,
    token_budget: int | None = None,
) -> tuple[list[str], Any]:
    """Embed proteins; returns their names and embeddings, in the order given.

    sequences: an iterable of sequences, whose names are then "0", "1", ...; of pairs ``(name, sequence)``; or of
        Biopython's SeqRecords; a mapping ``{name: sequence}``; or the path of a FASTA file (``-``: standard
        input). A sequence is a string or Biopython's Seq or SeqRecord.
    model, precision, weights, device: as for `load_esm2_model`; ``auto`` is FP16 on a GPU, FP32 on the CPU.
    pool, layers, max_length, dedupe, chunk, token_budget: see `Options`; with `chunk` the sequences are DNA, and
        the names are those of the fragments' frames.
    long: as ``window:1022:256``: longer proteins are embedded whole, in windows of 1,022 residues that overlap by
        256, see `Window`, and `max_length` is not to be given.

    A protein of more than `max_length` residues (1022, as fair-esm's extraction) is cut to them, and a warning
    names it. In a process that was forked a CPU works, and PyTorch refuses a GPU: use the start method spawn.

    The embeddings are a float32 array ``[N, D]``, or with several layers ``[N, layers, D]``; with
    ``pool="residue"`` a list of N arrays ``[residues, D]``.
    Raises TypeError for any other sequences; FastaError, which is a ValueError, for a file that cannot be read and
    for what `virnucpro embed` would skip: an empty sequence, an unknown letter, DNA without an open reading frame,
    two of one name; else as `load_esm2_model` and `AsyncInferenceRunner`.
    """
    chosen = (layers,) if isinstance(layers, int) else tuple(layers)
    window = None if long is None else Window.parse(long)
    if window is not None and max_length == Options.max_length:
        max_length = None
    options = Options(
        *(pool, chosen, max_length, chunk),
        token_budget=token_budget,
        strict=True,
        long=window,
        dedupe=dedupe,
    )
    return beside_a_fork(lambda: embed_now(sequences, model, precision, weights, device, options))


def embed_now(
    sequences: Any,
    model: str,
    precision: str,
    weights: str | os.PathLike[str],
    device: str | torch.device | None,
    options: Options,
) -> tuple[list[str], Any]:
    """As `embed`, in this thread."""
    if precision == "auto":
        precision = recommended_precision(device)
    with contextlib.ExitStack() as opened:
        # A mistake in what is given is told before the model is loaded
        records: Iterable[tuple[str, str]]
        if isinstance(sequences, str | os.PathLike):
            records = opened.enter_context(Fasta(existing(sequences)))
        else:
            records = named(sequences)
            if isinstance(sequences, Sized):
                records = list(records)
        loaded, _ = load_esm2_model(model, device, precision=precision, weights=weights)
        return embedded(records, loaded, options)


def embedded(records: Iterable[tuple[str, str]], model: ESM2, options: Options) -> tuple[list[str], Any]:
    """Names and embeddings of the records' proteins, as `embed` returns them."""
    names: list[str] = []
    parts: list[np.ndarray] = []
    shape = shape_of_row(model, options)
    reader = ProteinReader(records, options.max_length, options.chunk, options.strict)
    budget = options.token_budget or budget_of(model)
    runner = in_parts(runner_for(model, options, pinned=False), options, budget)
    with ReadAhead(packs_of(reader, options, budget, shape), PACKS_AHEAD) as packs:
        for result in runner.run(packs):
            names += result.sequence_ids
            rows = result.embeddings.numpy().reshape(-1, *shape)
            parts += np.split(rows, np.cumsum(result.residues)[:-1]) if options.pool == "residue" else [rows]
    warn_of_cuts(reader.truncated, options)
    if options.pool == "residue":
        return names, parts
    return names, np.concatenate(parts) if parts else np.empty((0, *shape), dtype=np.float32)


def warn_of_cuts(truncated: Tally, options: Options) -> None:
    """Tell which proteins were cut, as the command does."""
    if truncated.count:
        more = ", ..." if truncated.count > len(truncated.names) else ""
        logger.warning(
            "cut to %d residues: %s (%s%s); max_length=None embeds all of them",
            *(options.max_length, f"{truncated.count:,}", ", ".join(truncated.names), more),
        )


Result = TypeVar("Result")


def beside_a_fork(work: Callable[[], Result]) -> Result:
    """Do `work`; where this thread came out of a fork, in another one; see `forking`."""
    if not came_out_of_a_fork():
        return work()
    result = Future[Result]()

    def do() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=do, name="embed", daemon=True).start()
    return result.result()


def existing(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path; a string that is none gets an error that tells what it may have been meant to be."""
    if isinstance(path, str) and path != "-" and not exists(path):
        shown = path if len(path) <= 40 else f"{path[:40]}..."
        raise FastaError(
            f"there is no file {shown!r}; to embed one sequence, give it in a list: embed([{shown!r}])"
        )
    return path


def exists(path: str) -> bool:
    """Whether there is such a file; a protein is often too long to be a name of one."""
    try:
        return bool(path) and Path(path).exists()
    except OSError:
        return False


def named(sequences: Any) -> Iterator[tuple[str, str]]:
    """``(name, sequence)`` of everything that `embed` takes but files; TypeError for what it does not take."""
    if is_seq(sequences) or is_record(sequences):
        raise TypeError(f"one {type(sequences).__name__} is no collection: give it in a list; {ACCEPTED}")
    if isinstance(sequences, bytes | bytearray | io.IOBase):
        raise TypeError(f"{ACCEPTED}, and not {type(sequences).__name__}: give text, or the file's path")
    if isinstance(sequences, set | frozenset):
        raise TypeError(f"a set has no order: give a list; {ACCEPTED}")
    if isinstance(sequences, Mapping) or (hasattr(sequences, "keys") and hasattr(sequences, "items")):
        return ((str(name), text_of(sequence, name)) for name, sequence in sequences.items())
    if not isinstance(sequences, Iterable):
        raise TypeError(f"{ACCEPTED}, and not {type(sequences).__name__}")
    return (named_item(number, item) for number, item in enumerate(sequences))


def named_item(number: int, item: Any) -> tuple[str, str]:
    """``(name, sequence)`` of one of many, the one with this number."""
    if isinstance(item, str) or is_seq(item):
        return str(number), text_of(item, number)
    if is_record(item):
        return str(item.id), text_of(item, number)
    if isinstance(item, Sequence) and not isinstance(item, bytes | bytearray) and len(item) == 2:
        name, sequence = item
        if isinstance(name, str | int):
            return str(name), text_of(sequence, name)
    raise TypeError(f"{ACCEPTED}; item {number} is {shown(item)}")


def text_of(sequence: Any, name: Any) -> str:
    """A sequence as a string."""
    if is_record(sequence):
        sequence = sequence.seq
    if isinstance(sequence, str) or is_seq(sequence):
        return str(sequence)
    raise TypeError(f"{ACCEPTED}; the sequence of {name!r} is {shown(sequence)}")


def is_record(value: Any) -> bool:
    """Whether it is a SeqRecord, or like one."""
    return hasattr(value, "seq") and hasattr(value, "id")


def is_seq(value: Any) -> bool:
    """Whether it is a Biopython Seq, or like one: text that knows its translation."""
    return hasattr(value, "reverse_complement") and hasattr(value, "translate") and not is_record(value)


def shown(value: Any) -> str:
    """A value for an error message."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:40] + '...'}"
