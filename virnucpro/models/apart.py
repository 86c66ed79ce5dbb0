"""Which input channels of a layer's GEMMs stand out, measured with a few proteins while the weights load.

ESM-2's residual has a channel that is far larger than the rest (3B's published embeddings show it). One such
channel sets a token's scale, and costs all others their precision in 8 bits. So a GEMM keeps the channels that
stand out apart, in 16 bits; see `quantised`.
"""

import os
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from virnucpro.data.packing import Pack, make_pack
from virnucpro.data.tokens import RESIDUES, encode
from virnucpro.models.esm2 import GEMMS, SHAPES
from virnucpro.models.layerwise import LayerByLayer, layer_of
from virnucpro.models.linear import Linear
from virnucpro.models.precision import PRECISIONS
from virnucpro.models.weights import Weights

Channels = Mapping[str, Sequence[int]]
"""The channels apart by GEMM, as ``layers.3.fc1``; those without any may be left out."""

MOST = 8
"""Channels apart in a GEMM."""

LARGEST, ROOT_MEAN_SQUARE = 3.0, 2.0
"""A channel stands out whose largest magnitude, or root mean square, is as many times the `MOST` + 1st largest's.

In random weights, without a massive channel, the largest are up to 1.6 times that. The mean counts by itself:
a channel that is always large is rounded alike for every token, which does not average out.
"""


def calibration() -> Pack:
    """Proteins of 499 tokens in which all letters occur, ``<mask>``, low complexity, and 300 residues."""
    rng = random.Random("virnucpro channels")
    common = "ACDEFGHIKLMNPQRSTVWY"
    proteins = [
        "".join(rng.choices(common, k=300)),
        "".join(rng.choices(common, k=60)),
        "".join(rng.sample(RESIDUES, len(RESIDUES))),
        "MKT<mask>AYIA<mask><mask>KQRQISFVKSHFSRQ",
        "Q" * 24 + "SR" * 8,
        "M",
    ]
    return make_pack([str(n) for n in range(len(proteins))], [encode(str(n), p) for n, p in enumerate(proteins)])


class Probe(Linear):
    """A GEMM that notes how large its input's channels are."""

    sizes: tuple[Tensor, Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """As `Linear.forward`."""
        self.sizes = sizes(x)
        return super().forward(x)

    def gelu(self, x: Tensor) -> Tensor:
        """As `Linear.gelu`."""
        self.sizes = sizes(x)
        return super().gelu(x)

    def add_to_(self, residual: Tensor, x: Tensor) -> None:
        """As `Linear.add_to_`."""
        self.sizes = sizes(x)
        super().add_to_(residual, x)


def sizes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest magnitudes and root mean squares of the channels of ``[T, K]``, the `MOST` + 1 largest of each.

    FP64 ``[2, MOST + 1]``, and which channels they are of.
    """
    x = x.float()
    both = torch.stack((x.abs().amax(0), torch.linalg.vector_norm(x, dim=0) * len(x) ** -0.5))
    largest, channels = both.topk(MOST + 1)
    return largest.double(), channels.double()


def standing_out(largest: list[list[float]], channels: list[list[float]]) -> list[int]:
    """The channels that stand out, of what `sizes` found, at most `MOST`: large magnitudes come first."""
    found = [
        int(channel)
        for size, of, times in zip(largest, channels, (LARGEST, ROOT_MEAN_SQUARE), strict=True)
        for channel, each in zip(of[:MOST], size, strict=False)
        if each >= times * size[MOST]  # not where that is NaN
    ]
    return sorted(list(dict.fromkeys(found))[:MOST])


class Chooser:
    """Finds the channels apart, layer by layer, as the layers' values are loaded.

    It computes in `dtype`, the type of the model's activations; `embedding`: the tokens', of `weights`.
    """

    def __init__(self, weights: Weights, embedding: Tensor, dtype: torch.dtype, proteins: Pack | None = None):
        self._weights, self._dtype = weights, dtype
        self._passing = LayerByLayer(weights, embedding.to(dtype), [proteins or calibration()])
        self.times: list[dict[str, float]] = []
        """By layer and GEMM: how many times the `MOST` + 1st largest channel's magnitude the largest one's is."""

    def next_layer(self, values: dict[str, Tensor]) -> dict[str, list[int]]:
        """Of the next layer's GEMMs, by name; `values` are its FP32 values, which stay as they are."""
        layer = layer_of(self._weights, values, Probe, self._dtype)
        self._passing.through(layer)
        gemms = [layer.get_submodule(name) for name in GEMMS]
        found = torch.stack([torch.stack(gemm.sizes) for gemm in gemms if isinstance(gemm, Probe)]).tolist()
        magnitudes = [largest[0] for largest, _ in found]
        self.times.append(
            {name: of[0] / of[MOST] if of[MOST] else 1.0 for name, of in zip(GEMMS, magnitudes, strict=True)}
        )
        return {name: standing_out(*both) for name, both in zip(GEMMS, found, strict=True)}


class Standing(NamedTuple):
    """How far the channels of all layers' GEMMs of one kind stand out.

    `times`: the most that the largest channel's magnitude is of the `MOST` + 1st largest's, in any layer.
    `channels`: how many are apart, in how many `layers`.
    """

    times: float
    channels: int
    layers: int


def measure(model_name: str, weights: str | os.PathLike[str], device: str, seed: int = 0) -> dict[str, Standing]:
    """How far channels stand out, by kind of GEMM, as ``fc1``; one layer is held at a time.

    `weights` and `seed` as for `load_esm2_model`.
    """
    values = Weights(model_name, weights, seed, torch.device(device))
    dtype = PRECISIONS["int8"].activations_on(values.device.type)
    chooser = Chooser(values, values.of("embed_tokens")["weight"], dtype)
    found = [chooser.next_layer(values.of(f"layers.{index}")) for index in range(SHAPES[model_name].layers)]
    return {
        name.rpartition(".")[2]: Standing(
            max(times[name] for times in chooser.times),
            sum(len(apart[name]) for apart in found),
            sum(bool(apart[name]) for apart in found),
        )
        for name in GEMMS
    }
