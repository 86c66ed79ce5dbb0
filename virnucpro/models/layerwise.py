"""Through a model whose layers are there one at a time, where memory does not hold it, or while it is loaded."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from virnucpro.data.packing import Pack
from virnucpro.models.attention import Rotary
from virnucpro.models.esm2 import ESM2, ESM2Shape, Layer
from virnucpro.models.float32_mode import float32_products
from virnucpro.models.linear import Linear, layer_norm, parameter
from virnucpro.models.weights import Weights


class LayerByLayer:
    """The residual of packs on its way through a model, on the device of `weights`.

    `embedding`: the tokens', taken from `weights`, in the type of the layers, FP32 or 16 bits.
    """

    @torch.no_grad()
    def __init__(self, weights: Weights, embedding: Tensor, packs: Sequence[Pack]):
        shape = weights.shape
        with torch.device("meta"):
            self.outer = ESM2(ESM2Shape(0, shape.dim, shape.heads), "fp32", weights.constants)
        self.outer.embed_tokens.weight = parameter(embedding)
        self.biases = torch.zeros(shape.dim, device=weights.device, dtype=torch.float64)
        """Of the GEMMs so far whose results were added to the residual; see `ESM2.summed_biases`."""
        self.packs: list[tuple[Tensor, Rotary, Tensor, int]] = []
        for pack in packs:
            ids, cu_seqlens = pack.input_ids.to(weights.device), pack.cu_seqlens.to(weights.device)
            x, rotary = self.outer.begin(ids, cu_seqlens, pack.max_seqlen)
            self.packs.append((x, rotary, cu_seqlens, pack.max_seqlen))

    @torch.no_grad()
    def through(self, layer: Layer) -> None:
        """Through the next layer."""
        with float32_products("ieee"):
            attention, feed_forward = layer.self_attn.out_proj.bias, layer.fc2.bias
            for x, rotary, cu_seqlens, longest in self.packs:
                layer.add_attention_(x, self.biases.float(), rotary, cu_seqlens, longest)
                layer.add_feed_forward_(x, (self.biases + attention).float())
            self.biases += attention.double() + feed_forward

    @torch.no_grad()
    def representations(self, weights: Weights) -> list[Tensor]:
        """Of each pack after the last norm, which is taken from `weights`: FP32 ``[T, D]``."""
        norm = self.outer.emb_layer_norm_after
        for leaf, values in weights.of("emb_layer_norm_after").items():
            setattr(norm, leaf, parameter(values))
        return [layer_norm(x, self.biases.float(), norm) for x, *_ in self.packs]


def layer_of(
    weights: Weights, values: dict[str, Tensor], linear: type[Linear] = Linear, dtype: torch.dtype = torch.float32
) -> Layer:
    """A layer of these FP32 values, in a type; in FP32 it shares their memory."""
    with torch.device("meta"):
        layer = Layer(weights.shape, linear, weights.constants.norm_eps)
    layer.load_(dict(values), dtype)
    return layer


def representations(
    model_name: str,
    weights: str | os.PathLike[str],
    device: str,
    packs: Sequence[Pack],
    seed: int = 0,
) -> list[Tensor]:
    """The last layer's representations in FP32, ``[T, D]`` of each pack on the CPU, with one layer held at a time.

    `weights` and `seed` as for `load_esm2_model`.
    """
    values = Weights(model_name, weights, seed, torch.device(device))
    passing = LayerByLayer(values, values.of("embed_tokens")["weight"], packs)
    for index in range(values.shape.layers):
        passing.through(layer_of(values, values.of(f"layers.{index}")))
    return [each.cpu() for each in passing.representations(values)]
