"""Files and folders that are moved to their place when they are whole."""

import os
import shutil
from pathlib import Path

REPLACED = "replaced"  # a folder that stood at the output's place


def sync_folder(folder: Path) -> None:
    """Make sure that the names of files in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Make sure that a file, or a folder and its files, are on disk."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for each in path.iterdir():
        sync(each)
    sync_folder(path)


def delete(path: Path) -> None:
    """Delete a file or folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move_into_place(whole: Path, output: Path) -> None:
    """Move what is whole to `output`, replacing what is there.

    A folder cannot replace another at once: between two renames there is none. A crash just then leaves what is
    whole, and the rows that it was made of, in the run's own folder.
    """
    sync(whole)
    if whole.is_dir() or output.is_dir():
        replaced = whole.with_name(REPLACED)
        delete(replaced)
        if output.exists():
            output.rename(replaced)
        whole.rename(output)
        delete(replaced)
    else:
        whole.replace(output)
    sync_folder(output.parent)
