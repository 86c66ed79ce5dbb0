"""Windows of long proteins, and how much of each residue's embedding comes from each.

Crops and averages of them are what ESM's authors suggest for proteins longer than those of the training
(github.com/facebookresearch/esm, issue 21).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from virnucpro.errors import ArgumentError


@dataclass(frozen=True)
class Window:
    """Windows of `size` residues; each begins `size` - `overlap` after the one before it.

    The last one is moved forward so that it ends where the protein does: all have `size` residues. A protein of at
    most `size` residues is one window.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ArgumentError(f"{self}: a window has at least 1 residue")
        if not 0 <= self.overlap < self.size:
            raise ArgumentError(f"{self}: windows of {self.size} residues overlap by 0 to {self.size - 1}")

    @classmethod
    def parse(cls, text: str) -> "Window":
        """From ``window:1022:256``; ArgumentError for what is not of that form."""
        found = re.fullmatch(r"window:([0-9]{1,9}):([0-9]{1,9})", text)
        if not found:
            raise ArgumentError(f"{text!r}: write window:SIZE:OVERLAP in residues, as window:1022:256")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"window:{self.size}:{self.overlap}"

    def of(self, residues: int) -> Iterator[tuple[int, np.ndarray | None]]:
        """Where each window of a protein begins, and its weights, float32 ``[size]``; None for the only one.

        A residue's weights sum to 1. In each window that holds it they are proportional to its distance from the
        window's nearer end, where the residue at the end has 1.
        """
        if residues <= self.size:
            yield 0, None
            return
        starts = [*range(0, residues - self.size, self.size - self.overlap), residues - self.size]
        slope = np.minimum(np.arange(1, self.size + 1), np.arange(self.size, 0, -1))
        total = np.zeros(residues, dtype=np.int64)
        for start in starts:
            total[start : start + self.size] += slope
        for start in starts:
            yield start, (slope / total[start : start + self.size]).astype(np.float32)

    def count(self, residues: int) -> int:
        """How many windows a protein has."""
        return 1 if residues <= self.size else 1 - (self.size - residues) // (self.size - self.overlap)
