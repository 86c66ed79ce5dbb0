"""What one worker of several does: load the model once, embed blocks of packs, and write their rows."""

import contextlib
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from virnucpro.data.packing import Pack, pack
from virnucpro.models.apart import Channels
from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
from virnucpro.pipeline.async_inference import AsyncInferenceRunner, InferenceResult
from virnucpro.pipeline.input import Numbered
from virnucpro.pipeline.options import Options, runner_for, shape_of_row
from virnucpro.pipeline.parts import Runner, in_parts
from virnucpro.pipeline.prefetch import BackgroundWriter
from virnucpro.pipeline.provenance import settings_of
from virnucpro.store.errors import StoreError
from virnucpro.store.run import PROOF
from virnucpro.store.segments import SegmentWriter, StoredPack

WARM_UP_RESIDUES = 254
PATIENCE = 0.05  # seconds; a GPU has longer to do with the packs in flight


@dataclass(frozen=True)
class CompactPack:
    """A pack to be sent, in an eighth of the bytes: `tokens` as uint8; the rest as of `Numbered` and its pack."""

    number: int
    begins: int
    digest: str
    names: list[str]
    tokens: np.ndarray
    cu_seqlens: np.ndarray


def compact(each: Numbered) -> CompactPack:
    """A pack to be sent."""
    tokens = each.pack.input_ids.numpy().astype(np.uint8)
    about = (each.number, each.begins, each.digest)
    return CompactPack(*about, each.pack.sequence_ids, tokens, each.pack.cu_seqlens.numpy())


def expand(sent: CompactPack) -> Numbered:
    """The pack that `compact` made this of."""
    longest = int(np.diff(sent.cu_seqlens).max(initial=0))
    tokens, ends = torch.from_numpy(sent.tokens.astype(np.int64)), torch.from_numpy(sent.cu_seqlens.copy())
    return Numbered(Pack(sent.names, tokens, ends, longest), sent.number, sent.begins, sent.digest)


class Engine(Protocol):
    """What embeds packs."""

    shape: tuple[int, ...]

    def settings(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides the bytes of the rows, as `provenance.settings_of`."""

    def start(self, settings: Mapping[str, Any]) -> None:
        """Take what was settled, and be ready to run at full speed."""

    def run(self, packs: Iterable[Pack]) -> Iterator[InferenceResult]:
        """As `AsyncInferenceRunner.run`."""


class ESM2Engine:
    """ESM-2 on this machine's GPU, or the CPU."""

    def __init__(self, plan: "Plan"):
        if plan.device == "cuda" and not torch.cuda.is_available():
            raise StoreError(
                f"the worker on {os.uname().nodename} was given a GPU that PyTorch does not see: check the driver "
                "and that its PyTorch is a CUDA build"
            )
        precision = recommended_precision(plan.device) if plan.precision == "auto" else plan.precision
        self._model, _ = load_esm2_model(
            plan.model,
            plan.device,
            precision=precision,
            weights=plan.weights,
            channels_apart=plan.channels_apart,
        )
        self._options = plan.options
        self._runner = runner_for(self._model, plan.options)
        self._in_parts: Runner = self._runner
        self.shape = shape_of_row(self._model, plan.options)

    def settings(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """See `Engine`."""
        return settings_of(self._model, self._options, begun)

    def start(self, settings: Mapping[str, Any]) -> None:
        """See `Engine`. A GPU's first pack takes seconds, in which libraries and kernels are loaded."""
        budget = settings["token_budget"]
        self._in_parts = in_parts(self._runner, self._options, budget)
        if settings["threads"]:
            torch.set_num_threads(settings["threads"])  # sums are split among threads, and their rounding follows
        if self._runner.device.type == "cuda":
            length = max(1, min(WARM_UP_RESIDUES, budget - 2))
            proteins = [("warm-up", "A" * length)] * max(1, budget // (length + 2))
            for _ in AsyncInferenceRunner(self._model, on_nan="skip").run(pack(proteins, budget)):
                pass

    def run(self, packs: Iterable[Pack]) -> Iterator[InferenceResult]:
        """See `Engine`."""
        return self._in_parts.run(packs)


@dataclass(frozen=True)
class Plan:
    """What the workers of a run do.

    `model`, `weights`, `precision`: as for `load_esm2_model`, or ``auto``. `device`: ``cuda`` or ``cpu``.
    `folder`: the run's; workers write under `segments`, and find `proof` there if they share it. `engine` makes
    what embeds. `channels_apart`: as for `load_esm2_model`.
    """

    model: str
    weights: str
    precision: str
    device: str
    options: Options
    folder: Path
    segments: Path
    proof: str
    engine: Callable[["Plan"], Engine] = ESM2Engine
    channels_apart: Channels | None = None


@dataclass(frozen=True)
class BlockDone:
    """What a worker did of a block: sequences and residues embedded, names left out, and the packs on disk."""

    sequences: int
    residues: int
    not_finite: list[str]
    packs: list[StoredPack]


class _Block:
    """A block that is being embedded; `left`: packs of it that are not embedded yet."""

    def __init__(self, size: int):
        self.size = self.left = size
        self.sequences = self.residues = 0
        self.not_finite: list[str] = []
        self.packs: list[StoredPack] = []
        self.done: Future[BlockDone] = Future()

    def embedded(self, result: InferenceResult) -> None:
        """A pack more is embedded."""
        self.sequences += len(result.sequence_ids)
        self.residues += sum(result.residues)
        self.not_finite += result.skipped.values()
        self.left -= 1

    def on_disk(self, pack: StoredPack) -> None:
        """A pack more is on disk."""
        self.packs.append(pack)
        if len(self.packs) == self.size:
            self.done.set_result(BlockDone(self.sequences, self.residues, self.not_finite, self.packs))


class Worker:
    """Embeds blocks of packs, one after the other without a gap, and commits each.

    `embed` may be called in several threads: while a block is computed the next is received, and the last one is
    put on disk.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._check_folder()
        began = time.perf_counter()
        self._engine = plan.engine(plan)
        self.loading_seconds = time.perf_counter() - began

    def _check_folder(self) -> None:
        try:
            shared = (self._plan.folder / PROOF).read_text() == self._plan.proof
        except OSError:
            shared = False
        if not shared:
            raise StoreError(
                f"the worker on {os.uname().nodename} does not see {self._plan.folder}: name an output on storage "
                "that all nodes share, at the same path"
            )

    def about(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """Where it runs, and the settings that it would have for a run that was begun with `begun`."""
        return {
            "host": os.uname().nodename,
            "process": os.getpid(),
            "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "") if self._plan.device == "cuda" else "",
            "loading_seconds": round(self.loading_seconds, 3),
            "shape": self._engine.shape,
            "settings": self._engine.settings(begun),
        }

    def start(self, settings: Mapping[str, Any]) -> None:
        """Take the run's settings; returns when the engine is ready for `embed`."""
        self._settings = dict(settings)
        folder = self._plan.segments / f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex}"
        self._write = BackgroundWriter(SegmentWriter(folder, self._plan.options.dtype), self._on_disk, self._fail)
        self._adding = threading.Lock()
        self._error: BaseException | None = None
        self._waiting: set[Future[BlockDone]] = set()
        self._packs: queue.SimpleQueue[tuple[Numbered, _Block]] = queue.SimpleQueue()
        self._begun: deque[tuple[Numbered, _Block]] = deque()
        self._written: dict[int, _Block] = {}  # by the numbers of packs that are not on disk yet
        self._ready = Future[None]()
        threading.Thread(target=self._or_fail, name="compute", daemon=True).start()
        self._ready.result()

    def embed(self, packs: Sequence[CompactPack]) -> BlockDone:
        """Embed a block of packs and put its rows on disk.

        Raises what embedding or writing, of whichever block, raised.
        """
        block = _Block(len(packs))
        with self._adding:
            if self._error is not None:
                raise self._error
            self._waiting.add(block.done)
            block.done.add_done_callback(self._waiting.discard)
            for each in packs:
                self._packs.put((expand(each), block))
        return block.done.result()

    def _compute(self) -> None:
        try:
            self._engine.start(self._settings)
        except BaseException as error:
            self._ready.set_exception(error)
            raise
        self._ready.set_result(None)
        while True:
            first = self._packs.get()
            for result in self._engine.run(self._taken(first)):
                each, block = self._begun.popleft()
                block.embedded(result)
                self._written[each.number] = block
                self._write(result, each, commit=not block.left)

    def _taken(self, first: tuple[Numbered, _Block]) -> Iterator[Pack]:
        """Packs until none comes: the engine holds some results back until it gets more, or there are no more."""
        each = first
        while True:
            self._begun.append(each)
            yield each[0].pack
            try:
                each = self._packs.get(timeout=PATIENCE)
            except queue.Empty:
                return

    def _on_disk(self, packs: list[StoredPack]) -> None:
        for each in packs:
            self._written.pop(each.number).on_disk(each)

    def _or_fail(self) -> None:
        try:
            self._compute()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Have the error raised by all calls of `embed`."""
        with self._adding:
            self._error = self._error or error
            for each in list(self._waiting):
                with contextlib.suppress(InvalidStateError):  # just now it was put on disk
                    each.set_exception(self._error)
