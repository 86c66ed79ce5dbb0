"""Peak memory: what PyTorch allocates on a GPU; on a CPU what is resident without libraries and programs.

How many pages of a mapped library are resident depends on the page cache, not on the program, and can change a
quarter of all that is resident. So they do not count. Pages of weights and data files and shared memory do.
"""

import ctypes
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..suite.outcomes import Measurement

PROC = Path("/proc/self")

NOTABLE_GROWTH = 0.01
"""Growth or loss of resident libraries beside the peak from which on it is reported: half of what is a change."""


@dataclass(frozen=True)
class Peak:
    """`amount`: bytes at the peak. `libraries_grew`: by how much of that resident libraries grew, below 0 shrank.

    The libraries' pages at the end are subtracted, so the amount is too small by that growth at most, or too large
    by what went meanwhile: the kernel may take mapped pages away.
    """

    amount: int
    libraries_grew: float = 0.0

    def measurement(self) -> Measurement:
        """The figure ``peak memory``."""
        return Measurement({"peak memory": [float(self.amount)]}, self.notes())

    def notes(self) -> dict[str, float]:
        """What a reader should know about it."""
        if abs(self.libraries_grew) <= NOTABLE_GROWTH:
            return {}
        name = "libraries_grew" if self.libraries_grew > 0 else "libraries_shrank"
        return {name: round(abs(self.libraries_grew), 4)}


class PeakMemory:
    """Measures the peak from its creation, or the last `reset`, to `read`, where it is not `unavailable`."""

    def __init__(self, device: str):
        self.device, self.unavailable = device, unavailable(device)
        self.reset()

    def reset(self) -> None:
        """Begin a new peak."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif not self.unavailable:
            self.libraries = library_bytes()
            (PROC / "clear_refs").write_text("5")  # proc(5): resets VmHWM

    def read(self) -> Peak:
        """The peak since then; NotImplementedError with the reason where it is not available."""
        if self.unavailable:
            raise NotImplementedError(self.unavailable)
        if self.device == "cuda":
            return Peak(torch.cuda.max_memory_allocated())
        resident, libraries = resident_peak(), library_bytes()
        amount = resident - libraries
        return Peak(amount, (libraries - self.libraries) / amount)

    def measurement(self) -> Measurement:
        """The figure ``peak memory``."""
        if self.unavailable:
            return Measurement(unavailable={"peak memory": self.unavailable})
        return self.read().measurement()


def unavailable(device: str) -> str | None:
    """Why this system does not tell a peak; None where it does."""
    if device == "cuda" or sys.platform == "linux":
        return None
    return f"only Linux tells which of a CPU's memory at the peak is not libraries, and this is {sys.platform}"


M_MMAP_THRESHOLD, LARGE = -3, 128 * 1024  # malloc.h; mallopt(3), its default to begin with


def keep_large_blocks_off_the_heap() -> None:
    """Let glibc's malloc map and unmap each large tensor by itself for the rest of this process.

    Else they go to a heap whose gaps differ from process to process: with 8M on a CPU the same program took 183 to
    194 MiB, with this 184 to 186. It costs time: not for a process that is timed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGE)


def resident_peak() -> int:
    """VmHWM: the most bytes of this process that were resident at a time."""
    status = (PROC / "status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@dataclass(frozen=True)
class Mapping:
    """One entry of smaps: what is mapped, with which permissions, and its resident bytes that are a file's own."""

    file: tuple[str, str]  # device and inode
    path: str
    permissions: str
    resident: int


def library_bytes() -> int:
    """Resident bytes of mapped libraries and programs: of all files of which a part is mapped executable.

    Without the pages that this process has written to, which are its own and do not depend on the page cache.
    """
    mappings = list(file_mappings((PROC / "smaps").read_text()))
    executable = {each.file for each in mappings if "x" in each.permissions}
    return sum(each.resident for each in mappings if each.file in executable)


HEADER = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ (?P<permissions>\S+) \S+ (?P<device>\S+) (?P<inode>\d+) *(?P<path>.*)$", re.MULTILINE
)
IN_MEMORY = ("/memfd:", "/dev/", "/SYSV", "/anon_hugepage")
"""What smaps calls files that are shared memory."""


def file_mappings(smaps: str) -> Iterator[Mapping]:
    """The mappings of files on a disk in the text of an smaps file."""
    headers = list(HEADER.finditer(smaps))
    ends = [*(header.start() for header in headers[1:]), len(smaps)]
    for header, end in zip(headers, ends, strict=True):
        if header["inode"] != "0" and not header["path"].startswith(IN_MEMORY):
            fields = smaps[header.end() : end]
            resident = kilobytes(fields, "Rss") - kilobytes(fields, "Anonymous")
            yield Mapping(
                (header["device"], header["inode"]), header["path"], header["permissions"], 1024 * resident
            )


def kilobytes(fields: str, name: str) -> int:
    """A field of an entry of smaps."""
    return int(fields.partition(f"\n{name}:")[2].split()[0])
