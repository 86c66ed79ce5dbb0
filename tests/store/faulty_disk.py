"""A disk on which a chosen write, sync or rename fails."""

import errno
import os
import stat
from collections import Counter
from pathlib import Path

import pytest

CALLS = ("open", "write", "pwrite", "fsync", "ftruncate", "replace", "mkdir", "link")


class FaultyDisk:
    """Stands before the system's calls, and lets the one with the number `failing` below `root` fail.

    As Linux does: what a file had not synced when its fsync fails reads as before and is lost later (here: zeros
    at once), and the next fsync succeeds. With `dead` all later calls fail too. With `torn` a write that fails has
    written half. An fsync that succeeds is only noted: waiting for the real disk proves nothing here.
    """

    def __init__(self, monkeypatch, root, failing=None, error=errno.EIO, dead=False, torn=False):
        self.root, self.failing, self.error, self.dead, self.torn = root, failing, error, dead, torn
        self.calls: Counter[str] = Counter()
        self.failed = False
        self.real = {name: getattr(os, name) for name in CALLS}
        self.synced = {about.st_ino: about.st_size for about in map(os.stat, root.rglob("*"))}
        for name in CALLS:
            monkeypatch.setattr(os, name, lambda *args, name=name, **keys: self.call(name, *args, **keys))

    def call(self, name, *args, **keywords):
        if not self.ours(args[0]) or (name == "open" and not args[1] & os.O_CREAT):
            return self.real[name](*args, **keywords)
        self.calls[name] += 1
        if self.calls.total() == self.failing or (self.dead and self.failed):
            self.failed = True
            if name == "fsync":
                self.lose(args[0])
            if name == "write" and self.torn:  # HDF5's file counts as a whole
                self.real["write"](args[0], args[1][: len(args[1]) // 2])
            raise OSError(self.error, os.strerror(self.error))
        if name == "fsync":
            about = os.fstat(args[0])
            self.synced[about.st_ino] = about.st_size
            return None
        return self.real[name](*args, **keywords)

    def ours(self, which):
        path = str(Path(f"/proc/self/fd/{which}").readlink()) if isinstance(which, int) else os.fspath(which)
        return path.startswith(str(self.root))

    def lose(self, descriptor):
        about = os.fstat(descriptor)
        kept = self.synced.get(about.st_ino, 0)
        if stat.S_ISREG(about.st_mode) and about.st_size > kept:
            file = self.real["open"](f"/proc/self/fd/{descriptor}", os.O_WRONLY)
            self.real["pwrite"](file, bytes(about.st_size - kept), kept)
            os.close(file)

    def lose_power(self, folder):
        """All that was never synced is lost."""
        for path in folder.rglob("*") if folder.exists() else ():
            if path.is_dir():
                continue
            with path.open("r+b") as file:
                self.lose(file.fileno())


def fault_points(root, run):
    """How many calls `run` makes that could fail."""
    with pytest.MonkeyPatch.context() as patch:
        disk = FaultyDisk(patch, root)
        run()
    assert set(disk.calls) >= {"open", "write", "fsync", "replace"}
    return disk.calls.total()
