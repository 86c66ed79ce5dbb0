"""What a run has on disk: as much of its rows as the last whole line of its journal counts."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from virnucpro.store.errors import damaged
from virnucpro.store.sealed import unchecked

BLOCK = 4_096  # names or lengths copied at a time
BLOCK_BYTES = 2**20  # of embeddings copied at a time


@dataclass(frozen=True)
class Committed:
    """What is on disk: how many sequences, residues, rows, bytes of names; a digest of the input up to there.

    `skipped`: how many sequences of the input were left out because their embeddings are not finite.
    """

    sequences: int = 0
    residues: int = 0
    rows: int = 0
    name_bytes: int = 0
    digest: str = ""
    skipped: int = 0

    @property
    def taken(self) -> int:
        """Sequences of the input that are done with."""
        return self.sequences + self.skipped


def read_journal(journal: Path) -> tuple[Committed, int]:
    """What the last whole line of the journal says, and how many lines are not whole."""
    committed, torn = Committed(), 0
    with contextlib.suppress(FileNotFoundError):
        for line in journal.read_bytes().split(b"\n"):
            found = committed_in(line) if line else None
            committed = found or committed
            torn += bool(line) and found is None
    return committed, torn


def committed_in(line: bytes) -> Committed | None:
    """A line of the journal; None for one that is not whole."""
    found = unchecked(line)
    kinds = {field.name: field.type for field in fields(Committed)}
    if not isinstance(found, dict) or not set(found) <= set(kinds):
        return None
    for name, value in found.items():
        if type(value) is not kinds[name] or (isinstance(value, int) and value < 0):
            return None
    return Committed(**found)


@dataclass(frozen=True)
class Rows:
    """The committed rows in `folder`, in the order of the input, a block at a time."""

    folder: Path
    committed: Committed
    row_size: int
    dtype: np.dtype

    def names(self) -> Iterator[list[str]]:
        """All names, `BLOCK` at a time. Raises StoreError where the file is damaged."""
        try:
            with (self.folder / "names").open(encoding="utf-8", newline="\n") as lines:
                for start in range(0, self.committed.sequences, BLOCK):
                    count = min(BLOCK, self.committed.sequences - start)
                    block = [line[:-1] for line in itertools.islice(lines, count)]
                    if len(block) < count:
                        raise damaged(self.folder / "names")
                    yield block
        except UnicodeDecodeError as error:
            raise damaged(self.folder / "names") from error

    def lengths(self) -> Iterator[np.ndarray]:
        """Residues of each sequence, int64, `BLOCK` at a time."""
        return blocks(self.folder / "lengths", np.dtype("<i8"), BLOCK)

    def embeddings(self) -> Iterator[np.ndarray]:
        """Rows of embeddings ``[n, row_size]``, about `BLOCK_BYTES` at a time."""
        at_a_time = max(1, BLOCK_BYTES // (self.row_size * self.dtype.itemsize))
        return blocks(self.folder / "embeddings", np.dtype((self.dtype, (self.row_size,))), at_a_time)

    def skipped(self) -> np.ndarray:
        """Places in the input of the sequences that have no row, int64, ascending."""
        return np.fromfile(self.folder / "skipped", "<i8")


def blocks(path: Path, dtype: np.dtype, count: int) -> Iterator[np.ndarray]:
    """A file of values in blocks of `count`."""
    with path.open("rb") as file:
        while len(block := np.fromfile(file, dtype, count)):
            yield block
