"""How far a precision moves embeddings, against how far apart the embeddings of different proteins lie."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..suite.outcomes import Measurement
from ..suite.program import Embedder, runner
from ..suite.workloads import Protein

FIGURE = "max error over distance"

LARGEST_ERROR = 0.05
"""The most of it that is faithful enough. A copy of the advice's, which this does not import."""

LEAST_PROTEINS = 32
"""Fewer different ones of a user's do not tell how far apart proteins lie."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of the same proteins in the same order, float64 on the CPU.

    `pooled`: ``[N, D]``, the mean over residues. `residues`: ``[R, D]``, one after the other.
    """

    pooled: Tensor
    residues: Tensor

    def __post_init__(self) -> None:
        if not self.pooled.isfinite().all():
            raise ArithmeticError("an embedding has NaN or Inf")


def compare(fp32: Embedder, other: Embedder, proteins: Sequence[Protein]) -> Measurement:
    """What `fidelity` says of proteins that two embedders hold, in FP32 and in another precision.

    n/a for fewer than `LEAST_PROTEINS` different proteins. Raises ArithmeticError for NaN or Inf.
    """
    different = len({residues for _, residues in proteins})
    if different < LEAST_PROTEINS:
        reason = f"the FASTA file has {different} different proteins, and fidelity needs at least {LEAST_PROTEINS}"
        return Measurement(unavailable={FIGURE: reason})
    found = fidelity(*(of_results(runner(each.esm2, pool="residue").run(fp32.batches)) for each in (fp32, other)))
    about = found.notes["fidelity"] | {"residues": sum(len(residues) for _, residues in proteins)}
    return Measurement(found.samples, {"fidelity": about}, found.unavailable)


def of_results(results: Iterable[Any]) -> Embedded:
    """From what a runner that gives an embedding for each residue yields."""
    return of_residues(rows for result in results for rows in result.embeddings.split(list(result.residues)))


def of_residues(proteins: Iterable[Tensor]) -> Embedded:
    """From the embeddings of each protein's residues, ``[residues, D]``."""
    rows = [each.double() for each in proteins]
    return Embedded(torch.stack([each.mean(0) for each in rows]), torch.cat(rows))


def fidelity(reference: Embedded, other: Embedded) -> Measurement:
    """The largest distance that an embedding moves over the median distance of different proteins' references.

    n/a where that median is 0. The notes: that median, the smallest cosines to the reference, of pooled embeddings
    and of residues, and the share of proteins whose nearest neighbour stays the same.
    """
    moved = torch.linalg.vector_norm(other.pooled - reference.pooled, dim=1).max().item()
    median = torch.pdist(reference.pooled).quantile(0.5).item()
    about = {
        "proteins": len(reference.pooled),
        "median_distance": float(f"{median:.6g}"),
        "smallest_cosine": smallest_cosine(reference.pooled, other.pooled),
        "smallest_residue_cosine": smallest_cosine(reference.residues, other.residues),
        "same_nearest_neighbour": (nearest(reference.pooled) == nearest(other.pooled)).double().mean().item(),
    }
    notes = {"fidelity": about}
    if median == 0:
        return Measurement({}, notes, {FIGURE: "FP32's embeddings of different proteins are all the same"})
    return Measurement({FIGURE: [float(f"{moved / median:.6g}")]}, notes)


def smallest_cosine(reference: Tensor, other: Tensor) -> float:
    """Of rows ``[N, D]`` that belong together."""
    return torch.cosine_similarity(reference, other, dim=1).min().item()


def nearest(embeddings: Tensor) -> Tensor:
    """For each row of ``[N, D]`` the one that lies nearest to it, ``[N]``."""
    return torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf).argmin(1)
