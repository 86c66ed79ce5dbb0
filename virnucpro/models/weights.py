"""A model's values, module by module: from a checkpoint, or random ones of the same architecture."""

import os
import zlib

import torch
from torch import Tensor

from virnucpro.models.checkpoint import read_checkpoint
from virnucpro.models.esm2 import ESM2, PAD, SHAPES, Constants, parts_of


class Weights:
    """FP32 values for a model's modules on a device, each made or copied when it is asked for, and given away.

    `weights`: ``random`` (seeded with `seed`), or as for `read_checkpoint`. `shape`, `constants`: the model's.
    """

    def __init__(self, model_name: str, weights: str | os.PathLike[str], seed: int, device: torch.device):
        self.shape, self.seed, self.device = SHAPES[model_name], seed, device
        self._stored: dict[str, Tensor] | None = None
        self.constants = Constants.exact(self.shape)
        if weights != "random":
            checkpoint = read_checkpoint(model_name, weights)
            self._stored, self.constants = checkpoint.parameters, checkpoint.constants
        with torch.device("meta"):
            self._plan = ESM2(self.shape)

    def of(self, module: str) -> dict[str, Tensor]:
        """Values for all parameters of ``layers.N``, ``embed_tokens`` or ``emb_layer_norm_after``, by their names.

        The names are this project's. What a checkpoint stores of them is forgotten, so each can be had once.
        """
        values = {}
        for name, planned in self._plan.get_submodule(module).named_parameters():
            values[name] = torch.empty(planned.shape, device=self.device, dtype=torch.float32)
            parts = parts_of(f"{module}.{name}")
            for part, place in zip(parts, values[name].chunk(len(parts)), strict=True):
                if self._stored is None:
                    place.copy_(random_weights(part, place.shape, self.seed, self.device))
                else:
                    place.copy_(self._stored.pop(part))
        return values


def random_weights(name: str, shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """Seeded FP32 values for one parameter, on the device, at the scale of PyTorch's own initialisation.

    Seeded by the parameter's name, so that neither the order nor the precision changes them; besides the
    model, the FP32 values of one parameter at a time are all that is held.
    """
    values = torch.empty(shape, device=device, dtype=torch.float32)
    if "layer_norm" in name:
        return values.fill_(1.0 if name.endswith("weight") else 0.0)
    generator = torch.Generator(device).manual_seed(seed + zlib.crc32(name.encode()))
    if name == "embed_tokens.weight":
        values.normal_(generator=generator)[PAD] = 0.0
        return values
    bound = shape[-1] ** -0.5
    return values.uniform_(-bound, bound, generator=generator)
