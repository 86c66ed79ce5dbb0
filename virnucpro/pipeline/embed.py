"""From FASTA to embeddings: `embed_file` writes an HDF5 file, `embed` returns an array."""

import contextlib
import hashlib
import math
import os
import platform
import queue
import resource
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.data.intake import Intake
from virnucpro.data.packing import Pack, pack, token_budget
from virnucpro.data.store import (
    Committed,
    Embeddings,
    Partial,
    attribute,
    begun_settings,
    check_output,
    check_same,
    folder_of,
    remove,
)
from virnucpro.models.esm2 import ESM2
from virnucpro.models.esm2_flash import find_device, load_esm2_model
from virnucpro.pipeline.async_inference import POOLS, AsyncInferenceRunner, InferenceResult, layer_index

DTYPES = ("float32", "float16")
PACKS_AHEAD = 4  # read, tokenised and packed while the device computes
RESULTS_BEHIND = 4  # computed and not yet written
COMMIT_SECONDS = 2.0  # how much work a crash costs at most, beside the batches in flight
TENSOR_CORES = (7, 0)  # CUDA capability from which on FP16 is faster than FP32 in matrix products

Item = TypeVar("Item")


class Stopped(Exception):
    """The run was asked to stop, and what is computed is on disk."""


@dataclass(frozen=True)
class Options:
    """What is computed and kept of each sequence.

    `pool`: ``mean`` over the residues, ``bos`` or ``residue``, as for `AsyncInferenceRunner`. `layers` as fair-esm
    counts them: 0 to the number of layers, or from -1 down. `max_length`: residues embedded of a longer protein;
    None for all. `chunk`: None for proteins; for DNA the nucleotides of the fragments that are translated in six
    frames. `dtype` of the file: ``float32`` or ``float16``. `token_budget`: most tokens in a pack; None for what
    suits the device. `strict`: raise FastaError for a record that would be skipped.
    """

    pool: str = "mean"
    layers: tuple[int, ...] = (-1,)
    max_length: int | None = 1022
    chunk: int | None = None
    dtype: str = "float32"
    token_budget: int | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ValueError(f"unknown pool {self.pool!r}; choose from {', '.join(POOLS)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; choose from {', '.join(DTYPES)}")
        for name, value in {"max_length": self.max_length, "token_budget": self.token_budget}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: at least 1 is needed")
        if self.chunk is not None and self.chunk < 3:
            raise ValueError(f"chunk {self.chunk}: a codon has 3 nucleotides")
        if not self.layers:
            raise ValueError("no layers: name at least one")


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


class Layers(nn.Module):
    """A model whose representation is that of several layers side by side: ``[T, K D]``."""

    def __init__(self, model: ESM2, layers: Sequence[int]):
        super().__init__()
        self.model, self.layers = model, list(layers)
        self.num_layers, self.embed_dim = model.num_layers, len(layers) * model.embed_dim

    def forward_packed(
        self, input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int, repr_layers: Sequence[int]
    ) -> dict[str, dict[int, Tensor]]:
        """As ESM2's, but for whatever layer is asked for all are returned, side by side."""
        found = self.model.forward_packed(input_ids, cu_seqlens, max_seqlen, repr_layers=self.layers)
        together = torch.cat([found["representations"][layer] for layer in self.layers], dim=-1)
        return {"representations": {repr_layers[0]: together}}


def recommended_precision(device: str | torch.device | None = None) -> str:
    """FP16 on a GPU with tensor cores, FP32 elsewhere."""
    found = find_device(device)
    if found.type == "cuda" and torch.cuda.get_device_capability(found) >= TENSOR_CORES:
        return "fp16"
    return "fp32"


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
    intake = Intake(records, options.max_length, options.chunk, options.strict)
    with ReadAhead(pack(intake, options.token_budget or token_budget(model)), PACKS_AHEAD) as packs:
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
    options: Options = Options(),
    *,
    about: Mapping[str, Any] | None = None,
    command: str = "",
    resume: bool = False,
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Done], None] = lambda done: None,
) -> dict[str, Any]:
    """Embed a FASTA file into an HDF5 file (docs/embed.md has its layout); returns a summary, for JSON.

    about: what else decides the results and is kept with them, as the model's name. command: kept too.
    resume: continue an unfinished run of `output` where there is one. force: drop it, and replace `output`.
    stop: asked before each batch and while the file is written; when true, what is computed is put on disk and
        Stopped is raised. progress: called after each batch.

    Whatever is raised, what was computed before is kept for ``resume=True``: StoreError for the output, FastaError
    for the input, and what `AsyncInferenceRunner` raises.
    """
    output = Path(output)
    check_output(output, resume, force)
    begun = begun_settings(output) if resume else None
    complete = resume and begun is None and output.exists()
    settings = {**(about or {}), **settings_of(model, options, settings_in(output) if complete else begun or {})}
    runner, shape = runner_for(model, options), shape_of_row(model, options)
    intake = Intake(fasta, options.max_length, options.chunk, options.strict)
    done = Done()
    if complete:
        done.sequences, done.residues = check_complete(output, settings, intake)
        done.resumed = done.sequences
        remove(folder_of(output))  # what a run that was killed while it tidied up left
        return summary_of(done, settings, intake)
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])  # sums are split among threads, and their rounding follows
    with Partial(output, settings, math.prod(shape), options.dtype, resume) as partial:
        done.sequences, done.residues = partial.committed.sequences, partial.committed.residues
        done.resumed = done.sequences
        todo = remaining(pack(intake, settings["token_budget"]), partial.committed)
        with ReadAhead(todo, PACKS_AHEAD, stop) as packs, Writer(partial) as write:
            feed = Feed(packs, stop)
            for result in runner.run(feed):
                write(result, feed.digests.popleft())
                done.count(result.residues, fasta.fraction())
                progress(done)
        if feed.error:
            raise feed.error
        attributes = {**settings, "command": command, "input_digest": partial.committed.digest}
        attributes = {name: attribute(value) for name, value in attributes.items()}
        if stop() or not partial.finish(attributes, shape, options.pool == "residue", stop):
            raise Stopped
    return summary_of(done, settings, intake)


def remaining(packs: Iterable[Pack], before: Committed) -> Iterator[tuple[Pack, str]]:
    """The packs after those that an earlier run embedded, each with a digest of all the input up to its end.

    Raises FastaError where the input does not begin with what was embedded.
    """
    digest = hashlib.blake2b(digest_size=16)
    sequences = 0
    for each in packs:
        begins, sequences = sequences, sequences + len(each)
        digest.update("\n".join(each.sequence_ids).encode("utf-8", "surrogatepass"))
        digest.update(each.input_ids.numpy().astype(np.uint8).tobytes())
        if begins >= before.sequences:
            yield each, digest.hexdigest()
        elif sequences > before.sequences or (
            sequences == before.sequences and digest.hexdigest() != before.digest
        ):
            raise changed(before)
    if sequences < before.sequences:
        raise changed(before)


def changed(before: Committed) -> FastaError:
    """What to say where the input is not the one that was begun."""
    return FastaError(
        f"the input does not begin with the {before.sequences:,} sequences that were embedded: resume with the "
        "same input, or begin anew with --force"
    )


def settings_in(output: Path) -> dict[str, Any]:
    """The settings that a complete file was made with."""
    with Embeddings(output) as file:
        return file.settings


def check_complete(output: Path, settings: Mapping[str, Any], intake: Intake) -> tuple[int, int]:
    """How many sequences and residues `output` has; raises unless they are this input's, with these settings."""
    with Embeddings(output) as file:
        now = {name: attribute(value) for name, value in settings.items()}
        check_same({name: file.settings.get(name) for name in now}, now, f"{output} is complete and was made")
        before = Committed(len(file), int(file.lengths.sum()), digest=file.settings["input_digest"])
    for _ in remaining(pack(intake, settings["token_budget"]), before):
        raise changed(before)
    return before.sequences, before.residues


class Feed:
    """Packs for the runner until there are no more, `stop` says so, or reading fails, which `error` then holds.

    So the runner ends in order, and what it has begun is not lost. `digests` are those of the packs handed out.
    """

    def __init__(self, packs: Iterable[tuple[Pack, str]], stop: Callable[[], bool]):
        self._packs, self._stop = packs, stop
        self.digests: deque[str] = deque()
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Pack]:
        try:
            for each, digest in self._packs:
                if self._stop():
                    return
                self.digests.append(digest)
                yield each
        except Exception as error:
            self.error = error


class ReadAhead(Generic[Item]):
    """Iterates in a thread of its own, up to `most` items ahead. Use as a context manager.

    What the iteration raises is raised where its next item would come. When `stop` is true, waiting for an item
    ends the iteration: standard input may never bring one.
    """

    POLL_SECONDS = 0.1

    def __init__(self, items: Iterable[Item], most: int, stop: Callable[[], bool] = lambda: False):
        self._items, self._stop = items, stop
        self._queue: queue.Queue[tuple[bool, Any]] = queue.Queue(most)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="read ahead", daemon=True)

    def __enter__(self) -> Iterator[Item]:
        self._thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._put((True, item)):
                    return
            self._put((False, None))
        except BaseException as error:
            self._put((False, error))

    def _put(self, message: tuple[bool, Any]) -> bool:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(message, timeout=self.POLL_SECONDS)
                return True
        return False

    def _taken(self) -> Iterator[Item]:
        while True:
            try:
                is_item, value = self._queue.get(timeout=self.POLL_SECONDS)
            except queue.Empty:
                if self._stop():
                    return
                continue
            if not is_item:
                if value is not None:
                    raise value
                return
            yield value


class Writer:
    """Appends results to a `Partial` in a thread of its own, and commits now and then, and at the end.

    What fails there is raised by a later call, or at the end. Use as a context manager.
    """

    def __init__(self, partial: Partial):
        self._partial = partial
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._committed = time.monotonic()

    def __call__(self, result: InferenceResult, digest: str) -> None:
        """Write a result; waits while `RESULTS_BEHIND` others are not written yet."""
        if len(self._pending) == RESULTS_BEHIND:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, result, digest))

    def _write(self, result: InferenceResult, digest: str) -> None:
        rows = in_type(result, self._partial.dtype)
        self._partial.append(result.sequence_ids, result.residues, rows, digest)
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self._partial.commit()
            self._committed = time.monotonic()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown()
            self._partial.commit()


def in_type(result: InferenceResult, dtype: np.dtype) -> np.ndarray:
    """The embeddings in the file's type; ArithmeticError where that is too narrow."""
    with np.errstate(over="ignore"):
        rows = result.embeddings.numpy().astype(dtype, copy=False)
    if dtype != np.float32 and not np.isfinite(rows).all():
        raise ArithmeticError(
            f"an embedding of {result.sequence_ids[0]!r} or the {len(rows) - 1} rows after it has values that "
            f"{dtype} cannot hold: use --dtype float32"
        )
    return rows


def runner_for(model: ESM2, options: Options) -> AsyncInferenceRunner:
    """A runner that pools the layers of `options`, side by side where there are several."""
    layers = [layer_index(model, layer) for layer in options.layers]
    if len(layers) == 1:
        return AsyncInferenceRunner(model, pool=options.pool, layer=layers[0])
    return AsyncInferenceRunner(Layers(model, layers), pool=options.pool)


def shape_of_row(model: ESM2, options: Options) -> tuple[int, ...]:
    """``(D,)``, or ``(layers, D)`` for several layers."""
    count = len(options.layers)
    return (model.embed_dim,) if count == 1 else (count, model.embed_dim)


def settings_of(model: ESM2, options: Options, begun: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the bytes of the datasets, for JSON; what was found out when the run was begun is kept."""
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"
    return {
        "precision": model.precision,
        "weights_checksum": checksum(model),
        "pool": options.pool,
        "layers": [layer_index(model, layer) for layer in options.layers],
        "max_length": options.max_length,
        "chunk": options.chunk,
        "dtype": options.dtype,
        "token_budget": options.token_budget or int(begun.get("token_budget") or token_budget(model)),
        "device": device_name(device),
        "threads": int(begun.get("threads") or torch.get_num_threads()) if on_cpu else 0,
        **{name: version_of(name) for name in ("virnucpro", "torch", "fair-esm")},
    }


def checksum(model: nn.Module) -> str:
    """Of the parameters' bits: sums of integers, which are exact in any order and quick where the model is."""
    integers = {2: torch.int16, 4: torch.int32}
    sums = [
        parameter.detach().view(integers[parameter.element_size()]).sum(dtype=torch.int64)
        for _, parameter in sorted(model.named_parameters())
    ]
    return f"{zlib.crc32(repr(torch.stack(sums).tolist()).encode()):08x}"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's architecture and widest instructions, which the rounding depends on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def version_of(distribution: str) -> str:
    """The installed version; ``not installed`` for a program that runs from its source tree."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def summary_of(done: Done, settings: Mapping[str, Any], intake: Intake) -> dict[str, Any]:
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
        **intake.summary(),
        "settings": dict(settings),
    }
