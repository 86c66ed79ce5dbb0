"""Which input channels of a layer's GEMMs stand out, measured with a few proteins while the weights load.

ESM-2's residual has a channel that is far larger than the rest (3B's published embeddings show it). One such
channel sets a token's scale, and costs all others their precision in 8 bits. So a GEMM keeps the channels that
stand out apart, in 16 bits; see `quantised`.
"""

import random
from collections.abc import Mapping, Sequence

from torch import Tensor

from virnucpro.data.packing import Pack, make_pack
from virnucpro.data.tokens import RESIDUES, encode
from virnucpro.models.esm2 import GEMMS
from virnucpro.models.layerwise import LayerByLayer, fp32_layer
from virnucpro.models.linear import Linear
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
    """An FP32 GEMM that notes which of its input's channels stand out."""

    found: list[int]

    def forward(self, x: Tensor) -> Tensor:
        """As `Linear.forward`."""
        self.found = standing_out(x)
        return super().forward(x)

    def gelu(self, x: Tensor) -> Tensor:
        """As `Linear.gelu`."""
        self.found = standing_out(x)
        return super().gelu(x)

    def add_to_(self, residual: Tensor, x: Tensor) -> None:
        """As `Linear.add_to_`."""
        self.found = standing_out(x)
        super().add_to_(residual, x)


def standing_out(x: Tensor) -> list[int]:
    """The channels of ``[T, K]`` that stand out, at most `MOST`."""
    found: set[int] = set()
    for size, times in ((x.abs().amax(0), LARGEST), (x.square().mean(0).sqrt(), ROOT_MEAN_SQUARE)):
        largest, channels = size.topk(MOST + 1)
        found.update(channels[:MOST][largest[:MOST] >= times * largest[MOST]].tolist())
    return sorted(sorted(found, key=lambda channel: -float(x[:, channel].abs().max()))[:MOST])


class Chooser:
    """Finds the channels apart, layer by layer, as the layers' values are loaded."""

    def __init__(self, weights: Weights, embedding: Tensor, proteins: Pack | None = None):
        self._weights, self._passing = weights, LayerByLayer(weights, embedding, [proteins or calibration()])

    def next_layer(self, values: dict[str, Tensor]) -> dict[str, list[int]]:
        """Of the next layer's GEMMs, by name; `values` are its FP32 values, which stay as they are."""
        layer = fp32_layer(self._weights, values, Probe)
        self._passing.through(layer)
        return {name: layer.get_submodule(name).found for name in GEMMS}  # type: ignore[misc]
