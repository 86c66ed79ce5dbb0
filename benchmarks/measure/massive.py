"""Weights whose residual has a massive channel, as ESM-2 3B's published embeddings show, made out of any weights.

The eight public mean embeddings of 3B (tests/golden) have 11.5 to 13.6 in channel 1542, where the median magnitude
is 0.05 to 0.09: 72 to 90 % of the squared norm. How large it is in front of each norm is not known. `massive`
raises channels of the token embedding, takes what that does to each norm out of its gain and bias, and the
constant that reaches the next GEMM out of its bias, so that the function is nearly kept.
"""

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..suite.hardware import GIB
from ..suite.places import find


@dataclass(frozen=True)
class Channel:
    """A massive channel of the residual.

    `ratio`: its value, with its sign, over the deviation of the others in the last layer. `gain`: its gain in each
    norm over their mean gain. `place`: its number. `varies`: by what share its value differs between residues.
    `token`: the one, by number, that alone has it; all have it by default.
    """

    ratio: float = 100.0
    gain: float = 1.0
    place: int = 77
    varies: float = 0.0
    token: int | None = None


@dataclass
class Trace:
    """What a model computes on the way, ``[T, ...]``: `residual` in front of each norm, `attended` and `hidden`
    values of each layer, the `last` representations, and the `proteins` that they belong to."""

    residual: list[Tensor] = field(default_factory=list)
    attended: list[Tensor] = field(default_factory=list)
    hidden: list[Tensor] = field(default_factory=list)
    last: Tensor = field(default_factory=lambda: torch.empty(0))


@torch.no_grad()
def trace(model: Any, pack: Any) -> Trace:
    """Run a model in FP32 (an ESM2 of virnucpro's, of 0.4.0 or newer) over a pack."""
    device, found = model.embed_tokens.weight.device, Trace()
    input_ids, cu_seqlens = pack.input_ids.to(device), pack.cu_seqlens.to(device)
    protein = torch.arange(len(cu_seqlens) - 1, device=device).repeat_interleave(cu_seqlens.diff())
    positions = torch.arange(len(input_ids), device=device, dtype=torch.int32) - cu_seqlens[protein]
    rotary = (positions, *model.rotary_tables(pack.max_seqlen, device))
    x = model.embed(input_ids, protein, cu_seqlens)
    for layer in model.layers:
        attention = layer.self_attn
        found.residual.append(x)
        qkv = linear(attention.qkv_proj, normed(x, layer.self_attn_layer_norm))
        qkv = qkv.unflatten(-1, (3, attention.heads, -1)).contiguous()
        found.attended.append(find("attend")(qkv, rotary, cu_seqlens, pack.max_seqlen).flatten(1))
        x = x + linear(attention.out_proj, found.attended[-1])
        found.residual.append(x)
        found.hidden.append(F.gelu(linear(layer.fc1, normed(x, layer.final_layer_norm))))
        x = x + linear(layer.fc2, found.hidden[-1])
    found.residual.append(x)
    found.last = normed(x, model.emb_layer_norm_after)
    return found


def linear(gemm: Any, x: Tensor) -> Tensor:
    """A GEMM with its bias."""
    return F.linear(x, gemm.weight, gemm.bias)


def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """A layer norm."""
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


@torch.no_grad()
def massive(model: Any, pack: Any, channels: Sequence[Channel]) -> None:
    """Give a model in FP32 these channels; `pack` has proteins to measure it with.

    The last norm is scaled so that the embeddings of different proteins lie as far apart as before.
    """
    seen = trace(model, pack)
    before = distance(seen.last, pack)
    deviations = [x.std(-1, unbiased=False) for x in seen.residual]
    size, dim, weight = float(deviations[-1].mean()), model.embed_dim, model.embed_tokens.weight
    letters = 7 * torch.arange(len(weight), device=weight.device) % len(weight)  # in an order of no meaning
    share = 2 * letters / (len(weight) - 1) - 1  # of -1 to 1
    for channel in channels:
        value = channel.ratio * size / 0.88  # token dropout's factor
        if channel.token is None:
            weight[:, channel.place] += value * (1 + channel.varies * share)
        else:
            weight[channel.token, channel.place] += value
    values = [channel.ratio * size for channel in channels if channel.token is None]
    total = sum(values) / dim
    spread = sum(value**2 for value in values) / dim - total**2
    for (norm, gemm), deviation in zip(norms(model), deviations, strict=True):
        grown = ((deviation**2 + spread).sqrt() / deviation).mean()
        norm.bias.add_(norm.weight * total / deviation.mean())
        norm.weight.mul_(grown)
        usual = norm.weight.abs().mean()
        for channel in channels:
            norm.weight[channel.place], norm.bias[channel.place] = channel.gain * usual, 0.0
            if gemm is not None and channel.token is None:
                constant = channel.gain * usual * (channel.ratio * size - total) / (deviation.mean() * grown)
                gemm.bias -= gemm.weight[:, channel.place] * constant
    last = model.emb_layer_norm_after
    factor = before / distance(trace(model, pack).last, pack)
    last.weight *= factor
    last.bias *= factor


@torch.no_grad()
def constants(model: Any, pack: Any, size: float, places: Sequence[int] = (11, 200)) -> None:
    """Give these value channels and hidden neurons of each layer a constant, `size` times the values' deviation.

    The bias of the GEMM that reads them takes it away again.
    """
    seen = trace(model, pack)
    for layer, attended, hidden in zip(model.layers, seen.attended, seen.hidden, strict=True):
        attention = layer.self_attn
        for values, first, rows, second in (
            (attended, attention.qkv_proj, 2 * model.embed_dim, attention.out_proj),
            (hidden, layer.fc1, 0, layer.fc2),
        ):
            constant = size * values.std()
            for place in places:
                first.bias[rows + place] += constant
                second.bias -= second.weight[:, place] * constant


@torch.no_grad()
def enlarge(model: Any, factor: float) -> None:
    """Make the residual so many times as large, which the norms undo."""
    model.embed_tokens.weight *= factor
    for layer in model.layers:
        for gemm in (layer.self_attn.out_proj, layer.fc2):
            gemm.weight *= factor
            gemm.bias *= factor


def norms(model: Any) -> Iterator[tuple[nn.LayerNorm, Any]]:
    """Each norm and the GEMM that reads it; the last one has none."""
    for layer in model.layers:
        yield layer.self_attn_layer_norm, layer.self_attn.qkv_proj
        yield layer.final_layer_norm, layer.fc1
    yield model.emb_layer_norm_after, None


def distance(last: Tensor, pack: Any) -> Tensor:
    """The median distance between the mean embeddings of different proteins."""
    ends = pack.cu_seqlens.tolist()
    pooled = torch.stack([last[start + 1 : end - 1].mean(0) for start, end in itertools.pairwise(ends)])
    return torch.pdist(pooled).quantile(0.5)


def no_room(folder: Path, model: str, what: str, is_written: bool) -> str | None:
    """Why a model's checkpoint in FP32 cannot be written into a folder and read, for a user; None where it can.

    `what`: what needs it; `is_written`: whether it is there, and needs no more of the disk.
    """
    size = 4 * find("SHAPES")[model].parameters
    file = f"{what} needs a file of {size / GIB:.1f} GiB"
    disk = shutil.disk_usage(folder).free
    if 1.1 * size > disk and not is_written:
        return f"{file}; {disk / GIB:.1f} GiB of disk are free"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2.5 * size > memory:  # it is read as a whole, and may itself be in memory: /tmp can be
        return f"{file}, and 2.5 times that of memory; there are {memory / GIB:.1f} GiB"
    return None
