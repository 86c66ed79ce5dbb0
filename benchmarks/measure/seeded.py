"""A checkpoint of the suite's own making, by which the embeddings of two commits are compared.

No commit has a part in it, so a commit that seeds its random weights in another way does not differ by that. Its
rotary frequencies are exact: commits that use what a checkpoint stores and those that compute them anew agree.
"""

import zlib
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCABULARY, PAD = 33, 1  # of ESM-2's alphabet

SHARPER = 3
"""Queries and keys are so many times as large as PyTorch draws them: else attention hardly depends on places."""


def write_checkpoint(path: Path, shape: Any, device: str) -> Path:
    """Write seeded weights as fair-esm's checkpoints are, which commits of all ages take.

    `shape`: the ``layers``, ``dim`` and ``heads`` of a model. All parts count: biases and norms are not 0 and 1.
    """
    head = shape.dim // shape.heads
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, head, 2).float() / head)
    state = {"embed_tokens.weight": drawn("embed_tokens.weight", VOCABULARY, shape.dim, device=device)}
    state["embed_tokens.weight"][PAD] = 0.0
    for layer in range(shape.layers):
        state |= {name: drawn(name, *size, device=device) for name, size in sizes(f"layers.{layer}", shape.dim)}
        state[f"layers.{layer}.self_attn.rot_emb.inv_freq"] = frequencies
    for leaf in ("weight", "bias"):
        name = f"emb_layer_norm_after.{leaf}"
        state[name] = drawn(name, shape.dim, device=device)
    return save(state, shape, path)


def save(state: Mapping[str, Tensor], shape: Any, path: Path) -> Path:
    """Write parameters by fair-esm's names as its checkpoints are: all of the file, or none."""
    about = Namespace(
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.dim,
        encoder_attention_heads=shape.heads,
        token_dropout=True,
    )
    named = {f"encoder.sentence_encoder.{name}": value for name, value in state.items()}
    unfinished = path.with_name(f"{path.name}-unfinished")
    torch.save({"cfg": {"model": about}, "model": named}, unfinished)
    return unfinished.replace(path)


def sizes(layer: str, dim: int) -> list[tuple[str, tuple[int, ...]]]:
    """The parameters of a layer by fair-esm's names, and their shapes."""
    gemms = [(f"self_attn.{name}_proj", dim, dim) for name in "qkv"]
    gemms += [("self_attn.out_proj", dim, dim), ("fc1", 4 * dim, dim), ("fc2", dim, 4 * dim)]
    found: list[tuple[str, tuple[int, ...]]] = []
    for name, outputs, inputs in gemms:
        found += [(f"{layer}.{name}.weight", (outputs, inputs)), (f"{layer}.{name}.bias", (outputs,))]
    for name in ("self_attn_layer_norm", "final_layer_norm"):
        found += [(f"{layer}.{name}.{leaf}", (dim,)) for leaf in ("weight", "bias")]
    return found


def drawn(name: str, *shape: int, device: str) -> Tensor:
    """Seeded FP32 values of one parameter."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(shape, generator=generator, device=device)
    if "norm" in name:
        return values.mul_(0.1).add_(float(name.endswith("weight")))
    if len(shape) == 1:
        return values.mul_(0.1)
    if name == "embed_tokens.weight":
        return values
    size = (3 * shape[1]) ** -0.5  # the deviation of PyTorch's own
    return values.mul_(SHARPER * size if "q_proj" in name or "k_proj" in name else size)
