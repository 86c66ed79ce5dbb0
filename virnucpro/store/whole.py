"""An output that is written beside its place, and moved there when it is whole and on disk."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from virnucpro.store.disk import amount, free_bytes
from virnucpro.store.errors import StoreError, WriteError
from virnucpro.store.files import delete, move_into_place, sync_tree
from virnucpro.store.place import place_of
from virnucpro.store.unfinished import FINISHED, FINISHED_FOLDER


def beside(folder: Path, is_folder: bool) -> Path:
    """Where it is written: in the folder of the run."""
    return folder / (FINISHED_FOLDER if is_folder else FINISHED)


def write_whole(
    output: Path,
    whole: Path,
    write: Callable[[Path], bool],
    needed: int,
    kept: str,
    is_folder: bool,
    begun: bool = False,
) -> bool:
    """Have `write` write to `whole`, and move that to `output`; False where `write` was told to stop.

    `needed`: bytes. `kept`: what there is, and what to do, where the disk has not as many. `begun`: what is at
    `whole` already is a part of it. On a failure nothing stays of it. Raises StoreError, and what `write` raises.
    """
    try:
        if not begun:
            delete(whole)
        free = free_bytes(whole.parent)
        if free < needed:
            missing = f"{amount(free)} is free: {amount(needed - free)} are missing"
            raise WriteError(f"{output} needs {amount(needed)}, {missing}. {kept}")
        if not write(whole):
            return False
        sync_tree(whole)
        if place_of(output, is_folder) != output:  # whenever it came there
            raise StoreError(f"{output} has become a symbolic link: move it, and run again")
        move_into_place(whole, output)
    finally:
        with contextlib.suppress(OSError):  # after the first error a second one tells nothing
            delete(whole)
    return True
