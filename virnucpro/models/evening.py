"""Outlier channels, evened out before a layer's weights are quantised: exact, and without calibration data.

A scale for each token makes one large channel cost all others their precision. Channel j is therefore divided by
s_j where it comes from, and the next weight's column j multiplied by s_j, which changes nothing but rounding. The
rule is SmoothQuant's with exponent 0.5 (Xiao et al. 2023, arXiv:2211.10438): s_j is the square root of the largest
activation over the column's largest weight. A norm's output is at most about three times its gain plus its bias,
which needs no data; that of the values which attention averages is estimated by the norms of their weights' rows.

A layer's FP32 values go by this project's names: ``self_attn.qkv_proj.weight`` and so on.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

AFTER_NORM = {"self_attn.qkv_proj": "self_attn_layer_norm", "fc1": "final_layer_norm"}
"""Each GEMM that reads a norm's output, and that norm."""

SMALLEST = 1e-5
"""What smaller magnitudes count as: a channel that is always 0 must not get a divisor of 0."""


def even_out_(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Even out a layer's FP32 values in place; returns what the input channels of each GEMM were divided by."""
    divisors = {}
    for gemm, norm in AFTER_NORM.items():
        size = 3 * values[f"{norm}.weight"].abs() + values[f"{norm}.bias"].abs()
        divisors[gemm] = divisors_of(size, values[f"{gemm}.weight"])
    divide_channels_(values, divisors)
    # The norm's output now has channels of similar size, so a value's is that of its row of weights
    rows = value_rows(values["self_attn.qkv_proj.weight"])
    size = (
        3 * torch.linalg.vector_norm(rows, dim=1) * typical(values)
        + value_rows(values["self_attn.qkv_proj.bias"]).abs()
    )
    divisors["self_attn.out_proj"] = divisors_of(size, values["self_attn.out_proj.weight"])
    divide_channels_(values, {"self_attn.out_proj": divisors["self_attn.out_proj"]})
    return divisors


def typical(values: Mapping[str, Tensor]) -> Tensor:
    """The root mean square of the gain of the norm in front of attention."""
    return values["self_attn_layer_norm.weight"].square().mean().sqrt()


def divisors_of(activations: Tensor, weight: Tensor) -> Tensor:
    """s_j, FP32 ``[K]``, with a geometric mean of 1.

    `activations` ``[K]``: the channels' estimated size; `weight` ``[N, K]``.
    """
    logarithms = 0.5 * (activations.clamp_min(SMALLEST).log() - weight.abs().amax(0).clamp_min(SMALLEST).log())
    mean = logarithms.mean()
    # NaN and infinities stay where they are: the embeddings then show them
    return torch.where(mean.isfinite(), (logarithms - mean).exp(), 1.0)


def divide_channels_(values: Mapping[str, Tensor], divisors: Mapping[str, Tensor]) -> None:
    """Divide each GEMM's input channels where they come from and multiply its columns. With 1 / s it is undone."""
    for gemm, each in divisors.items():
        values[f"{gemm}.weight"].mul_(each)
        if gemm in AFTER_NORM:
            sources = [values[f"{AFTER_NORM[gemm]}.{leaf}"] for leaf in ("weight", "bias")]
        else:
            sources = [value_rows(values[f"self_attn.qkv_proj.{leaf}"]) for leaf in ("weight", "bias")]
        for source in sources:
            source.div_(each if source.ndim == 1 else each[:, None])


def value_rows(qkv: Tensor) -> Tensor:
    """The last third of the joined projection's rows: the values'. A view."""
    return qkv.chunk(3)[2]
