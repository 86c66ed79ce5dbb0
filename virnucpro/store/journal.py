"""Rows that survive a crash: a folder of plain files and a journal, until the output is complete.

HDF5 does not survive being killed while it writes. So rows are first appended to plain files in the folder
``OUT.h5.partial``, and a journal there says how much of them is safely on disk. What was written after its last
line is cut off when the run is resumed. At the end the rows are copied into a file there, which is then moved to
its place.
"""

import contextlib
import fcntl
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from virnucpro.store.files import REPLACED, delete, move_into_place, sync_folder

BLOCK = 4_096  # names or lengths copied at a time
BLOCK_BYTES = 2**20  # of embeddings copied at a time

SETTINGS, JOURNAL, LOCK, FINISHED = "settings.json", "journal", "lock", "finished"
SEGMENTS, PROOF = "segments", "shared"  # of a run of several workers: see segments.py
NEW = ".new"  # ends the name of a file that is not whole yet
ROWS = ("names", "lengths", "embeddings")
"""The files of rows: names in UTF-8, one a line; residues of each sequence, int64; embeddings, row after row."""


class StoreError(RuntimeError):
    """The output cannot be written, exists, or was begun with other settings."""


@dataclass(frozen=True)
class Committed:
    """What is on disk: how many sequences, residues, rows, bytes of names; a digest of the input up to there."""

    sequences: int = 0
    residues: int = 0
    rows: int = 0
    name_bytes: int = 0
    digest: str = ""


@dataclass(frozen=True)
class Rows:
    """The committed rows in `folder`, in the order of the input, a block at a time."""

    folder: Path
    committed: Committed
    row_size: int
    dtype: np.dtype

    def names(self) -> Iterator[list[str]]:
        """All names, `BLOCK` at a time."""
        with (self.folder / "names").open(encoding="utf-8", newline="\n") as lines:
            for start in range(0, self.committed.sequences, BLOCK):
                end = min(start + BLOCK, self.committed.sequences)
                yield [next(lines)[:-1] for _ in range(start, end)]

    def lengths(self) -> Iterator[np.ndarray]:
        """Residues of each sequence, int64, `BLOCK` at a time."""
        return blocks(self.folder / "lengths", np.dtype("<i8"), BLOCK)

    def embeddings(self) -> Iterator[np.ndarray]:
        """Rows of embeddings ``[n, row_size]``, about `BLOCK_BYTES` at a time."""
        at_a_time = max(1, BLOCK_BYTES // (self.row_size * self.dtype.itemsize))
        return blocks(self.folder / "embeddings", np.dtype((self.dtype, (self.row_size,))), at_a_time)


def check_output(output: Path, resume: bool, force: bool, is_folder: bool = False) -> None:
    """Raise StoreError where a run may not write to `output`, before anything is spent on it.

    `is_folder`: whether the output will be a folder of Parquet files.
    """
    folder = folder_of(output)
    if output.is_dir() and not is_folder:
        raise StoreError(f"{output} is a folder: name a file")
    if output.is_dir() and any(not each.match("part-*.parquet") for each in output.iterdir()):
        raise StoreError(f"{output} is a folder that holds something else: name one that is not there yet")
    if not output.parent.is_dir():
        raise StoreError(f"there is no folder {output.parent} to write {output.name} to: make it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write {output}: its folder is not writable")
    if resume or force:
        return
    if (folder / SETTINGS).exists():
        raise StoreError(
            f"{folder} holds an unfinished run: continue it with --resume, or begin anew with --force"
        )
    if output.exists():
        raise StoreError(
            f"{output} exists: give another name, or --force to replace it when the new one is complete"
        )


def folder_of(output: Path) -> Path:
    """Where the rows of an unfinished run are."""
    return output.with_name(output.name + ".partial")


class Partial:
    """The rows of an unfinished run. Use as a context manager: a second process is kept out until it is closed.

    `settings`: all that decides what the rows are, for JSON. `row_size`: values in a row of embeddings; `dtype`:
    their type. `committed`: what an earlier run left; `append` adds after it.
    Raises StoreError where the folder cannot be written, another process has it, or, with `resume`, where it was
    begun with other settings or lacks rows that it had.
    """

    def __init__(self, output: Path, settings: dict[str, Any], row_size: int, dtype: str, resume: bool):
        self.output, self.folder, self.settings = output, folder_of(output), settings
        self.row_size, self.dtype = row_size, np.dtype(dtype)
        self.committed = Committed()
        self._on_disk = self.committed
        self._files: dict[str, BinaryIO] = {}
        self._broken = False
        with self._writing():
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / LOCK).open("w")
        try:
            self._begin(resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, resume: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another process is writing {self.output}: wait for it, or name another file"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot lock {self.folder}, as on some network drives: {error.strerror}") from error
        with self._writing():
            begun = begun_settings(self.output) if resume else None
            if begun is None:
                remove_rows(self.folder)
                write_safely(self.folder / SETTINGS, json.dumps(self.settings))
            else:
                check_same(begun, self.settings, f"{self.folder} was begun")
                self.committed = self._on_disk = last_commit(self.folder / JOURNAL)
            for name in (*ROWS, JOURNAL):
                self._files[name] = (self.folder / name).open("ab")
            sync_folder(self.folder)
            for name, size in self._sizes().items():
                self._cut(name, size)

    def _sizes(self) -> dict[str, int]:
        """Bytes that each file of rows has committed."""
        embeddings = self.committed.rows * self.row_size * self.dtype.itemsize
        return {
            "names": self.committed.name_bytes,
            "lengths": 8 * self.committed.sequences,
            "embeddings": embeddings,
        }

    def _cut(self, name: str, size: int) -> None:
        file = self._files[name]
        if file.seek(0, io.SEEK_END) < size:
            raise StoreError(f"{self.folder / name} has lost rows that it had: begin anew with --force")
        file.truncate(size)

    def append(self, names: Sequence[str], lengths: Sequence[int], rows: np.ndarray, digest: str) -> None:
        """Add sequences in order: their names (without line ends), residues, and rows ``[n, row_size]``.

        `digest` is that of everything embedded so far, these included.
        """
        encoded = "".join(f"{name}\n" for name in names).encode()
        if self._broken:
            raise StoreError(f"{self.output}: an earlier write failed")
        self._broken = True  # until all three files have the rows: what came after half of them would be misplaced
        with self._writing():
            self._files["names"].write(encoded)
            self._files["lengths"].write(np.asarray(lengths, dtype="<i8").tobytes())
            self._files["embeddings"].write(np.ascontiguousarray(rows, dtype=self.dtype).data)
        self.committed = Committed(
            sequences=self.committed.sequences + len(names),
            residues=self.committed.residues + sum(lengths),
            rows=self.committed.rows + len(rows),
            name_bytes=self.committed.name_bytes + len(encoded),
            digest=digest,
        )
        self._broken = False

    def commit(self) -> None:
        """Make sure that what was appended is on disk, and say so in the journal."""
        if self._on_disk == self.committed:
            return
        with self._writing():
            for name in (*ROWS, JOURNAL):
                if name == JOURNAL:
                    text = json.dumps(asdict(self.committed))
                    # After a line end, because a crash can leave half a line
                    self._files[name].write(f"\n{zlib.crc32(text.encode()):08x} {text}\n".encode())
                self._files[name].flush()
                os.fsync(self._files[name].fileno())
        self._on_disk = self.committed

    def finish(self, write: Callable[[Path, Rows], bool]) -> bool:
        """Have `write` make the file of the committed rows, move it to its place and remove the folder.

        `write` gets the path and the rows, and returns False where it was told to stop; so does this.
        """
        self.commit()
        finished = self.folder / FINISHED
        delete(finished)
        needed = self.committed.name_bytes + sum(self._sizes().values())
        if shutil.disk_usage(self.folder).free < needed:
            raise StoreError(
                f"{self.output} needs {needed / 1e9:,.2f} GB more than the disk has free: all embeddings are in "
                f"{self.folder}; make room and run again with --resume"
            )
        with self._writing():
            if not write(finished, Rows(self.folder, self.committed, self.row_size, self.dtype)):
                return False
            move_into_place(finished, self.output)
        remove(self.folder)
        return True

    def close(self) -> None:
        """Close the files and let other processes in. What was appended and not committed is lost."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk: the journal does not count what was not written
                file.close()
        self._lock.close()

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say of what fails inside where that was, and what is left."""
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py raises both
            if isinstance(error, StoreError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise StoreError(f"cannot write {self.output} ({self.folder}): {reason}") from error


def remove(folder: Path) -> None:
    """Delete the folder of an unfinished run, or at least what this program put there."""
    remove_rows(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds something of the user's, or was not there
        folder.rmdir()


def remove_rows(folder: Path) -> None:
    """Delete all but the lock; the settings first, because without them the rest counts for nothing."""
    for name in (SETTINGS, SETTINGS + NEW, JOURNAL, *ROWS, FINISHED, REPLACED, SEGMENTS, PROOF):
        delete(folder / name)


def begun_settings(output: Path) -> dict[str, Any] | None:
    """The settings of the unfinished run of `output`; None where there is none that could be continued."""
    try:
        return json.loads((folder_of(output) / SETTINGS).read_text())
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {folder_of(output)}: {error.strerror}") from error


def check_same(then: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Raise StoreError naming the settings that differ."""
    differing = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if differing:
        pairs = ", ".join(f"{name} {then.get(name)!r} and not {now.get(name)!r}" for name in differing)
        raise StoreError(f"{what} with {pairs}: give the same settings, or begin anew with --force")


def last_commit(journal: Path) -> Committed:
    """What the last whole line of the journal says."""
    committed = Committed()
    if journal.exists():
        for line in journal.read_bytes().splitlines():
            checksum, _, text = line.partition(b" ")
            if checksum == f"{zlib.crc32(text):08x}".encode():
                committed = Committed(**json.loads(text))
    return committed


def write_safely(path: Path, text: str) -> None:
    """Write a file so that after a crash all of it is there or nothing."""
    unfinished = path.with_name(path.name + NEW)
    with unfinished.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def blocks(path: Path, dtype: np.dtype, count: int) -> Iterator[np.ndarray]:
    """A file of values in blocks of `count`."""
    with path.open("rb") as file:
        while len(block := np.fromfile(file, dtype, count)):
            yield block
