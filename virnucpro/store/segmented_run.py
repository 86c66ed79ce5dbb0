"""The folder of a run of several workers, from its settings to the output in its place."""

import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from virnucpro.store.ahead import RowsAhead
from virnucpro.store.disk import reason_of, sync, write_safely
from virnucpro.store.sealed import sealed
from virnucpro.store.segments import Block, SegmentRows, read_index
from virnucpro.store.staging import Staging, size_of
from virnucpro.store.unfinished import (
    PROOF,
    SEGMENTS,
    SETTINGS,
    begun_settings,
    has_segments,
    remove,
    remove_rows,
)

RUN = "run"
"""The setting that tells a run from one that was begun anew with --force: no worker of an earlier one counts."""

logger = logging.getLogger(__name__)


class SegmentedRun:
    """The folder of an unfinished run of several workers. Use as a context manager: other processes are kept out.

    `begun`: the settings that it was begun with, None where it is new. `blocks`: those on disk, by number.
    `segments`: where each worker makes a folder of its own. `proof`: what a worker that sees the folder can read
    there. A folder in which nothing was committed is removed in the end.
    Raises StoreError where the folder cannot be written or another process has it.
    """

    def __init__(self, output: Path, resume: bool, is_folder: bool = False):
        self.output, self._staging = output, Staging(output, is_folder)
        self.folder = self._staging.folder
        self.blocks: dict[int, Block] = {}
        self._ahead: RowsAhead | None = None
        try:
            self.begun = begun_settings(output) if resume else None
            self._run = (self.begun or {}).get(RUN) or uuid.uuid4().hex
            self.segments = self.folder / SEGMENTS / self._run
            self.proof = uuid.uuid4().hex
            with self._staging.writing():
                if self.begun is None:
                    remove_rows(self.folder)
                self.segments.mkdir(parents=True, exist_ok=True)
                write_safely(self.folder / PROOF, self.proof)
        except BaseException:
            self._staging.close()
            raise

    def begin(self, settings: Mapping[str, Any]) -> dict[int, Block]:
        """Record the settings; returns what earlier workers left."""
        with self._staging.writing():
            write_safely(self.folder / SETTINGS, sealed({**settings, RUN: self._run}))
            sync(self.folder)
            sync(self.folder.parent)
        self.blocks = read_index(self.segments)
        return dict(self.blocks)

    def copy_ahead(self, row_bytes: int) -> None:
        """Copy the blocks, of rows of so many bytes, to where HDF5 will have them, each as soon as it is there."""
        self._ahead = RowsAhead(self._staging.whole, row_bytes)
        for number, block in self.blocks.items():
            self._ahead.add(number, block)

    def add(self, number: int, block: Block) -> None:
        """This block is on disk, and counts: another worker's of this number does not."""
        self.blocks[number] = block
        if self._ahead is not None:
            self._ahead.add(number, block)

    def finish(
        self, rows: SegmentRows, write: Callable[[Path, bool], bool], stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Have `write` make the output of `rows`, move it to its place and remove the folder.

        `write` gets the path, and whether the rows are there already, from `ahead.ROWS_AT` on; it returns False
        where it was told to stop, and so does this.
        """
        copied = self._ahead is not None and self._ahead.finish(stop) == rows.committed.rows > 0
        needed = size_of(rows) - (rows.committed.rows * rows.row_size * rows.dtype.itemsize if copied else 0)
        kept = f"All embeddings are in {self.folder}: make room and run again with --resume"
        if not self._staging.finish(lambda path: write(path, copied), needed, kept, copied):
            return False
        self._ahead = None
        try:
            remove(self.folder)
        except OSError as error:  # a worker that is just ending may have a file open
            logger.warning("%s is complete, but cannot remove %s: %s", self.output, self.folder, reason_of(error))
        return True

    def __enter__(self) -> "SegmentedRun":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        if not has_segments(self.folder):
            with contextlib.suppress(OSError):  # a worker cut off from its driver may still write
                remove(self.folder)
        self._staging.close()
