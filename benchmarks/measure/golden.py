"""Embeddings of ESM-2's own weights that others have published, to compare with where those weights are at hand.

In ``tests/golden``: for a model ``names``, ``proteins``, ``embeddings`` float32 ``[N, D]`` (the last layer's mean
over residues, FP32) and ``source``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..suite.workloads import Protein

FOLDER = Path(__file__).parents[2] / "tests" / "golden"

FP32_LIMIT = 1e-4
"""The most of an embedding's norm that FP32 may differ by; rotary frequencies that are not rounded make more."""

LIMIT = 0.05
"""The most of the median distance between the embeddings that another precision may differ by."""


@dataclass(frozen=True)
class Golden:
    """Published embeddings ``[N, D]`` of `proteins`, and where they come from."""

    proteins: list[Protein]
    embeddings: Tensor
    source: str


@dataclass(frozen=True)
class Difference:
    """The largest difference from published embeddings, of their norm (FP32) or of their median distance."""

    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it is within the limit; NaN is not."""
        return self.value <= self.limit


def golden(model: str, folder: Path = FOLDER) -> Golden | None:
    """What is published of a model; None where nothing is."""
    path = folder / f"{model}.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        entries = list(zip(file["names"].tolist(), file["proteins"].tolist(), strict=True))
        return Golden(entries, torch.from_numpy(file["embeddings"]), str(file["source"]))


def difference(published: Golden, found: Tensor, precision: str) -> Difference:
    """How far embeddings ``[N, D]`` of the published proteins, in a precision, are from the published ones.

    One embedding has no distance to others: then it is of its norm, and the limit that of FP32 or `LIMIT`.
    """
    expected = published.embeddings.double()
    moved = torch.linalg.vector_norm(found.double() - expected, dim=1)
    if precision == "fp32" or len(expected) == 1:
        of_norm = (moved / torch.linalg.vector_norm(expected, dim=1)).max().item()
        return Difference(of_norm, FP32_LIMIT if precision == "fp32" else LIMIT)
    return Difference((moved.max() / torch.pdist(expected).quantile(0.5)).item(), LIMIT)
