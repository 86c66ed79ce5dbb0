"""Fidelity of random weights with a massive channel, as ESM-2 3B's: a second figure, in a cell's notes.

Random weights have no channel that stands out, and 8 bits round them more gently than weights that have one.
"""

import gc
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..suite.hardware import Hardware
from ..suite.places import missing
from ..suite.program import embed, load_with, packed, state
from ..suite.workloads import fidelity_proteins
from .massive import Channel, massive, no_room
from .seeded import save
from .timing import free_cached_memory

NOTE = "massive_channel"
"""What the second figure is called in a cell's notes."""

CHANNEL = Channel()

EVERY = {"cpu": 8, "cuda": 1}
"""Of the fidelity proteins every so many are embedded in the precision, and all in FP32.

CPUs would take half a minute for all in FP16. With a massive channel errors are alike: the largest of 8 was 0.97
to 1 times that of all 64.
"""


def second_figure(root: Path, model: str, precision: str, hardware: Hardware) -> dict[str, Any]:
    """A precision's largest error over distance with seeded weights that have a massive channel, and about it.

    `root`: a folder that the processes of a run share: the first one that needs a model leaves its checkpoint and
    FP32's embeddings there. ``skipped`` instead, with the reason, where this commit or machine cannot.
    Raises ArithmeticError for NaN or Inf.
    """
    folder = folder_of(root, model)
    reason = missing("attend") or no_room(root, model, "fidelity with a massive channel", folder.exists())
    if reason:
        return {"skipped": reason}
    if not folder.exists():
        prepare(folder, model, hardware)
    every = EVERY[hardware.device]
    reference = torch.load(folder / "fp32.pt", weights_only=True)
    esm2 = load_with(model, precision, hardware.device, str(folder / f"{model}.pt"))
    found = pooled(esm2, every)
    del esm2
    free(hardware)
    median = torch.pdist(reference).quantile(0.5)
    moved = torch.linalg.vector_norm(found - reference[::every], dim=1).max()
    return {
        "error_over_distance": float(f"{moved / median:.6g}"),
        "proteins": len(found),
        "median_distance": float(f"{median:.6g}"),
        "ratio": CHANNEL.ratio,
        "gain": CHANNEL.gain,
    }


def folder_of(root: Path, model: str) -> Path:
    """Where a model's checkpoint and FP32's embeddings are."""
    return root / f"massive-{model}"


def prepare(folder: Path, model: str, hardware: Hardware) -> None:
    """Make the weights, and leave them and FP32's embeddings of the fidelity proteins in a new folder."""
    unfinished = folder.with_name(f"{folder.name}-{os.getpid()}")
    unfinished.mkdir()
    try:
        esm2 = load_with(model, "fp32", hardware.device, "random")
        (few,) = packed(fidelity_proteins("mixed")[:26:2], 100_000)
        massive(esm2, few, [CHANNEL])
        save(state(esm2), esm2.shape, unfinished / f"{model}.pt")
        torch.save(pooled(esm2), unfinished / "fp32.pt")
        del esm2
        free(hardware)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def free(hardware: Hardware) -> None:
    """Give back the memory of models that are gone: those that are measured come next."""
    gc.collect()
    free_cached_memory(hardware.device)


def pooled(esm2: Any, every: int = 1) -> Tensor:
    """Embeddings ``[N, D]`` of every so many of the fidelity proteins, float64 on the CPU.

    Raises ArithmeticError for NaN or Inf.
    """
    found = embed(esm2, fidelity_proteins("mixed")[::every]).double()
    if not found.isfinite().all():
        raise ArithmeticError("an embedding has NaN or Inf")
    return found
