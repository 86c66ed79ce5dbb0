"""What a commit computes, left for asv_plugin to compare with what another one does.

In `make ab` (`leave`): the embeddings of the seeded proteins, from a checkpoint of the suite's own (`seeded`), by
a process of their own, once for each model and precision. In a record (`fingerprint`): a few projections of the
embeddings of four proteins, with the weights that the cell has loaded.
"""

from pathlib import Path
from typing import Any

import torch

from ..suite.hardware import Hardware
from ..suite.outcomes import write_atomically
from ..suite.places import find
from ..suite.program import WEIGHTS, embed, load_with
from ..suite.workloads import fidelity_proteins
from .massive import no_room
from .seeded import write_checkpoint
from .timing import in_fresh_process

FOLDER = "outputs"
"""A folder in the working directory of a process that is to leave its embeddings: asv_plugin/compare/outputs.py.
Beside it, once its links are followed, are those of other commits, and the checkpoint."""

FINGERPRINT = "fingerprint"
"""What it is called in a cell's notes."""

BOUNDS = {
    "cpu": {"fp32": 1e-4, "fp16": 0.005, "bf16": 0.03, "int8": 0.04},
    "cuda": {"fp32": 1e-4, "tf32": 0.003, "fp16": 0.005, "bf16": 0.03, "int8": 0.04, "fp8": 0.15},
}
"""By device and precision, the most of the median distance between proteins by which rounding moves an embedding.

Measured with `seeded` weights of 8M and 16 proteins on a CPU (changed-embeddings.txt in
results/AMD-EPYC-AVX2-2-cores). Repeated, in other packs, in another order, with other numbers of threads, no bit
changes. Code for older CPUs moves FP32 by 1.4e-6, BF16 by 0.008 and INT8 by 0.011; attention by other kernels BF16
by 0.008 and INT8 by 0.007; INT8 without oneDNN by 0.005. Where each result of a GEMM is rounded at random, as by
other tiles at worst (emulated): FP32 5e-7, TF32 0.0003, FP16 0.0007, BF16 0.007, INT8 0.017, FP8 0.047. The bounds
are 2.4 to 11 times the largest of these, FP32's more: deeper models round more often: 650M and 3B are 1.4 to 1.9
times as far from FP32 as 8M. For GPUs they are derived in this way, not measured.

Faults in FP32, BF16 and INT8 alike: half of the layers 2.1, one layer 1.2, rotary frequencies shifted by one 0.62,
no token dropout 0.30, cosines shifted by one place 0.22, EOS in the mean 0.091. FP8's bound hides the last in 8M.
"""

FINGERPRINT_FACTOR = 3
"""How many times as large a fingerprint's bound is: in eight projections distances are less sure."""

EVERY = 4
"""A CPU embeds every so many of the 64 proteins, those that the bounds were measured with: all take 5 to 10 s."""

EVERY_WHERE_SLOW = {"fp16": 8, "bf16": 8, "int8": 16}
"""On a CPU without units for them. The shortest protein, which a wrong pooling moves most, is always there."""

PROJECTIONS, FEW = 8, 4


def leave(model: str, precision: str, hardware: Hardware) -> None:
    """Leave a cell's embeddings where `FOLDER` is and has none of this model and precision, or why there are none.

    This process must not have computed anything with PyTorch yet.
    """
    path = Path(FOLDER, f"{model}-{precision}.json")
    if not path.parent.exists() or path.exists():
        return
    checkpoint = path.parent.resolve().parent / f"{model}.pt"
    about: dict[str, Any] = {"of": name_of(model, precision)}
    reason = no_room(checkpoint.parent, model, "comparing embeddings", checkpoint.exists())
    if reason:
        write_atomically(path, about | {"skipped": reason})
        return
    try:
        if not checkpoint.exists():
            in_fresh_process(lambda: write_checkpoint(checkpoint, find("SHAPES")[model], hardware.device))
        rows = in_fresh_process(lambda: embeddings_of(model, precision, hardware, checkpoint))
        write_atomically(path, about | {"bound": BOUNDS[hardware.device][precision], "rows": rows})
    except Exception as error:
        write_atomically(path, about | {"failed": str(error).splitlines()[0]})


def embeddings_of(model: str, precision: str, hardware: Hardware, checkpoint: Path) -> list[list[float]]:
    """The embeddings ``[N, D]`` of the fidelity proteins, on a CPU of a few."""
    esm2 = load_with(model, precision, hardware.device, str(checkpoint))
    few = fidelity_proteins("mixed")[:: every(precision, hardware)]
    found: list[list[float]] = embed(esm2, few).tolist()
    return found


def every(precision: str, hardware: Hardware) -> int:
    """Of how many proteins one is embedded, so that it takes seconds."""
    if hardware.device != "cpu":
        return 1
    return EVERY_WHERE_SLOW[precision] if precision in hardware.slow else EVERY


def fingerprint(esm2: Any, model: str, precision: str, device: str) -> dict[str, Any]:
    """For a cell's notes: eight seeded projections of the embeddings of the four shortest fidelity proteins."""
    rows = embed(esm2, fidelity_proteins("mixed")[:FEW])
    directions = torch.randn(rows.shape[1], PROJECTIONS, generator=torch.Generator().manual_seed(0))
    projected = rows.double() @ directions.double() / PROJECTIONS**0.5
    weights = WEIGHTS if WEIGHTS in ("random", "pretrained") else "own"
    return {
        FINGERPRINT: {
            "of": f"{name_of(model, precision)}, {weights} weights",
            "bound": FINGERPRINT_FACTOR * BOUNDS[device][precision],
            "rows": [[float(f"{value:.6g}") for value in row] for row in projected.tolist()],
        }
    }


def name_of(model: str, precision: str) -> str:
    """For people to read."""
    return f"{model} in {precision.upper()}"
