"""Files and folders that are moved to their place when they are whole, and files that must be whole to be read."""

import os
import shutil
from pathlib import Path

from virnucpro.store.disk import sync
from virnucpro.store.errors import StoreError

REPLACED = "replaced"  # a folder that stood at the output's place
LOST = "a worker's file has lost rows that it had: begin anew with --force"


def sync_tree(path: Path) -> None:
    """Make sure that a file, or a folder and its files, are on disk."""
    if path.is_dir():
        for each in path.iterdir():
            sync_tree(each)
    sync(path)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if there is one. Links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move_into_place(whole: Path, output: Path) -> None:
    """Move what is whole, and on disk, to `output`, replacing what is there.

    A folder cannot replace another at once: between two renames there is none. A crash just then leaves what is
    whole, and the rows that it was made of, in the run's own folder.
    """
    replaced = whole.with_name(REPLACED)
    if whole.is_dir() or output.is_dir():
        delete(replaced)
        if output.exists():
            os.replace(output, replaced)  # noqa: PTH105 - as all else that is written
    os.replace(whole, output)  # noqa: PTH105
    sync(output.parent)
    delete(replaced)


def read_at(descriptor: int, offset: int, count: int) -> bytes:
    """So many bytes of a file; StoreError where it has fewer."""
    parts = []
    while count:
        part = os.pread(descriptor, count, offset)
        if not part:
            raise StoreError(LOST)
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
