"""Where an output is: symbolic links resolved, and nothing but a regular file ever replaced."""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from virnucpro.store.errors import StoreError

Named = str | os.PathLike[str] | int
"""A path, or an open descriptor."""

PARTIAL = ".partial"  # ends the name of the folder of an unfinished run

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
}


def place_of(output: str | os.PathLike[str], holds: Sequence[str] = ()) -> Path:
    """The file that `output` stands for, existing or not: where all symbolic links lead, dangling ones too.

    `holds`: it will be a folder of files of such names, as `Path.match` reads them, and may be one.
    Raises StoreError, naming what is there, for anything but a regular file or a free name in a folder.
    """
    path = Path(output)
    try:
        place = path.resolve()
        at_path, at_place = stat_of(path), stat_of(place)
    except (OSError, RuntimeError, ValueError) as error:  # loops of links are a RuntimeError before Python 3.13
        if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP:
            raise StoreError(f"{path} is a loop of symbolic links: name a file") from error
        raise StoreError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    shown = f"{path} (a link to {place})" if path.is_symlink() else str(path)
    for about in (at_path, at_place):
        if about is None or stat.S_ISREG(about.st_mode):
            continue
        if not holds or not stat.S_ISDIR(about.st_mode):
            raise StoreError(f"{shown} is {kind(about)}: name a file")
        if not all(any(map(each.match, holds)) for each in place.iterdir()):
            raise StoreError(f"{shown} is a folder that holds something else: give another name")
    same = at_path is at_place or (at_path and at_place and os.path.samestat(at_path, at_place))
    if not same:
        raise StoreError(f"{shown} cannot be replaced, only written to: name a file")  # as /dev/fd/3
    if place.name.endswith(PARTIAL):
        raise StoreError(f"{shown}: names that end in {PARTIAL} are those of unfinished runs; give another name")
    return place


def folder_of(output: str | os.PathLike[str]) -> Path:
    """Where the rows of an unfinished run of `output` are."""
    place = Path(os.path.realpath(output))  # unlike Path.resolve, it takes loops of links
    return place.with_name(place.name + PARTIAL)


def check_folder(place: Path, ours: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Raise StoreError where rows cannot be kept beside `place`; `ours`, `folders`: what a run leaves there."""
    folder = folder_of(place)
    check_parent(place, ours)
    try:
        about = stat_of(folder, follow_symlinks=False)
        if about is None:
            return
        if not stat.S_ISDIR(about.st_mode):
            raise StoreError(
                f"{folder} is {kind(about)} and not the folder of an unfinished run of {place}: move it, or give "
                "another name"
            )
        for names, usual in ((ours, stat.S_IFREG), (folders, stat.S_IFDIR)):
            for name in names:
                about = stat_of(folder / name, follow_symlinks=False)
                if about is not None and stat.S_IFMT(about.st_mode) != usual:
                    raise StoreError(f"{folder / name} is {kind(about)}, which no run leaves there: move it")
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error.strerror}") from error


def check_parent(place: Path, ours: Iterable[str]) -> None:
    """Raise StoreError where no file can be made at `place`, or is to be; `ours`: what a run leaves there."""
    parent = place.parent
    try:
        about = stat_of(parent)
        if about is None:
            raise StoreError(f"there is no folder {parent} to write {place.name} to: make it first")
        if not stat.S_ISDIR(about.st_mode):
            raise StoreError(f"cannot write {place}: {parent} is {kind(about)} and not a folder")
        for above in (parent, *parent.parents):
            if above.name.endswith(PARTIAL) and any((above / name).exists() for name in ours):
                raise StoreError(
                    f"{place} would be among the rows of an unfinished run, {above}: name another file"
                )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StoreError(f"cannot write {place}: its folder is not writable")
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error.strerror}") from error


def check_apart(place: Path, others: Collection[Named]) -> None:
    """Raise StoreError where `place`, a file in it or one beside its rows, is one of `others`."""
    for path in (place, *among(place), *among(folder_of(place))):
        if same(path, others):
            raise StoreError(f"{path} is the input: name another file")


def same(path: Path, others: Iterable[Named]) -> bool:
    """Whether what is at a path, by whatever name, is one of others."""
    for other in others:
        with contextlib.suppress(OSError):  # what cannot be looked at is told of where it is opened
            if os.path.samestat(path.stat(), os.stat(other)):  # noqa: PTH116 - it may be a descriptor
                return True
    return False


def among(folder: Path) -> list[Path]:
    """What is in a folder; nothing where there is none."""
    return list(folder.iterdir()) if folder.is_dir() else []


def stat_of(path: Path, follow_symlinks: bool = True) -> os.stat_result | None:
    """What is at `path`; None where nothing is. Raises OSError where that cannot be told."""
    try:
        return path.stat(follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return None


def kind(about: os.stat_result) -> str:
    """What sort of thing it is, for a message."""
    return KINDS.get(stat.S_IFMT(about.st_mode), "a regular file" if stat.S_ISREG(about.st_mode) else "no file")
