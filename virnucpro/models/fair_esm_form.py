"""fair-esm's checkpoints: what ``torch.save`` wrote of ``{"cfg": {"model": Namespace}, "model": parameters}``."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virnucpro.models.esm2 import ESM2Shape
from virnucpro.models.stored import (
    Checkpoint,
    CheckpointError,
    Description,
    Naming,
    checked,
    shown,
    whole_number,
)

UNUSED = frozenset(
    [
        *(f"lm_head.{name}" for name in ("weight", "bias")),
        *(f"lm_head.{name}.{leaf}" for name in ("dense", "layer_norm") for leaf in ("weight", "bias")),
        *(f"contact_head.regression.{leaf}" for leaf in ("weight", "bias")),
    ]
)
"""The heads of fair-esm's ESM-2, for logits and for contacts."""

NAMING = Naming(
    prefixes=("encoder.sentence_encoder.", "encoder.", "sentence_encoder."),
    theirs=lambda name: name,
    unused=UNUSED.__contains__,
)


def checkpoint(data: Any, model_name: str, source: Path) -> Checkpoint:
    """A model out of what a file of fair-esm's holds."""
    stored, about = (data.get(name) if isinstance(data, Mapping) else None for name in ("model", "cfg"))
    config = about.get("model") if isinstance(about, Mapping) else None
    if not isinstance(stored, Mapping) or not isinstance(config, Namespace):
        raise CheckpointError(
            f"{source} is not an ESM-2 checkpoint of fair-esm's: those have parameters by name under 'model', "
            "and a configuration under 'cfg'"
        )
    fields = vars(config)
    names = ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads")
    missing = [name for name in (*names, "token_dropout") if name not in fields]
    if missing:
        raise CheckpointError(
            f"{source} is not an ESM-2 checkpoint of fair-esm's: its configuration lacks {missing[0]}"
        )
    shape = ESM2Shape(*(whole_number(fields[name], name, source) for name in names))
    return checked(stored, Description(shape, truth(fields["token_dropout"], source)), NAMING, model_name, source)


def truth(value: Any, source: Path) -> bool:
    """Whether the configuration says that there is token dropout; a tensor may say so too."""
    try:
        if value in (True, False):
            return bool(value)
    except (RuntimeError, RecursionError):  # of a tensor of several numbers
        pass
    raise CheckpointError(f"{source}: its token_dropout is not true or false but {shown(value)}")
