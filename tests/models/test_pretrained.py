"""ESM-2's own weights, where they are at hand, beside numbers that others have published."""

from pathlib import Path

import pytest
import torch

from benchmarks.measure import golden
from tests.conftest import MODEL
from virnucpro.data.packing import pack
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.precision import PRECISIONS, unsupported_reason
from virnucpro.pipeline.async_inference import AsyncInferenceRunner

PUBLISHED = ["esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

TRANSFORMERS = torch.tensor(
    [[0.1444, 0.5413, 0.3248], [0.3034, 0.0053, 0.3108], [0.3228, -0.2499, 0.3415]],
)
"""facebook/esm2_t6_8M_UR50D, GLDALQITV: channels 0 to 2 of BOS, G and L in the last layer. From
huggingface/transformers, tests/models/esm/test_modeling_esm.py."""


def needs(model: str) -> None:
    path = Path(torch.hub.get_dir(), "checkpoints", f"{model}.pt")
    if not path.exists():
        pytest.skip(f"needs ESM-2's own checkpoint at {path}")


@pytest.mark.pretrained
def test_the_8m_gives_the_numbers_of_transformers_tests():
    needs(MODEL)
    model, converter = load_esm2_model(MODEL, DEVICE, precision="fp32")
    tokens = converter([("a", "GLDALQITV")])[2].to(DEVICE)
    found = model(tokens)["representations"][6][0, :3, :3].cpu()
    assert (found - TRANSFORMERS).abs().max() <= 1e-4


@pytest.mark.pretrained
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_embeddings_are_the_published_ones(name, precision):
    needs(name)
    capability = torch.cuda.get_device_capability() if DEVICE == "cuda" else None
    reason = unsupported_reason(precision, capability, DEVICE)
    if reason:
        pytest.skip(reason)
    published = golden.golden(name)
    model, _ = load_esm2_model(name, DEVICE, precision=precision)
    results = AsyncInferenceRunner(model).run(pack(published.proteins, 2_048))
    found = torch.cat([result.embeddings for result in results])
    assert golden.difference(published, found, precision).passed
