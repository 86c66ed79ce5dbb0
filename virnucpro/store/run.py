"""The folder of an unfinished run, ``OUT.h5.partial``: its lock, what is in it, and the output made of it.

An output is written in the folder and moved to its place when it is whole and on disk.
"""

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from virnucpro.store.ahead import RowsAhead
from virnucpro.store.disk import (
    NEW,
    REPLACED,
    amount,
    delete,
    free_bytes,
    is_at,
    lock,
    move_into_place,
    reason_of,
    sync,
    sync_tree,
    write_safely,
)
from virnucpro.store.errors import LostError, StoreError, WriteError, damaged
from virnucpro.store.journal import sealed, unsealed
from virnucpro.store.place import Named, check_apart, check_folder, folder_of, place_of
from virnucpro.store.rows import Rows, RowSource, bytes_of
from virnucpro.store.segments import (
    JOURNAL,
    LARGE,
    ROWS,
    Index,
    SegmentWriter,
    StoredPack,
    read_index,
    size_of_file,
)

SETTINGS, LOCK, PROOF = "settings.json", "lock", "shared"
FINISHED, FINISHED_FOLDER, SEGMENTS = "finished.h5", "finished.parquet", "segments"
OURS = (SETTINGS, SETTINGS + NEW, FINISHED, LOCK, PROOF, PROOF + NEW)
"""All files that a run leaves in its folder."""
OF_0_4 = ("journal", "names", "lengths", "embeddings", "skipped")
"""Files that a run of virnucpro 0.4.0 left beside these."""
OUR_FOLDERS = (FINISHED_FOLDER, SEGMENTS, REPLACED)

RUN = "run"
"""The setting that tells a run from one that was begun anew with --force: no worker of an earlier one counts."""
STORE = "store"
"""The setting that tells how rows are kept, and the version that is written."""
STORE_VERSION = 2

LEAST_BYTES = 2**15  # for what HDF5 has beside the datasets
BYTES_OF_A_NAME = 40  # beside its letters, in HDF5: a reference, and a header and padding in the heap
LOCK_TRIES = 1_000
MAKE_ROOM = "Make room and run again"

logger = logging.getLogger(__name__)


class BusyError(StoreError):
    """Another process is writing the output."""


def check_output(
    output: str | os.PathLike[str],
    resume: bool,
    force: bool,
    inputs: Collection[Named] = (),
    holds: Sequence[str] = (),
) -> Path:
    """Where a run may write; raises StoreError where it may not, before anything is spent on it.

    `inputs`: what the run reads, paths or open descriptors; the output is none of them, by no link. `holds`:
    what names the files have, where the output is a folder; see `place_of`.
    """
    place = place_of(output, holds)
    check_folder(place, (*OURS, *OF_0_4), OUR_FOLDERS)
    check_apart(place, inputs)
    if resume or force:
        return place
    folder = folder_of(place)
    if has_work(folder):
        raise StoreError(
            f"{folder} holds an unfinished run: continue it with --resume, or begin anew with --force"
        )
    if place.exists():
        raise StoreError(
            f"{place} exists: give another name, or --force to replace it when the new one is complete"
        )
    return place


def has_work(folder: Path) -> bool:
    """Whether a run left something there that could be continued, by this version or an older one."""
    if not (folder / SETTINGS).exists():
        return False
    return bool(size_of_file(folder / JOURNAL)) or has_segments(folder)


def has_segments(folder: Path) -> bool:
    """Whether a worker of a run committed something there."""
    return any(size_of_file(path) for path in (folder / SEGMENTS).glob(f"*/*/{JOURNAL}"))


def begun_settings(output: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The settings of the unfinished run of `output`; None where there is none that could be continued.

    Raises StoreError where there are rows and what they are is not known any more, or an older version wrote them.
    """
    folder = folder_of(output)
    try:
        if not has_work(folder):
            return None
        settings = unsealed((folder / SETTINGS).read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {reason_of(error)}") from error
    if settings is None:
        raise damaged(folder / SETTINGS)
    if settings.get(STORE) != STORE_VERSION:
        raise StoreError(
            f"{folder} was begun by virnucpro 0.4.0 or older, which keeps rows in another way: finish it with "
            "that version, or begin anew with --force"
        )
    if not isinstance(settings.get(RUN), str) or not re.fullmatch("[0-9a-f]{32}", settings[RUN]):
        raise damaged(folder / SETTINGS, f"{settings.get(RUN)!r} is no name of a run")
    return settings


def remove(folder: Path) -> None:
    """Delete the folder of an unfinished run, which is locked, or at least what this program put there."""
    remove_rows(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds something of the user's, or was not there
        folder.rmdir()


def remove_rows(folder: Path) -> None:
    """Delete all but the lock; the settings first, because without them the rest counts for nothing."""
    for name in (*OURS, *OF_0_4):
        if name != LOCK:
            (folder / name).unlink(missing_ok=True)
    for name in OUR_FOLDERS:
        delete(folder / name)


def size_of(rows: RowSource) -> int:
    """Bytes that a file of these rows needs at most, beside the rows themselves."""
    done = rows.counts
    return LEAST_BYTES + done.name_bytes + (BYTES_OF_A_NAME + 32) * done.sequences + 8 * done.skipped


class OutputFolder:
    """The folder beside an output, locked. Use as a context manager: other processes are kept out until it ends.

    `may_replace`: what is there, an output or an unfinished run's rows.
    Raises StoreError where the folder cannot be written or another process has it.
    """

    def __init__(self, output: Path, holds: Sequence[str] = (), may_replace: bool = True):
        self.output, self._holds = place_of(output, holds), holds
        self.folder = folder_of(self.output)
        self.whole = self.folder / (FINISHED_FOLDER if holds else FINISHED)
        check_folder(self.output, (*OURS, *OF_0_4), OUR_FOLDERS)
        with self.writing():
            self._lock = locked(self.folder, self.output)
        if not may_replace:
            try:  # once more: another process may have come and gone before the lock was taken
                check_output(self.output, resume=False, force=False, holds=holds)
            except BaseException:
                OutputFolder.__exit__(self)
                raise

    def put(self, write: Callable[[Path], bool], needed: int, kept: str = MAKE_ROOM, begun: bool = False) -> bool:
        """Have `write` write to the path that it gets, and move that to the output's place; False if it says so.

        `needed`: bytes. `kept`: what to do where the disk has not as many. `begun`: what is at that path is a part
        of it. On a failure nothing stays of it.
        """
        with self.writing():
            try:
                if not begun:
                    delete(self.whole)
                free = free_bytes(self.folder)
                if free < needed:
                    missing = f"{amount(free)} is free: {amount(needed - free)} are missing"
                    raise WriteError(f"{self.output} needs {amount(needed)}, {missing}. {kept}")
                if not write(self.whole):
                    return False
                sync_tree(self.whole)
                if place_of(self.output, self._holds) != self.output:  # whenever it came there
                    raise StoreError(f"{self.output} has become a symbolic link: move it, and run again")
                move_into_place(self.whole, self.output)
            finally:
                with contextlib.suppress(OSError):  # after the first error a second one tells nothing
                    delete(self.whole)
        return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say of what fails inside where that was."""
        try:
            yield
        except StoreError:
            raise
        except (OSError, RuntimeError) as error:  # h5py raises both
            reason = reason_of(error, self.output.parent)
            raise WriteError(f"cannot write {self.output} ({self.folder}): {reason}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let other processes in. A folder in which nothing was committed is removed."""
        # The lock's file is removed with the folder, and may have been made anew
        with contextlib.suppress(OSError):  # a worker cut off from its driver may still write
            if is_at(self.folder / LOCK, self._lock) and not has_work(self.folder):
                remove(self.folder)
        os.close(self._lock)


def locked(folder: Path, output: Path) -> int:
    """A descriptor that locks `folder`, which is made if it is not there.

    Who had it before may remove the lock's file between opening and locking: then it locks nothing, and another
    is made. Raises StoreError where another process has it, and OSError.
    """
    for _ in range(LOCK_TRIES):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # the folder has just been removed
            continue
        except OSError:
            discard(folder)
            raise
        try:
            if lock(descriptor, folder / LOCK):
                return descriptor
        except BlockingIOError as error:
            raise BusyError(f"another process is writing {output}: wait for it, or name another file") from error
        except OSError as error:  # nobody else has it either
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
            discard(folder)
            raise StoreError(f"cannot lock {folder}, as on some network drives: {error.strerror}") from error
    raise StoreError(f"cannot lock {folder}: its file {LOCK} is removed again and again")


def discard(folder: Path) -> None:
    """Remove a folder that was made for nothing; not one that something is in, as another process's lock."""
    with contextlib.suppress(OSError):
        folder.rmdir()


class Run(OutputFolder):
    """An unfinished run, of one worker or several.

    `begun`: the settings that it was begun with, None where it is new. `stored`: what earlier workers left.
    `done`: the packs that are on disk and count, by number. `segments`: where each worker makes a folder of its
    own. `proof`: what a worker that sees the folder can read there. `in_place`: the output is a table, whose rows
    HDF5 takes as they are on disk.
    """

    def __init__(
        self, output: Path, resume: bool, holds: Sequence[str] = (), in_place: bool = False, force: bool = True
    ):
        super().__init__(output, holds, resume or force)
        self._in_place = in_place
        self._ahead: RowsAhead | None = None
        self.stored: Index = {}
        self.done: dict[int, StoredPack] = {}
        try:
            begun = begun_settings(self.output) if resume else None
            self.run = begun[RUN] if begun else uuid.uuid4().hex
            self.begun = begun and {name: value for name, value in begun.items() if name not in (RUN, STORE)}
            self.segments = self.folder / SEGMENTS / self.run
            self.proof = uuid.uuid4().hex
            with self.writing():
                if self.begun is None:
                    if resume and has_segments(self.folder):
                        logger.warning(
                            "%s is missing: nothing of the run can be continued", self.folder / SETTINGS
                        )
                    remove_rows(self.folder)
                self.segments.mkdir(parents=True, exist_ok=True)
                if self.segments.is_symlink():
                    raise StoreError(f"{self.segments} is a symbolic link, which no run leaves there: move it")
                write_safely(self.folder / PROOF, self.proof)
        except BaseException:
            self.__exit__()
            raise

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Record the settings, and find what earlier workers left."""
        with self.writing():
            write_safely(self.folder / SETTINGS, sealed({**settings, RUN: self.run, STORE: STORE_VERSION}))
            sync(self.folder)
            sync(self.folder.parent)
            self.stored = read_index(self.segments)

    def writer(self, dtype: str) -> SegmentWriter:
        """Of a new worker in this process."""
        return SegmentWriter(self.segments / f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex}", dtype)

    def copy_ahead(self, row_bytes: int) -> None:
        """Copy rows of so many bytes to where HDF5 will have them, each pack as soon as it is on disk."""
        if self._in_place:
            self._ahead = RowsAhead(self.whole, row_bytes)

    def add(self, packs: Iterable[StoredPack]) -> None:
        """These packs are on disk, and count: another worker's of the same numbers do not."""
        for pack in packs:
            self.done[pack.number] = pack
            if self._ahead is not None:
                self._ahead.add(pack)

    def rows(self, numbers: Sequence[int], row_size: int, dtype: str) -> Rows:
        """The rows of these packs; LostError where some are not on disk."""
        missing = [number for number in numbers if number not in self.done]
        if missing:
            raise LostError(
                f"{len(missing)} of {len(numbers)} blocks are not on disk, the first is {missing[0]}: run again "
                "with --resume"
            )
        return Rows([self.done[number] for number in numbers], row_size, np.dtype(dtype))

    def finish(
        self, rows: Rows, write: Callable[[Path, bool], bool], stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """Have `write` make the output of `rows`, move it to its place and remove the folder.

        `write` gets the path, and whether the rows are there already, as in a `segments.rows_file`; it returns
        False where it was told to stop, and so does this.
        """
        with self.writing():
            there = self._rows_there(rows, stop)
        if stop():
            return False
        needed = size_of(rows) + (0 if there else bytes_of(rows))
        kept = f"All embeddings are in {self.folder}: make room and run again with --resume"
        if not self.put(lambda path: write(path, there), needed, kept, there):
            return False
        self._ahead = None
        try:
            remove(self.folder)
        except OSError as error:  # a worker that is just ending may have a file open
            logger.warning("%s is complete, but cannot remove %s: %s", self.output, self.folder, reason_of(error))
        return True

    def _rows_there(self, rows: Rows, stop: Callable[[], bool]) -> bool:
        """Whether all rows are at `whole`, as HDF5 will have them: a copy, or a worker's file by another name.

        A file that has one already is the output of a run that was killed before it tidied up.
        """
        copied = self._ahead and self._ahead.finish(stop)
        if not self._in_place or bytes_of(rows) < LARGE:
            return False
        if copied is not None:
            return copied == rows.counts.rows
        segment = rows.in_one_file()
        if segment is None:
            return False
        delete(self.whole)
        if (segment / ROWS).stat().st_nlink != 1:
            return False
        if not rows.prove(stop):
            return False
        try:
            os.link(segment / ROWS, self.whole)
        except OSError:  # a file system without hard links
            return False
        return True

    def __exit__(self, *_: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        super().__exit__()
