"""FP32 with one layer at a time gives what the whole model gives."""

import torch

from tests.conftest import MODEL, RAGGED
from virnucpro.data.packing import pack
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.layerwise import representations


def test_one_layer_at_a_time_gives_the_whole_models_representations(checkpoint):
    packs = list(pack(RAGGED, 300))
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    for each, found in zip(packs, representations(MODEL, checkpoint, "cpu", packs), strict=True):
        arguments = (each.input_ids, each.cu_seqlens, each.max_seqlen)
        expected = model.forward_packed(*arguments)["representations"][6]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_random_weights_are_those_of_the_seed():
    packs = list(pack(RAGGED[:3], 300))
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights="random", seed=3)
    (found,) = representations(MODEL, "random", "cpu", packs, seed=3)
    expected = model.forward_packed(packs[0].input_ids, packs[0].cu_seqlens, packs[0].max_seqlen)
    torch.testing.assert_close(found, expected["representations"][6], rtol=1e-5, atol=1e-5)
