"""An output that is written in one go."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

from virnucpro.store.files import delete, move_into_place
from virnucpro.store.formats import Format
from virnucpro.store.journal import LOCK, StoreError, check_output, folder_of, remove

WHOLE = "whole"  # what is written, until it is moved


class Staged:
    """An output that is written beside its place. Use as a context manager; on a failure nothing stays."""

    def __init__(self, output: Path, format: Format, force: bool):
        check_output(output, resume=False, force=force, is_folder=format.is_folder)
        self._output, self._folder = output, folder_of(output)

    def __enter__(self) -> "Staged":
        try:
            self._folder.mkdir(exist_ok=True)
            self._lock = (self._folder / LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise StoreError(
                f"another process is writing {self._output}: wait for it, or name another file"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot write {self._folder}: {error.strerror}") from error
        return self

    def check_space(self, needed: int) -> None:
        """Raise StoreError where the disk lacks so many bytes."""
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise StoreError(
                f"{self._output} needs {needed / 1e9:,.2f} GB and the disk has {free / 1e9:,.2f} GB free"
            )

    def write(self, write: Callable[[Path], bool]) -> bool:
        """Have `write` write to the path that it gets, and move that to its place; False where it returns that."""
        whole = self._folder / WHOLE
        delete(whole)
        try:
            if not write(whole):
                return False
            move_into_place(whole, self._output)
        except (OSError, RuntimeError) as error:  # h5py raises both
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"cannot write {self._output}: {getattr(error, 'strerror', None) or error}"
            ) from error
        return True

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            delete(self._folder / WHOLE)
            remove(self._folder)
        self._lock.close()
