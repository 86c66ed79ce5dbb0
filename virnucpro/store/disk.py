"""Files whose writes either reach the disk or are known not to have, and that are moved to their place whole."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any

NEW = ".new"  # ends the name of a file that is not whole yet
REPLACED = "replaced"  # a folder that stood at the output's place
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_OFFERED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
"""What fsync says of a folder where the file system has no such thing, as some network and FUSE file systems."""

logger = logging.getLogger(__name__)
_told: set[str] = set()  # what was said once


class AppendFile:
    """A file that is written at its end, unbuffered: `append` hands bytes to the kernel, `sync` puts them on disk.

    All methods raise OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o666)

    def append(self, data: Any) -> None:
        """Write all bytes of a buffer."""
        rest = memoryview(data)
        while len(rest):
            written = os.write(self._descriptor, rest)
            if not written:
                raise OSError(errno.EIO, "nothing could be written", os.fspath(self.path))
            rest = rest[written:]

    def sync(self) -> None:
        """Wait until all is on disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, once. What is asked of it later is a bad descriptor."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def lock(descriptor: int, path: Path) -> bool:
    """Lock a file that was just opened; False where `path` is not its name any more: then the lock is of nothing.

    Raises BlockingIOError where another process has it, and OSError. The file is closed unless it is locked.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(path, descriptor):
            return True
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return False


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is at `path`, and not behind a link there."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def write_safely(path: Path, text: str) -> None:
    """Write a file so that after a crash all of it is there or nothing."""
    unfinished = path.with_name(path.name + NEW)
    unfinished.unlink(missing_ok=True)
    file = AppendFile(unfinished)
    try:
        file.append(text.encode())
        file.sync()
    finally:
        file.close()
    os.replace(unfinished, path)  # noqa: PTH105 - as all else that is written here


def sync(path: Path) -> None:
    """Make sure that a file's bytes, or the names in a folder, are on disk.

    Where the file system cannot do that for a folder, this is said once: its files are on disk all the same, and
    only their names may be lost with the power.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
        if "fsync" not in _told:
            _told.add("fsync")
            logger.warning(
                "the file system of %s has no fsync of folders (%s): a file just written may lose its name "
                "if the power fails; its bytes are on disk",
                path,
                error.strerror,
            )
    finally:
        os.close(descriptor)


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
    try:
        os.replace(whole, output)  # noqa: PTH105
    except OSError:
        if replaced.exists():
            os.replace(replaced, output)  # noqa: PTH105
        raise
    sync(output.parent)
    delete(replaced)


def open_to_read(path: Path) -> int:
    """A descriptor of a regular file that is no link; raises OSError, also for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return descriptor


def read_at(descriptor: int, offset: int, count: int) -> bytes:
    """So many bytes of a file; fewer where it ends before."""
    parts = []
    while count and (part := os.pread(descriptor, count, offset)):
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def reason_of(error: BaseException, folder: Path | None = None) -> str:
    """What the system said, in a few words; of a disk or quota that is full also what is free in `folder`."""
    reason: str = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if folder is not None and getattr(error, "errno", None) in FULL:
        with contextlib.suppress(OSError):
            reason += f": {amount(free_bytes(folder))} is free"
    return reason


def free_bytes(folder: Path) -> int:
    """What this user can still write there."""
    return shutil.disk_usage(folder).free


def amount(size: int) -> str:
    """Bytes for people, never rounded to nothing."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:,.2f} {unit}"
    return f"{size:,} bytes"
