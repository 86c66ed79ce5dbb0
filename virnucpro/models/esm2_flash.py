"""Load ESM-2: a checkpoint, or random weights of the same architecture, in a chosen precision."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from virnucpro.data.tokens import BatchConverter
from virnucpro.errors import ArgumentError
from virnucpro.models.apart import MOST, Channels, Chooser
from virnucpro.models.checkpoint import CheckpointError
from virnucpro.models.esm2 import ESM2, GEMMS, SHAPES
from virnucpro.models.forking import check_can_compute
from virnucpro.models.linear import parameter
from virnucpro.models.precision import PRECISIONS, auto_precision, unsupported_reason
from virnucpro.models.weights import Weights

logger = logging.getLogger(__name__)

__all__ = ["CheckpointError", "find_device", "load_esm2_model", "recommended_precision"]


def load_esm2_model(
    model_name: str = "esm2_t36_3B_UR50D",
    device: str | torch.device | None = None,
    enable_fp16: bool | None = None,
    logger_instance: logging.Logger | None = None,
    *,
    precision: str | None = None,
    weights: str | os.PathLike[str] = "pretrained",
    seed: int = 0,
    channels_apart: Channels | None = None,
) -> tuple[ESM2, BatchConverter]:
    """Load ESM-2 and the converter that makes its token batches.

    model_name: one of fair-esm's six names, ``esm2_t6_8M_UR50D`` to ``esm2_t48_15B_UR50D``.
    device: ``cpu``, ``cuda`` or ``cuda:N``; by default the GPU where there is one.
    enable_fp16: FP16 or FP32, where `precision` is not given; by default the rule of ``--precision auto`` decides:
        FP16 on a GPU with tensor cores, FP32 elsewhere. With the environment variable ``VIRNUCPRO_DISABLE_FP16=1``
        it is FP32 in any case.
    logger_instance: what tells, at the level INFO, which model is loaded and how; by default this module's logger.
    precision: a name in `PRECISIONS`: ``fp32`` (IEEE, TF32 off), ``tf32``, ``bf16``, ``fp16``, ``int8`` or
        ``fp8``; wins over the two above.
    weights: ``pretrained`` (downloaded to and read from fair-esm's cache), ``random`` (the exact architecture with
        seeded weights; nothing is downloaded), or a path: of fair-esm's ``.pt``, of what Transformers saved (a
        folder with ``config.json``, or its ``model.safetensors`` or ``pytorch_model.bin``), or of a folder with
        ``MODEL.pt``. Rotary frequencies and token dropout are those of the checkpoint; no file can run code.
    seed: of the random weights. The same seed gives the same weights in every precision, up to rounding.
    channels_apart: which input channels INT8's GEMMs keep out of 8 bits, as ``model.channels_apart()`` tells them;
        by default they are measured.

    Returns ``(model, batch_converter)``: the model on the device, in evaluation mode, without gradients.
    Raises ValueError for an unknown model, precision or device, a device that lacks the precision, or channels
    that the model lacks, RuntimeError for ``int8`` on a CPU that computes it wrongly and for a CPU in a process
    that was forked after its parent computed, and CheckpointError for a checkpoint that is missing, corrupt or of
    another model.
    """
    if model_name not in SHAPES:
        raise ArgumentError(f"unknown model {model_name!r}; ESM-2 comes as {', '.join(SHAPES)}")
    if precision is None:
        disabled = os.environ.get("VIRNUCPRO_DISABLE_FP16", "") in ("1", "true", "yes")
        default = "fp16" if enable_fp16 else recommended_precision(device)
        precision = "fp32" if enable_fp16 is False or disabled else default
    if precision not in PRECISIONS:
        raise ArgumentError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    device = find_device(device)
    check_precision(precision, device)
    check_can_compute(device)
    check_channels({} if channels_apart is None else channels_apart, model_name)
    log = logger if logger_instance is None else logger_instance
    log.info("loading %s in %s on %s, weights: %s", model_name, precision, device, os.fspath(weights))

    values = Weights(model_name, weights, seed, device)
    with torch.device("meta"):
        model = ESM2(values.shape, precision, values.constants)
    how = PRECISIONS[precision]
    dtype = how.activations_on(device.type)
    embedding = values.of("embed_tokens")["weight"]
    model.embed_tokens.weight = parameter(embedding.to(dtype))
    measures = how.matmul == "int8" and channels_apart is None
    chooser = Chooser(values, embedding, dtype) if measures else None
    for index, layer in enumerate(model.layers):  # one at a time: its FP32 values are all that is held beside it
        of_layer = values.of(f"layers.{index}")
        apart = chooser.next_layer(of_layer) if chooser else within(channels_apart or {}, f"layers.{index}.")
        layer.load_(of_layer, dtype, apart)
    for leaf, each in values.of("emb_layer_norm_after").items():
        setattr(model.emb_layer_norm_after, leaf, parameter(each.to(dtype)))
    model.eval()
    log.info("loaded %s", model_name)
    return model, BatchConverter()


def check_channels(channels: Any, model_name: str) -> None:
    """Raise ArgumentError unless these are input channels of the model's GEMMs, at most `MOST` of each."""
    if not isinstance(channels, Mapping):
        raise ArgumentError(f"channels apart: {repr(channels)[:80]} is no mapping of GEMMs to channels")
    shape = SHAPES[model_name]
    layers = [f"layers.{index}." for index in range(shape.layers)]
    inputs = {layer + name: shape.dim * (4 if name == "fc2" else 1) for layer in layers for name in GEMMS}
    for name, each in channels.items():
        if name not in inputs:
            raise ArgumentError(f"channels apart: {model_name} has no GEMM {repr(name)[:80]}")
        if not (
            isinstance(each, Sequence)
            and len(each) <= MOST
            and all(isinstance(at, int) and not isinstance(at, bool) and 0 <= at < inputs[name] for at in each)
            and len(set(each)) == len(each)
        ):
            raise ArgumentError(
                f"channels apart: {name} can have at most {MOST} different ones of 0 to {inputs[name] - 1}, "
                f"and not {repr(each)[:80]}"
            )


def within(channels: Channels, prefix: str) -> dict[str, Sequence[int]]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): each for name, each in channels.items() if name.startswith(prefix)}


def find_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for, or the default one; ValueError where this machine does not have it."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ArgumentError(f"unknown device {str(device)!r}; choose cpu, cuda or cuda:N")
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or count == 0:
            reason = "no NVIDIA GPU was found" if torch.version.cuda else "this PyTorch is built without CUDA"
            raise ArgumentError(f"device {str(device)!r}: {reason}; use device='cpu', or install a CUDA PyTorch")
        if found.index is not None and found.index >= count:
            raise ArgumentError(
                f"device {str(device)!r}: this machine has {count} GPUs, cuda:0 to cuda:{count - 1}"
            )
    return found


def compute_capability(device: torch.device) -> tuple[int, int] | None:
    """NVIDIA's compute capability; None for the CPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError where the device cannot compute in this precision."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    reason = unsupported_reason(precision, compute_capability(device), name)
    if reason:
        raise ArgumentError(reason)


def recommended_precision(device: str | torch.device | None = None) -> str:
    """The precision of ``--precision auto`` on a device: FP16 on a GPU with tensor cores, FP32 elsewhere."""
    return auto_precision(compute_capability(find_device(device)))
