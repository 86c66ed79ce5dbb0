"""What commits compute: embeddings that the suite left of them, and whether two differ by more than rounding.

The suite writes ``{"of": what it is, "bound": the most that rounding explains, "rows": [N, D] numbers}``: in `make
ab` into files, and of fewer proteins, projected, into a cell's notes (`FINGERPRINT`). Nothing here knows a model.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from asv_plugin.notes import Notes

FINGERPRINT = "fingerprint"
"""What benchmarks/measure/outputs.py calls it in a cell's notes."""

NAME = re.compile(r"[\w., -]{1,100}")
"""What an output may be called: it is shown in terminals and on pages."""


@dataclass(frozen=True)
class Output:
    """Embeddings of a few proteins, ``[N, D]``, and by how much of their distance rounding may move one."""

    of: str
    bound: float
    rows: np.ndarray

    @classmethod
    def read(cls, content: Any) -> "Output | None":
        """From JSON; None where that is something else."""
        if not isinstance(content, dict):
            return None
        of, bound = content.get("of"), content.get("bound")
        try:
            rows = np.asarray(content.get("rows"), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        if not (isinstance(of, str) and NAME.fullmatch(of) and isinstance(bound, (int, float))):
            return None
        return cls(of, float(bound), rows) if rows.ndim == 2 and len(rows) > 1 else None


@dataclass(frozen=True)
class Difference:
    """How far two commits' embeddings of the same proteins are apart.

    `moved`: the largest distance that one moved, over the median distance between different proteins.
    """

    of: str
    moved: float
    bound: float

    @property
    def is_change(self) -> bool:
        """Whether it is more than rounding explains; NaN is."""
        return not self.moved <= self.bound

    def __str__(self) -> str:
        return f"moved by {self.moved:.2g} of the distance between proteins; rounding explains {self.bound:.2g}"


def difference(base: Output, head: Output) -> Difference:
    """How far `head` is from `base`: infinitely where their shapes differ, or where BASE's are all the same."""
    if base.rows.shape != head.rows.shape:
        return Difference(base.of, math.inf, base.bound)
    first, second = np.triu_indices(len(base.rows), 1)
    median = float(np.median(np.linalg.norm(base.rows[first] - base.rows[second], axis=1)))
    most = float(np.linalg.norm(head.rows - base.rows, axis=1).max())
    moved = most / median if median else math.inf if most else 0.0
    return Difference(base.of, moved, base.bound)


def fingerprints(notes: Notes) -> dict[str, Output]:
    """The fingerprints that the notes of one commit have, by what they are of."""
    found = (Output.read(note.get(FINGERPRINT)) for note in notes.values() if isinstance(note, dict))
    return {each.of: each for each in found if each}


def changes(base: dict[str, Output], head: dict[str, Output]) -> list[Difference]:
    """What differs by more than rounding between two commits' fingerprints, of those that both have."""
    both = (difference(base[of], each) for of, each in sorted(head.items()) if of in base)
    return [each for each in both if each.is_change]


def history(oldest_first: Iterable[Notes]) -> list[list[Difference]]:
    """For the notes of each commit what differs from the last one before it with a fingerprint of the same."""
    last: dict[str, Output] = {}
    found = []
    for notes in oldest_first:
        now = fingerprints(notes)
        found.append(changes(last, now))
        last |= now
    return found
