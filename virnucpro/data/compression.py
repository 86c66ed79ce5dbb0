"""Compressed files as a stream of bytes: gzip, bzip2, xz and zstd, recognised by their first bytes."""

import bz2
import contextlib
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

PIECE = 4_096
"""Compressed bytes that are unpacked at a time: few, because each can stand for many thousand."""

PIECE_WITHOUT_LIMIT = 512
"""The same for zstd, whose package cannot be told how much to return: a block of 128 KiB can take four bytes."""

MOST = 2**20
"""Bytes that bzip2 and xz, where a byte can stand for a million, return at a time."""

MOST_MEMORY = 2**28
"""Bytes that unpacking xz may take; its own settings take up to 65 MiB. zstd's limit is 128 MiB."""

LONGEST_MAGIC = 6
REFUSED = {
    b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!": "RAR", b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress", b"LZIP": "lzip",
}  # fmt: skip
"""How other compressed files begin; they are refused by name."""


class CompressionError(Exception):
    """The file is compressed in a way that cannot be read here, or it is cut short or damaged; says which."""


def zstd_decompressor() -> Any:
    """Python's own from 3.14 on, else that of the package ``zstandard``."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("compression.zstd").ZstdDecompressor()
    with contextlib.suppress(ImportError):
        return importlib.import_module("zstandard").ZstdDecompressor().decompressobj()
    raise CompressionError(
        "is compressed with zstd, which needs Python 3.14 or the package zstandard: "
        "pip install zstandard, or unpack it"
    )


def is_zstd(start: bytes) -> bool:
    """Whether zstd data begin so: with a frame, or with one that is skipped, as parallel programs write."""
    return start.startswith(b"\x28\xb5\x2f\xfd") or (start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5)


COMPRESSIONS: dict[str, tuple[Callable[[bytes], bool], Callable[[], Any]]] = {
    "gzip": (lambda start: start.startswith(b"\x1f\x8b"), lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),
    "bzip2": (lambda start: start.startswith(b"BZh"), bz2.BZ2Decompressor),
    "xz": (lambda start: start.startswith(b"\xfd7zXZ\0"), lambda: lzma.LZMADecompressor(memlimit=MOST_MEMORY)),
    "zstd": (is_zstd, zstd_decompressor),
}
"""Each format: whether a file of it begins with these bytes, and what makes the object that unpacks a member."""


def format_of(start: bytes) -> str | None:
    """The compression of a file with this beginning; None for none. CompressionError for one that is not read."""
    for magic, name in REFUSED.items():
        if start.startswith(magic):
            raise CompressionError(f"is compressed with {name}: unpack it, or use gzip, bzip2, xz or zstd")
    return next((name for name, (matches, _) in COMPRESSIONS.items() if matches(start)), None)


class Decompressed(io.RawIOBase):
    """The bytes that a compressed stream stands for, whose first ones are `start`.

    Members one after the other, as ``cat`` joins them, are one stream, also where they differ in format; zero
    bytes after a member are padding. Raises CompressionError where a member breaks off, is damaged, or is followed
    by anything else.
    """

    def __init__(self, file: io.BufferedIOBase, start: bytes):
        self._file, self._packed = file, start
        self._name = format_of(start) or ""
        self._member: Any = COMPRESSIONS[self._name][1]()
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of any raw stream."""
        while not self._unpacked and (self._member is not None or self._next_member()):
            self._unpack()
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count

    def _unpack(self) -> None:
        """Some more of the member."""
        limited = hasattr(self._member, "needs_input")  # it can be told how much to return at a time
        piece = b""
        if not limited or self._member.needs_input:
            self._packed = self._packed or self._file.read1(PIECE)
            if not self._packed:
                raise self._damaged("it ends in the middle")
            most = PIECE if limited or self._name != "zstd" else PIECE_WITHOUT_LIMIT
            piece, self._packed = self._packed[:most], self._packed[most:]
        try:
            self._unpacked = memoryview(self._member.decompress(piece, *[MOST] * limited))
        except (zlib.error, OSError, lzma.LZMAError, EOFError) as error:
            if "Memory usage limit" in str(error):
                raise CompressionError(
                    f"needs more than {MOST_MEMORY:,} bytes to be unpacked: use xz -9 or less"
                ) from error
            raise self._damaged(str(error)) from error
        except Exception as error:  # a zstd library has an exception of its own, which is of no common class
            if type(error).__name__ != "ZstdError":
                raise
            raise self._damaged(str(error)) from error
        if self._member.eof:
            self._packed, self._member = self._member.unused_data + self._packed, None

    def _next_member(self) -> bool:
        """Begin the member that follows; False at the end of the file."""
        self._packed = self._packed.lstrip(b"\0")
        while len(self._packed) < LONGEST_MAGIC and (more := self._file.read1(PIECE)):
            self._packed = (self._packed + more).lstrip(b"\0")
        if not self._packed:
            return False
        found = format_of(self._packed)
        if found is None:
            raise self._damaged("what follows its end is not compressed")
        self._name, self._member = found, COMPRESSIONS[found][1]()
        return True

    def _damaged(self, reason: str) -> CompressionError:
        return CompressionError(
            f"is a {self._name} file that is cut short or damaged ({reason}): copy or download it again"
        )
