"""fair-esm's own ESM-2 as a baseline."""

import esm
from torch import Tensor

from ..measure.gemms import Shape, float32_gemms
from .base import Encode, State, fill


def fair_esm(shape: Shape, precision: str, device: str, state: State | None) -> Encode:
    """fair-esm's own ESM-2."""
    peer = fill(lambda: esm.ESM2(shape.layers, shape.dim, shape.heads), state, precision, device)

    def encode(tokens: Tensor) -> Tensor:
        with float32_gemms(precision):
            return peer(tokens, repr_layers=[shape.layers])["representations"][shape.layers]

    return encode
