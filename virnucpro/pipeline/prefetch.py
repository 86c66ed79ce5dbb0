"""Reading ahead of the device and writing behind it, in threads of their own."""

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from virnucpro.data.packing import Pack
from virnucpro.errors import UserError
from virnucpro.names import shown
from virnucpro.pipeline.async_inference import InferenceResult
from virnucpro.pipeline.input import Numbered
from virnucpro.store.segments import SegmentWriter, StoredPack

logger = logging.getLogger(__name__)

PACKS_AHEAD = 4  # read, tokenised and packed while the device computes
RESULTS_BEHIND = 4  # computed and not yet written
COMMIT_SECONDS = 2.0  # how much work a crash costs at most, beside the batches in flight

Item = TypeVar("Item")


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


class InterruptiblePacks:
    """Packs for the runner until there are no more, `stop` says so, or reading fails, which `error` then holds.

    So the runner ends in order, and what it has begun is not lost. `begun` are the packs handed out.
    """

    def __init__(self, packs: Iterable[Numbered], stop: Callable[[], bool]):
        self._packs, self._stop = packs, stop
        self.begun: deque[Numbered] = deque()
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Pack]:
        try:
            for each in self._packs:
                if self._stop():
                    return
                self.begun.append(each)
                yield each.pack
        except Exception as error:
            self.error = error


class BackgroundWriter:
    """Appends results to a run's files in a thread of its own, and commits now and then, and at the end.

    `on_disk` is called with what was committed. What fails there first is raised by a later call, or at the end;
    where something else is raised already, it is logged. Use as a context manager.
    """

    def __init__(self, writer: SegmentWriter, on_disk: Callable[[list[StoredPack]], None]):
        self._writer, self._on_disk = writer, on_disk
        self._pool = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()
        self._committed = time.monotonic()
        self._failure: BaseException | None = None

    def __call__(self, result: InferenceResult, each: Numbered) -> None:
        """Write a pack's result; waits while `RESULTS_BEHIND` others are not written yet."""
        if len(self._pending) == RESULTS_BEHIND:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._write, result, each))

    def _write(self, result: InferenceResult, each: Numbered) -> None:
        if self._failure is not None:  # what came after a batch that is missing would be misplaced
            raise self._failure
        try:
            append(self._writer, result, each)
            if time.monotonic() - self._committed >= COMMIT_SECONDS:
                self._commit()
                self._committed = time.monotonic()
        except BaseException as failure:
            self._failure = failure
            raise

    def _commit(self) -> None:
        self._on_disk(self._writer.commit())

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failures = []
        try:
            for finish in (*(pending.result for pending in self._pending), self._commit):
                try:
                    finish()
                except Exception as failure:  # in order: the first is the cause of the others
                    failures.append(failure)
        finally:
            self._pool.shutdown()
            self._writer.close()
        if failures and error is None:
            raise failures[0]
        if failures and error is not failures[0]:
            logger.warning("%s", failures[0])


def append(writer: SegmentWriter, result: InferenceResult, each: Numbered) -> None:
    """Write the result of a pack."""
    skipped = [each.begins + at for at in result.skipped]
    rows = in_type(result, writer.dtype)
    writer.append(each.number, result.sequence_ids, result.residues, rows, each.digest, skipped)


class TooNarrowError(UserError, ArithmeticError):
    """The file's type cannot hold an embedding."""

    resume_helps = False  # it would be computed again


def in_type(result: InferenceResult, dtype: np.dtype) -> np.ndarray:
    """The embeddings in the file's type; ArithmeticError where that is too narrow."""
    values = result.embeddings.numpy()
    with np.errstate(over="ignore"):
        rows = values.astype(dtype, copy=False)
    if dtype != np.float32 and not np.isfinite(rows).all():
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        a_row_each = len(rows) == len(result.sequence_ids)
        ends = np.arange(1, len(rows) + 1) if a_row_each else np.cumsum(result.residues)
        found = np.unique(np.searchsorted(ends, wrong, side="right"))
        name = result.sequence_ids[int(found[0])]
        more = f" (and {len(found) - 1} more of its batch)" if len(found) > 1 else ""
        largest = float(np.abs(values[wrong[0]]).max())
        raise TooNarrowError(
            f"the embedding of {shown(name)!r}{more} has values up to {largest:,.0f}, which {dtype} cannot hold: "
            "use --dtype float32 and --force"
        )
    return rows
