"""An output that is written beside its place, and moved there when it is whole."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from virnucpro.store.disk import amount, free_bytes, is_full, reason_of
from virnucpro.store.errors import StoreError, WriteError
from virnucpro.store.journal import BYTES_OF_A_NAME, LEAST_BYTES
from virnucpro.store.place import folder_of
from virnucpro.store.rows import RowSource
from virnucpro.store.unfinished import LOCK
from virnucpro.store.whole import beside, write_whole

MAKE_ROOM = "Make room and run again"


def size_of(rows: RowSource) -> int:
    """Bytes that a file of these rows needs at most."""
    done = rows.committed
    beside = done.name_bytes + (BYTES_OF_A_NAME + 16) * done.sequences + 8 * done.skipped
    return LEAST_BYTES + beside + done.rows * rows.row_size * rows.dtype.itemsize


class Staging:
    """The folder beside an output, with its lock: a second process is kept out until it is closed.

    Raises StoreError where the folder cannot be written or another process has it.
    """

    def __init__(self, output: Path, is_folder: bool):
        self.output, self.folder, self._is_folder = output, folder_of(output), is_folder
        self.whole = beside(self.folder, is_folder)
        with self.writing():
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise StoreError(
                    f"another process is writing {output}: wait for it, or name another file"
                ) from error
            raise StoreError(f"cannot lock {self.folder}, as on some network drives: {error.strerror}") from error

    def finish(
        self,
        write: Callable[[Path], bool],
        needed: int,
        kept: str = "Make room and run again",
        begun: bool = False,
    ) -> bool:
        """Have `write` write to the path that it gets, and move that to the output's place; False if it says so.

        `needed`: bytes. `kept`: what to do where the disk has not as many. `begun`: whether what is at that
        path is a part of it. On a failure nothing stays of it.
        """
        with self.writing():
            return write_whole(self.output, self.whole, write, needed, kept, self._is_folder, begun)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say of what fails inside where that was."""
        try:
            yield
        except StoreError:
            raise
        except (OSError, RuntimeError) as error:  # h5py raises both
            reason = reason_of(error)
            if is_full(error):
                with contextlib.suppress(OSError):
                    reason += f": {amount(free_bytes(self.output.parent))} is free"
            raise WriteError(f"cannot write {self.output} ({self.folder}): {reason}") from error

    def close(self) -> None:
        """Let other processes in."""
        os.close(self._lock)
