"""How many tokens a pack should have: enough to fill the device, as far as its memory goes."""

import torch

from virnucpro.models.esm2 import ESM2
from virnucpro.models.precision import PRECISIONS

DEFAULT_TOKEN_BUDGET = {"cpu": 2_048, "cuda": 49_152}
"""Tokens from which on more made the model faster by less than 2 %: 8M and 35M measured on two CPU cores, 650M and
3B on an H100."""

SHARE_OF_FREE_MEMORY = 0.8
"""What is left over is for PyTorch's allocator, which rounds up, and for kernels' own scratch."""


def token_budget(model: ESM2) -> int:
    """How many tokens a pack should have for this model where it is: enough to fill the device, if memory allows.

    The smaller of `DEFAULT_TOKEN_BUDGET` and `SHARE_OF_FREE_MEMORY` of the free memory over `bytes_per_token`; at
    least 1. Free on a GPU is what the driver has and what PyTorch holds without using it; a CPU gets the default.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return DEFAULT_TOKEN_BUDGET["cpu"]
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    return max(1, min(DEFAULT_TOKEN_BUDGET["cuda"], int(SHARE_OF_FREE_MEMORY * free / bytes_per_token(model))))


def bytes_per_token(model: ESM2) -> int:
    """The most bytes of activations that a token needs at a time.

    In a layer: the residual, its norm, and 4 D hidden values, or queries, keys, values and what attention makes
    of them: 6 D values of the activations' type. With 8-bit GEMMs: the residual and the hidden values, 5 D, and in
    a byte each the larger of two: the norm, while the hidden values are made of it, or these once more. While the
    last layer is pooled: two copies of D in FP32 beside the residual and the last norm.
    """
    size: int = model.embed_tokens.weight.element_size()
    in_a_layer = 6 * size if PRECISIONS[model.precision].bytes_per_weight > 1 else 5 * size + 4
    return model.embed_dim * max(in_a_layer, 2 * size + 2 * 4)
