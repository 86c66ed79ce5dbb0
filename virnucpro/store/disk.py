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
    """A new file for h5py. After the first write that fails it keeps all others in memory; closing it raises that.

    By itself HDF5 cannot close a file that it cannot write, and crashes at the end of the process. It also reads
    what it wrote. `begun`: keep what the file has; h5py takes it for empty all the same.
    """

    def __init__(self, path: Path, begun: bool = False):
        super().__init__()
        flags = os.O_RDWR | os.O_NOFOLLOW | (0 if begun else os.O_CREAT | os.O_TRUNC)
        self._descriptor: int | None = os.open(path, flags, 0o666)
        self._at = 0
        self._size = 0
        self._kept: list[tuple[int, bytes]] = []  # what could not be written, and where
        self.failure: OSError | None = None

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As that of any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        """As that of any file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As that of any file."""
        into = memoryview(buffer).cast("B")
        count = max(0, min(len(into), self._size - self._at))
        found = os.pread(self._open(), count, self._at)
        into[:count] = found + bytes(count - len(found))
        for at, data in self._kept:
            start, end = max(at, self._at), min(at + len(data), self._at + count)
            if start < end:
                into[start - self._at : end - self._at] = data[start - at : end - at]
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """All of it."""
        rest = memoryview(data).cast("B")
        size, at = len(rest), self._at
        try:
            while len(rest) and self.failure is None:
                written = os.pwrite(self._open(), rest, at)
                rest, at = rest[written:], at + written
        except OSError as failure:
            self.failure = failure.with_traceback(None)  # which would hold HDF5's buffer
        if len(rest):
            self._kept.append((at, bytes(rest)))
        self._at += size
        self._size = max(self._size, self._at)
        return size

    def truncate(self, size: int | None = None) -> int:
        """As that of any file."""
        self._size = self._at if size is None else size
        try:
            if self.failure is None:
                os.ftruncate(self._open(), self._size)
        except OSError as failure:
            self.failure = failure
        return self._size

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
