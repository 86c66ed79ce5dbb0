"""Files whose writes either reach the disk or are known not to have."""

import errno
import io
import os
import re
import shutil
from pathlib import Path
from typing import Any

NEW = ".new"  # ends the name of a file that is not whole yet
FULL = (errno.ENOSPC, errno.EDQUOT)


class AppendFile:
    """A file that is written at its end, unbuffered: `append` hands bytes to the kernel, `sync` puts them on disk.

    All methods raise OSError.
    """

    def __init__(self, path: Path):
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        self._descriptor: int | None = os.open(path, flags, 0o666)

    def _open(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the file is closed", os.fspath(self.path))
        return self._descriptor

    def append(self, data: Any) -> None:
        """Write all bytes of a buffer."""
        rest = memoryview(data)
        while len(rest):
            written = os.write(self._open(), rest)
            if not written:
                raise OSError(errno.EIO, "nothing could be written", os.fspath(self.path))
            rest = rest[written:]

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._open()).st_size

    def cut(self, size: int) -> None:
        """Drop what comes after `size` bytes."""
        if self.size() != size:
            os.ftruncate(self._open(), size)

    def sync(self) -> None:
        """Wait until all is on disk."""
        os.fsync(self._open())

    def close(self) -> None:
        """Close the file, once."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


class FileOfHDF5(io.RawIOBase):
    """A new file for h5py. After the first write that fails it drops all others; closing it raises that failure.

    By itself HDF5 cannot close a file that it cannot write, and crashes at the end of the process.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
        self._at = 0
        self.failure: OSError | None = None

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As that of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._open()).st_size}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        """As that of any file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As that of any file."""
        count = os.preadv(self._open(), [buffer], self._at)
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """All of it, or nothing after a failure."""
        rest = memoryview(data).cast("B")
        size, at = len(rest), self._at
        try:
            while len(rest) and self.failure is None:
                written = os.pwrite(self._open(), rest, at)
                rest, at = rest[written:], at + written
        except OSError as failure:
            self.failure = failure
        self._at += size
        return size

    def truncate(self, size: int | None = None) -> int:
        """As that of any file, or nothing after a failure."""
        size = self._at if size is None else size
        try:
            if self.failure is None:
                os.ftruncate(self._open(), size)
        except OSError as failure:
            self.failure = failure
        return size

    def close(self) -> None:
        """Close it once, and raise what failed."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)
            super().close()
            if self.failure is not None:
                raise self.failure


def write_safely(path: Path, text: str) -> None:
    """Write a file so that after a crash all of it is there or nothing."""
    unfinished = path.with_name(path.name + NEW)
    file = AppendFile(unfinished)
    try:
        file.cut(0)
        file.append(text.encode())
        file.sync()
    finally:
        file.close()
    os.replace(unfinished, path)  # noqa: PTH105 - as all else that is written here


def sync(path: Path) -> None:
    """Make sure that a file's bytes, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason_of(error: BaseException) -> str:
    """What the system said, in a few words; HDF5 wraps it in the addresses of its buffers."""
    inner = re.search(r"error message = '([^']+)'", str(error))
    return inner[1] if inner else getattr(error, "strerror", None) or str(error) or type(error).__name__


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full."""
    inner = re.search(r"errno = (\d+)", str(error))
    return getattr(error, "errno", None) in FULL or (inner is not None and int(inner[1]) in FULL)


def free_bytes(folder: Path) -> int:
    """What this user can still write there."""
    return shutil.disk_usage(folder).free


def amount(size: int) -> str:
    """Bytes for people, never rounded to nothing."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:,.2f} {unit}"
    return f"{size:,} bytes"
