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

from virnucpro.data.packing import Pack
from virnucpro.pipeline.async_inference import InferenceResult
from virnucpro.pipeline.input import Numbered
from virnucpro.store.segments import EncodedPack, SegmentWriter, StoredPack

logger = logging.getLogger(__name__)

PACKS_AHEAD = 4  # read, tokenised and packed while the device computes
RESULTS_BEHIND = 4  # computed and not yet written
COMMIT_SECONDS = 2.0  # between two commits: with the batches in flight, what a crash costs
COMMIT_BYTES = 2**28  # of rows, which are committed sooner: little is left for the end

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
    """Writes results to a run's files in threads of its own, and commits now and then, and at the end.

    Packs are encoded several at a time, written one after the other, and put on disk while the next are written.
    `on_disk` is called with what was committed. What fails there first is raised by a later call, or at the end;
    where something else is raised already, it is logged. `on_failure` is called with it at once. Use as a context
    manager, unless what is left at the end counts for nothing.
    """

    def __init__(
        self,
        writer: SegmentWriter,
        on_disk: Callable[[list[StoredPack]], None],
        on_failure: Callable[[BaseException], None] = lambda failure: None,
    ):
        self._writer, self._on_disk, self._on_failure = writer, on_disk, on_failure
        self._encoding, self._writing, self._syncing = map(ThreadPoolExecutor, (RESULTS_BEHIND, 1, 1))
        self._pending: deque[Future[None]] = deque()
        self._commits: deque[Future[None]] = deque()  # one at most is not done
        self._committed, self._bytes = time.monotonic(), 0
        self._failure: BaseException | None = None

    def __call__(self, result: InferenceResult, each: Numbered, commit: bool = False) -> None:
        """Write a pack's result; waits while `RESULTS_BEHIND` others are not written yet.

        `commit`: when it is written, and do not wait for more.
        """
        if len(self._pending) == RESULTS_BEHIND:
            self._pending.popleft().result()
        encoded = self._encoding.submit(self._encode, result, each)
        self._pending.append(self._writing.submit(self._or_fail, self._write, encoded, commit))

    def _encode(self, result: InferenceResult, each: Numbered) -> EncodedPack:
        skipped = [each.begins + at for at in result.skipped]
        rows = result.embeddings.numpy()
        return self._writer.encode(each.number, result.sequence_ids, result.residues, rows, each.digest, skipped)

    def _write(self, encoded: Future[EncodedPack], commit: bool) -> None:
        if self._failure is not None:  # what came after a batch that is missing would be misplaced
            raise self._failure
        pack = encoded.result()
        self._writer.write(pack)
        self._bytes += pack.values.nbytes
        if commit or self._bytes >= COMMIT_BYTES or time.monotonic() - self._committed >= COMMIT_SECONDS:
            while self._commits:  # else a slow disk would fall behind ever further
                self._commits.popleft().result()
            self._commits.append(self._syncing.submit(self._or_fail, self._commit, self._writer.take()))
            self._committed, self._bytes = time.monotonic(), 0

    def _commit(self, packs: list[StoredPack]) -> None:
        self._on_disk(self._writer.commit(packs))

    def _left(self) -> Iterator[Callable[[], None]]:
        """What is to be waited for at the end, in this order: the last write may begin a commit."""
        yield from (pending.result for pending in self._pending)
        yield from (commit.result for commit in self._commits)
        yield lambda: self._commit(self._writer.take())

    def _or_fail(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as failure:
            if self._failure is None:
                self._failure = failure
                self._on_failure(failure)
            raise

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        failures = []
        try:
            for finish in self._left():
                try:
                    finish()
                except Exception as failure:  # in order: the first is the cause of the others
                    failures.append(failure)
        finally:
            for threads in (self._encoding, self._writing, self._syncing):
                threads.shutdown()
            self._writer.close()
        if failures and error is None:
            raise failures[0]
        if failures and error is not failures[0]:
            logger.warning("%s", failures[0])
