"""Rows of several workers, copied into the output in the order of the input while the workers still compute.

At the end HDF5 only puts its own around them. Copying all of them then keeps the GPUs waiting: 5 to 7 s after 100
million tokens of 650M on two H100s, or a twentieth of the run.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from virnucpro.store.disk import AppendFile, delete, free_bytes, open_to_read
from virnucpro.store.errors import StoreError
from virnucpro.store.rows import rows_of
from virnucpro.store.segments import ROWS, StoredPack, rows_file

POLL_SECONDS = 0.2
SYNC_BYTES = 2**28  # copied before they are put on disk
ROOM = 2**30  # bytes left to the workers, whose rows come first

logger = logging.getLogger(__name__)


class RowsAhead:
    """Copies the rows of packs to `path`, a `rows_file`, in a thread. `row_bytes`: of a row.

    A copy that cannot be made is given up and deleted; then all rows are copied at the end.
    """

    def __init__(self, path: Path, row_bytes: int):
        self._path, self._row_bytes = path, row_bytes
        self._rows = 0
        self._packs: queue.SimpleQueue[StoredPack | None] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rows ahead", daemon=True)
        self._thread.start()

    def add(self, pack: StoredPack) -> None:
        """This pack is on disk. Packs come in any order, and are copied in that of their numbers."""
        if not self._given_up.is_set():
            self._packs.put(pack)

    def finish(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Wait until what was added is copied and on disk; how many rows of the first packs that is.

        When `stop` is true the copy is given up, and that is 0.
        """
        self._packs.put(None)
        while self._thread.is_alive():
            self._thread.join(POLL_SECONDS)
            if stop():
                self._given_up.set()
        return 0 if self._given_up.is_set() else self._rows

    def close(self) -> None:
        """Stop, and delete the file if it is still there."""
        self._given_up.set()
        self.finish()
        with contextlib.suppress(OSError):
            delete(self._path)

    def _work(self) -> None:
        try:
            delete(self._path)
            with contextlib.closing(rows_file(self._path)) as file, ThreadPoolExecutor(1) as syncing:
                self._copy_packs(file, syncing)
                file.sync()
        except Exception as error:  # whatever it is, the rows are where they were
            if not self._given_up.is_set():
                logger.info("rows are not put in order while workers compute, but at the end: %s", error)
            self._given_up.set()
            with contextlib.suppress(OSError):
                delete(self._path)

    def _copy_packs(self, file: AppendFile, syncing: ThreadPoolExecutor) -> None:
        waiting: dict[int, StoredPack] = {}
        following = since_sync = 0
        sync: Future[None] | None = None
        while (pack := self._packs.get()) is not None:
            if pack.number >= following:
                waiting[pack.number] = pack
            while following in waiting:
                pack = waiting.pop(following)
                self._copy(pack, file)
                following, since_sync = following + 1, since_sync + pack.rows_size
                if since_sync >= SYNC_BYTES:  # while the next are copied
                    if sync is not None:
                        sync.result()
                    sync, since_sync = syncing.submit(file.sync), 0
        if sync is not None:
            sync.result()

    def _copy(self, pack: StoredPack, file: AppendFile) -> None:
        rows = open_to_read(pack.segment / ROWS)
        try:
            for values in rows_of(rows, pack, self._row_bytes):
                if self._given_up.is_set():
                    raise StoreError("stopped")
                if free_bytes(self._path.parent) < ROOM:
                    raise StoreError(f"less than {ROOM:,} bytes would be left to the workers' files")
                file.append(values)
        finally:
            os.close(rows)
        self._rows += pack.rows
