"""Triton kernels for the steps of a layer that are not GEMMs: rotary positions, norm, attention.

PyTorch alone reads and writes the activations several times for the first two; these do it once. All compute in
FP32 and store in the type of the activations. Nothing is compiled for a number of tokens or the length of a
protein, so any pack runs the kernels that are there. Tested without a GPU through Triton's interpreter.
"""

from virnucpro.models.kernels.attention import Blocks, attend, blocks_of
from virnucpro.models.kernels.norm import layer_norm
from virnucpro.models.kernels.rotary import rotate_

__all__ = ["Blocks", "attend", "blocks_of", "layer_norm", "rotate_"]
