"""Rows of a seeded 8M, kept in tests/golden/engine: ``python -m tests.engine.golden`` computes them anew.

FP32 is fair-esm's own. BF16 and INT8 are the engine's on a CPU; `int8_apart` has channels apart, which these
weights would not need.
"""

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

import esm
import numpy as np
import torch
from torch import Tensor

from tests.checkpoints import save_in_fair_esms_format, seeded_8m
from tests.conftest import MODEL, RAGGED
from virnucpro.data.packing import pack
from virnucpro.models.esm2 import ESM2, GEMMS
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.async_inference import AsyncInferenceRunner
from virnucpro.pipeline.provenance import device_name

PATH = Path(__file__).parents[1] / "golden" / "engine" / f"{MODEL}.npz"

APART = {f"layers.{index}.{gemm}": [5, 17 * (index + 1), 200] for index in range(6) for gemm in GEMMS}
KINDS: Mapping[str, tuple[str, Mapping[str, list[int]]]] = {
    "fp32": ("fp32", {}),
    "bf16": ("bf16", {}),
    "int8": ("int8", {}),
    "int8_apart": ("int8", APART),
}
"""What is kept: the precision, and the channels apart."""


def weights() -> esm.ESM2:
    """`seeded_8m` with norms whose gains and biases differ, which random weights leave at 1 and 0."""
    model = seeded_8m()
    generator = torch.Generator().manual_seed(0)
    for name, values in model.named_parameters():
        if "layer_norm" in name and not name.startswith("lm_head"):
            values.data.add_(torch.empty_like(values).normal_(std=0.1, generator=generator))
    return model


def loaded(checkpoint: Path, kind: str, device: str = "cpu", precision: str | None = None) -> ESM2:
    """The model of a kind; `precision`: another one than the kind's."""
    own, apart = KINDS[kind]
    how = {"precision": precision or own, "channels_apart": apart}
    return load_esm2_model(MODEL, device, weights=checkpoint, **how)[0]


def rows(model: ESM2, proteins: list[tuple[str, str]]) -> Tensor:
    """The engine's: float32 ``[N, D]``, the mean over the residues, on the CPU."""
    return torch.cat([result.embeddings for result in AsyncInferenceRunner(model).run(pack(proteins, 1_024))])


def fair_esms(model: esm.ESM2, proteins: list[tuple[str, str]]) -> Tensor:
    """fair-esm's in FP32, of each protein alone."""
    converter = model.alphabet.get_batch_converter()
    with torch.inference_mode():
        tokens = [converter([protein])[2] for protein in proteins]
        return torch.stack([model(each, [6])["representations"][6][0, 1:-1].mean(0) for each in tokens])


def moved(found: Tensor, expected: Tensor) -> Tensor:
    """How far each row is moved, of its norm: ``[N]``."""
    distances = torch.linalg.vector_norm(found.double() - expected.double(), dim=1)
    return distances / torch.linalg.vector_norm(expected.double(), dim=1)


def main() -> None:
    """Compute all rows and write them."""
    letters = random.Random(0).choices("ACDEFGHIKLMNPQRSTVWY", k=300)
    proteins = [*(each for each in RAGGED if each[0] != "long"), ("300", "".join(letters))]
    model = weights()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, f"{MODEL}.pt")
        save_in_fair_esms_format(model, checkpoint)
        found = {kind: rows(loaded(checkpoint, kind), proteins).numpy() for kind in KINDS}
    found["fp32"] = fair_esms(model, proteins).numpy()
    names, letters = zip(*proteins, strict=True)
    source = f"{device_name(torch.device('cpu'))}, PyTorch {torch.__version__}"
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, names=names, proteins=letters, source=source, **found)


if __name__ == "__main__":
    main()
