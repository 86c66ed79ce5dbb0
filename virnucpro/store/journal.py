"""Rows that survive a crash: a folder of plain files and a journal, until the output is complete.

HDF5 does not survive being killed while it writes. So rows are first appended to plain files in the folder
``OUT.h5.partial``, and a journal there says how much of them is safely on disk. What was written after its last
line is cut off when the run is resumed. At the end the rows are copied into a file there, which is then moved to
its place. After a write that failed nothing is committed any more: Linux reports pages that it could not write
once, and then takes them for written.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.committed import Committed, Rows, read_journal
from virnucpro.store.disk import AppendFile, amount, free_bytes, is_full, reason_of, sync, write_safely
from virnucpro.store.errors import StoreError, WriteError
from virnucpro.store.place import check_folder, folder_of, place_of
from virnucpro.store.sealed import checked, sealed
from virnucpro.store.unfinished import (
    JOURNAL,
    LOCK,
    OURS,
    ROWS,
    SETTINGS,
    begun_settings,
    check_same,
    has_work,
    remove,
    remove_rows,
)
from virnucpro.store.whole import beside, write_whole

logger = logging.getLogger(__name__)

LEAST_BYTES = 2**15  # for the folder, the settings, and what HDF5 has beside the datasets
BYTES_OF_A_NAME = 40  # beside its letters, in HDF5: a reference, and a header and padding in the heap

_failed: dict[Path, StoreError] = {}
"""Folders in which a write of this process failed: the kernel may take what is lost for written."""


class Partial:
    """The rows of an unfinished run. Use as a context manager: a second process is kept out until it is closed.

    `settings`: all that decides what the rows are, for JSON. `row_size`: values in a row of embeddings; `dtype`:
    their type. `committed`: what an earlier run left; `append` adds after it. `is_folder`: the output is one.
    Raises StoreError where the folder cannot be written, another process has it, a write to it failed in this
    process, or, with `resume`, where it was begun with other settings or lacks rows that it had.
    After the first write that fails every method that writes raises that WriteError again. A folder in which
    nothing was committed is removed in the end.
    """

    def __init__(
        self,
        output: Path,
        settings: dict[str, Any],
        row_size: int,
        dtype: str,
        resume: bool,
        is_folder: bool = False,
    ):
        self.output, self._is_folder = place_of(output, is_folder), is_folder
        self.folder, self.settings = folder_of(self.output), settings
        self.row_size, self.dtype = row_size, np.dtype(dtype)
        self.committed = Committed()
        self._on_disk = self.committed
        self._files: dict[str, AppendFile] = {}
        self._failure: StoreError | None = None
        self._ours = False  # what is in the folder
        self._lock: int | None = None
        if self.folder in _failed:
            raise WriteError(
                f"{_failed[self.folder]}; after that nothing more is written to {self.folder} by this process: "
                "start another one"
            )
        check_folder(self.output, OURS)
        try:
            self._begin(resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, resume: bool) -> None:
        with self._writing():
            with contextlib.suppress(FileExistsError):
                self.folder.mkdir()
                self._ours = True
            self._take_lock()
            begun = begun_settings(self.output) if resume else None
            if begun is None:
                if resume and has_work(self.folder):
                    logger.warning("%s is damaged: nothing of it can be continued", self.folder / JOURNAL)
                self._ours = True
                remove_rows(self.folder)
                write_safely(self.folder / SETTINGS, sealed(self.settings))
            else:
                check_same(begun, self.settings, f"{self.folder} was begun")
                self.committed, torn = read_journal(self.folder / JOURNAL)
                if torn:
                    logger.warning(
                        "%s has damaged lines (%d), as a crash leaves them: going on after the %s sequences that "
                        "the last whole one counts",
                        *(self.folder / JOURNAL, torn, f"{self.committed.taken:,}"),
                    )
                self._on_disk = self.committed
            for name in (*ROWS, JOURNAL):
                self._files[name] = AppendFile(self.folder / name)
            sync(self.folder)
            sync(self.folder.parent)
            for name, size in self._sizes(self.committed).items():
                if self._files[name].size() < size:
                    raise StoreError(f"{self.folder / name} has lost rows that it had: begin anew with --force")
                self._files[name].cut(size)

    def _take_lock(self) -> None:
        path = self.folder / LOCK
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        busy = StoreError(f"another process is writing {self.output}: wait for it, or name another file")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._ours = False
            raise busy from error
        except OSError as error:
            raise StoreError(f"cannot lock {self.folder}, as on some network drives: {error.strerror}") from error
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(self._lock)):
            self._ours = False  # its owner, or its next one, has just removed it
            raise busy

    def _sizes(self, committed: Committed) -> dict[str, int]:
        """Bytes that each file of rows has."""
        return {
            "names": committed.name_bytes,
            "lengths": 8 * committed.sequences,
            "embeddings": committed.rows * self.row_size * self.dtype.itemsize,
            "skipped": 8 * committed.skipped,
        }

    def size_of_copy(self, committed: Committed) -> int:
        """Bytes that the finished file needs at most."""
        offsets = 8 * (committed.sequences + 1)
        return LEAST_BYTES + sum(self._sizes(committed).values()) + BYTES_OF_A_NAME * committed.sequences + offsets

    def append(
        self,
        names: Sequence[str],
        lengths: Sequence[int],
        rows: np.ndarray,
        digest: str,
        skipped: Sequence[int] = (),
    ) -> None:
        """Add sequences in order: their names (without line ends), residues, and rows ``[n, row_size]``.

        `digest` is that of everything embedded so far, these included. `skipped`: places in the input of
        sequences among these that have no row.
        """
        encoded = "".join(f"{name}\n" for name in names).encode()
        after = Committed(
            sequences=self.committed.sequences + len(names),
            residues=self.committed.residues + sum(lengths),
            rows=self.committed.rows + len(rows),
            name_bytes=self.committed.name_bytes + len(encoded),
            digest=digest,
            skipped=self.committed.skipped + len(skipped),
        )
        values = np.ascontiguousarray(rows, dtype=self.dtype).reshape(-1).view(np.uint8)
        left = sum(self._sizes(after).values()) - sum(self._sizes(self.committed).values())
        with self._writing(left + self.size_of_copy(after)):
            self._files["names"].append(encoded)
            self._files["lengths"].append(np.asarray(lengths, dtype="<i8").tobytes())
            self._files["embeddings"].append(values)
            self._files["skipped"].append(np.asarray(skipped, dtype="<i8").tobytes())
        self.committed = after

    def commit(self) -> None:
        """Make sure that what was appended is on disk, and say so in the journal."""
        if self._failure is None and self._on_disk == self.committed:
            return
        with self._writing(self.size_of_copy(self.committed)):
            for name in ROWS:
                self._files[name].sync()
            # After a line end, because a crash can leave half a line
            self._files[JOURNAL].append(f"\n{checked(json.dumps(asdict(self.committed)))}\n".encode())
            self._files[JOURNAL].sync()
        self._on_disk = self.committed

    def finish(self, write: Callable[[Path, Rows], bool]) -> bool:
        """Have `write` make the file of the committed rows, move it to its place and remove the folder.

        `write` gets the path and the rows, and returns False where it was told to stop; so does this.
        """
        self.commit()
        rows = Rows(self.folder, self.committed, self.row_size, self.dtype)
        needed = self.size_of_copy(self.committed)
        kept = f"All embeddings are in {self.folder}: make room and run again with --resume"
        whole = beside(self.folder, self._is_folder)
        with self._writing(needed):
            if not write_whole(self.output, whole, lambda path: write(path, rows), needed, kept, self._is_folder):
                return False
        try:
            remove(self.folder)
        except OSError as error:
            logger.warning("%s is complete, but cannot remove %s: %s", self.output, self.folder, reason_of(error))
        return True

    def close(self) -> None:
        """Close the files and let other processes in. What was appended and not committed is lost."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # the journal does not count what was not written
                file.close()
        if self._ours and not self._on_disk.taken:
            with contextlib.suppress(OSError):
                remove(self.folder)
        if not self.folder.exists():
            _failed.pop(self.folder, None)  # what is made there later has other pages
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with contextlib.suppress(OSError):
                os.close(lock)

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self, needed: int = LEAST_BYTES) -> Iterator[None]:
        """Say of what fails inside where that was; and let nothing be written after it.

        `needed`: bytes that the disk must have free for this and all that follows, as far as that is known.
        """
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except StoreError as error:
            self._failure = error
            raise
        except (OSError, RuntimeError) as error:  # h5py raises both
            reason = reason_of(error)
            if is_full(error):
                with contextlib.suppress(OSError):
                    free = amount(free_bytes(self.output.parent))
                    reason += f": at least {amount(needed)} is needed, and {free} is free"
            self._failure = _failed[self.folder] = WriteError(
                f"cannot write {self.output} ({self.folder}): {reason}"
            )
            raise self._failure from error
        except BaseException:  # it may have come in the middle: what is written after half a row is misplaced
            self._failure = WriteError(f"writing {self.output} was interrupted: run again with --resume")
            raise
