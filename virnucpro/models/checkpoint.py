"""fair-esm's checkpoints: download, read, check."""

import contextlib
import os
import pickle
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import esm
import torch
from torch import Tensor

from virnucpro.errors import UserError
from virnucpro.models.esm2 import ESM2, SHAPES, ESM2Shape


class CheckpointError(UserError, RuntimeError):
    """A checkpoint is missing, unreadable, or not of the model that was asked for."""


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
        # fair-esm's configuration is a Namespace; PyTorch's warnings are about files that are refused anyway
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings(action="ignore"):
            if weights == "pretrained":
                url = f"https://dl.fbaipublicfiles.com/fair-esm/models/{model_name}.pt"
                data = esm.pretrained.load_hub_workaround(url)
            else:
                data = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and urllib each raise their own
        raise CheckpointError(
            f"cannot read the checkpoint {source} for {model_name} ({why_unreadable(source, error)}): {remedy}"
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
    wrong = [name for name, size in expected.items() if not is_parameter(stored.get(name), size)]
    if wrong:
        raise CheckpointError(
            f"{source} lacks {len(wrong)} of {model_name}'s {len(expected)} parameters, first {wrong[0]}"
        )
    return {name: stored[name] for name in expected}


def is_parameter(value: Any, shape: torch.Size) -> bool:
    """Whether it is a tensor of floating-point numbers with this shape, and not packed in some way."""
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.shape == shape
        and value.layout == torch.strided
        and value.device.type == "cpu"
    )


def why_unreadable(source: str, error: Exception) -> str:
    """What is the matter with a file that is no checkpoint, by its first bytes, or else what was raised.

    PyTorch advises to read what it refuses without its checks, which lets the file run any program.
    """
    start = b""
    with contextlib.suppress(OSError), Path(source).open("rb") as file:
        start = file.read(512)
    if Path(source).is_file():
        if not start:
            return "it is empty"
        if start.lstrip().startswith(b"<"):
            return "it is a web page (HTML) or XML, as servers send instead of a file"
        if start.startswith(b"version https://git-lfs"):
            return "it is a pointer of Git LFS and not the file itself: git lfs pull"
        if start[8:9] == b"{":
            return "it is a safetensors file"
        if not start.startswith((b"PK", b"\x80")):
            return "PyTorch did not write it"
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or has objects of Python that are no tensors"
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first or 'no details'}"
