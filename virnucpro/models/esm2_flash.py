"""Load ESM-2: fair-esm's checkpoints, or random weights of the same architecture, in a chosen precision."""

import os
import warnings
import zlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import esm
import torch
from torch import Tensor, nn

from virnucpro.data.tokens import BatchConverter
from virnucpro.models.esm2 import ESM2, PAD, SHAPES, ESM2Shape, parts_of

PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision name to the type of the parameters; ``tf32`` computes FP32 matrix products on the TF32 units."""

# What an FP16 or BF16 number needs at least: NVIDIA's compute capability (CUDA C++ programming guide,
# "Arithmetic Instructions": FP16 from 5.3; BF16 and TF32 matrix units from 8.0).
COMPUTE_CAPABILITY = {"fp32": (0, 0), "fp16": (5, 3), "bf16": (8, 0), "tf32": (8, 0)}


class CheckpointError(RuntimeError):
    """A checkpoint is missing, unreadable, or not of the model that was asked for."""


def load_esm2_model(
    model_name: str = "esm2_t36_3B_UR50D",
    device: str | torch.device | None = None,
    enable_fp16: bool = True,
    *,
    precision: str | None = None,
    weights: str | os.PathLike[str] = "pretrained",
    seed: int = 0,
) -> tuple[ESM2, BatchConverter]:
    """Load ESM-2 and the converter that makes its token batches.

    model_name: one of fair-esm's six names, ``esm2_t6_8M_UR50D`` to ``esm2_t48_15B_UR50D``.
    device: ``cpu``, ``cuda`` or ``cuda:N``; by default the GPU where there is one.
    enable_fp16: FP16 (the default) or FP32, where `precision` is not given. The environment variable
        ``VIRNUCPRO_DISABLE_FP16=1`` makes FP32 the default.
    precision: ``fp32`` (IEEE, TF32 off), ``tf32``, ``bf16`` or ``fp16``; wins over the two above.
    weights: ``pretrained`` (downloaded to and read from fair-esm's cache), the path of a fair-esm ``.pt``,
        or ``random`` (the exact architecture with seeded weights; nothing is downloaded).
    seed: of the random weights. The same seed gives the same weights in every precision, up to rounding.

    Returns ``(model, batch_converter)``: the model on the device, in evaluation mode, without gradients.
    Raises ValueError for an unknown model, precision or device, or a device that lacks the precision, and
    CheckpointError for a checkpoint that is missing, corrupt or of another model.
    """
    if model_name not in SHAPES:
        raise ValueError(f"unknown model {model_name!r}; ESM-2 comes as {', '.join(SHAPES)}")
    if precision is None:
        fp16 = enable_fp16 and os.environ.get("VIRNUCPRO_DISABLE_FP16", "") not in ("1", "true", "yes")
        precision = "fp16" if fp16 else "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    device = find_device(device)
    check_precision(precision, device)

    state = None if weights == "random" else read_checkpoint(model_name, weights)
    with torch.device("meta"):
        model = ESM2(SHAPES[model_name], precision)
    for name, planned in list(model.named_parameters()):
        values = torch.empty(planned.shape, device=device, dtype=PRECISIONS[precision])
        parts = parts_of(name)
        for part, place in zip(parts, values.chunk(len(parts)), strict=True):
            place.copy_(random_weights(part, place.shape, seed, device) if state is None else state.pop(part))
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, nn.Parameter(values, requires_grad=False))
    model.eval()
    return model, BatchConverter()


def find_device(device: str | torch.device | None) -> torch.device:
    """The device that was asked for, or the default one; ValueError where this machine does not have it."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {str(device)!r}; choose cpu, cuda or cuda:N")
    if found.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or count == 0:
            reason = "no NVIDIA GPU was found" if torch.version.cuda else "this PyTorch is built without CUDA"
            raise ValueError(f"device {str(device)!r}: {reason}; use device='cpu', or install a CUDA PyTorch")
        if found.index is not None and found.index >= count:
            raise ValueError(f"device {str(device)!r}: this machine has {count} GPUs, cuda:0 to cuda:{count - 1}")
    return found


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError where the device cannot compute in this precision."""
    if device.type == "cpu":
        if precision == "tf32":
            raise ValueError("precision 'tf32' is a mode of NVIDIA GPUs; on the CPU use fp32, bf16 or fp16")
        return
    capability, needed = torch.cuda.get_device_capability(device), COMPUTE_CAPABILITY[precision]
    if capability < needed:
        raise ValueError(
            f"precision {precision!r} needs an NVIDIA GPU of compute capability {needed[0]}.{needed[1]}; "
            f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}: use fp32"
            + (" or fp16" if capability >= COMPUTE_CAPABILITY["fp16"] else "")
        )


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


def read_checkpoint(model_name: str, weights: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The encoder's parameters on the CPU by name, as stored, from fair-esm's hub or a local ``.pt``."""
    if weights == "pretrained":
        source = f"{torch.hub.get_dir()}/checkpoints/{model_name}.pt"
        remedy = (
            "check the network, put fair-esm's file there by hand (delete one that is cut short), "
            "or pass weights=PATH or weights='random'"
        )
    else:
        source = os.fspath(weights)
        remedy = f"pass fair-esm's {model_name}.pt, weights='pretrained' or weights='random'"
        if not Path(source).is_file():
            raise CheckpointError(f"no checkpoint at {source} for {model_name}: {remedy}")
    try:
        with torch.serialization.safe_globals([Namespace]):  # fair-esm stores its configuration as one
            if weights == "pretrained":
                url = f"https://dl.fbaipublicfiles.com/fair-esm/models/{model_name}.pt"
                data = esm.pretrained.load_hub_workaround(url)
            else:
                data = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and urllib each raise their own
        raise CheckpointError(
            f"cannot read the checkpoint {source} for {model_name} "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}): {remedy}"
        ) from error
    return encoder_state(data, model_name, source)


def encoder_state(data: Any, model_name: str, source: str) -> dict[str, Tensor]:
    """Pick the encoder's parameters out of a fair-esm checkpoint and check that they are this model's."""
    try:
        stored = {name.removeprefix("encoder.").removeprefix("sentence_encoder."): value
                  for name, value in data["model"].items()}  # fmt: skip
        config = data["cfg"]["model"]
        found = ESM2Shape(config.encoder_layers, config.encoder_embed_dim, config.encoder_attention_heads)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{source} is not an ESM-2 checkpoint of fair-esm's: {error!r} missing") from error
    shape = SHAPES[model_name]
    if found != shape:
        raise CheckpointError(f"{source} holds another model than {model_name}: {found}, not {shape}")
    if not getattr(config, "token_dropout", True):
        warnings.warn(f"{source} was trained without token dropout; ESM-2 models were not", stacklevel=2)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in ESM2(shape).fair_esm_state().items()}
    wrong = [name for name, size in expected.items() if name not in stored or stored[name].shape != size]
    if wrong:
        raise CheckpointError(
            f"{source} lacks {len(wrong)} of {model_name}'s {len(expected)} parameters, first {wrong[0]}"
        )
    return {name: stored[name] for name in expected}
