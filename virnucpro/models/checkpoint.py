"""Checkpoints: where a model's is, downloading fair-esm's, and reading it in whichever form it has."""

import contextlib
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import torch

from virnucpro.models import fair_esm_form, huggingface
from virnucpro.models.stored import Checkpoint, CheckpointError, ReadError, first_line, unpickled

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint"]

URL = "https://dl.fbaipublicfiles.com/fair-esm/models/{}.pt"
"""Where fair-esm downloads its checkpoints from."""

OTHERS = "a folder that Transformers saved, weights='pretrained' or weights='random'"


def read_checkpoint(model_name: str, weights: str | os.PathLike[str]) -> Checkpoint:
    """A model's checkpoint: ``pretrained`` for fair-esm's, downloaded into its cache; a file; or a folder.

    A file is fair-esm's ``.pt`` or one of those that Transformers saves. A folder has ``MODEL.pt``, a folder
    ``MODEL`` that Transformers saved, or is one itself. Nothing in a file is run. Raises CheckpointError for
    anything that is not this model's.
    """
    if weights == "pretrained":
        path = Path(torch.hub.get_dir(), "checkpoints", f"{model_name}.pt")
        remedy = "delete it, and it is downloaded again, or pass weights=PATH or weights='random'"
    else:
        path = find(Path(weights), model_name)
        remedy = f"pass fair-esm's {model_name}.pt, {OTHERS}"
    try:
        if weights == "pretrained" and not path.exists():
            return fair_esm_form.checkpoint(downloaded(path, model_name), model_name, path)
        return read(path, model_name)
    except (OSError, ReadError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        raise CheckpointError(
            f"cannot read the checkpoint {path} for {model_name} ({reason}): {remedy}"
        ) from error


def read(path: Path, model_name: str) -> Checkpoint:
    """A model out of a file, or out of a folder that Transformers saved."""
    if huggingface.is_described_beside(path):
        return huggingface.checkpoint(path, model_name)
    data = unpickled(path)
    if huggingface.is_state(data):
        return huggingface.checkpoint(path, model_name, data)
    return fair_esm_form.checkpoint(data, model_name, path)


def find(path: Path, model_name: str) -> Path:
    """The file, or folder of Transformers', that holds a model; CheckpointError where there is none, or two."""
    try:
        if not path.exists():
            raise CheckpointError(
                f"no checkpoint at {path} for {model_name}: pass fair-esm's {model_name}.pt, {OTHERS}"
            )
        if not path.is_dir():
            return path
        own = path / huggingface.CONFIG
        found = [each for each in (path / f"{model_name}.pt", path / model_name, own) if each.exists()]
        adapter = (path / huggingface.ADAPTER).exists()
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror or error}): pass {OTHERS}") from error
    if len(found) > 1:
        raise CheckpointError(f"{path} has {' and '.join(each.name for each in found)}: name the one you mean")
    if found or adapter:
        return path if adapter or found[0] == own else found[0]
    raise CheckpointError(
        f"the folder {path} has neither {model_name}.pt nor {huggingface.CONFIG}: pass fair-esm's file, {OTHERS}"
    )


def downloaded(path: Path, model_name: str) -> Any:
    """What fair-esm's file holds, downloaded to `path`, which is where fair-esm itself keeps it.

    It is read before it gets that name: after a connection that broke off the file would look complete.
    """
    beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.download")
    try:
        os.makedirs(path.parent, exist_ok=True)  # noqa: PTH103 - as torch.hub makes it
        print(f'Downloading: "{URL.format(model_name)}" to {path}', file=sys.stderr)
        torch.hub.download_url_to_file(URL.format(model_name), str(beside), progress=sys.stderr.isatty())
        data = unpickled(beside)
        beside.replace(path)
    except Exception as error:  # urllib, http and ssl each raise their own
        reason = error if isinstance(error, ReadError) else f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(
            f"cannot read the checkpoint {path} for {model_name}: it is not there, and the download failed "
            f"({reason}): check the network, put fair-esm's file there by hand, or pass weights=PATH or 'random'"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # where there is no such folder
            beside.unlink()
    return data
