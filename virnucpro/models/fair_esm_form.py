"""fair-esm's checkpoints: what ``torch.save`` wrote of ``{"cfg": {"model": Namespace}, "model": parameters}``."""

import operator
from pathlib import Path
from typing import Any

from virnucpro.models.esm2 import ESM2Shape
from virnucpro.models.stored import Checkpoint, CheckpointError, Description, Naming, checked

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
    try:
        stored = data["model"].items()
        config = data["cfg"]["model"]
        names = ("encoder_layers", "encoder_embed_dim", "encoder_attention_heads")
        shape = ESM2Shape(*(number(getattr(config, name), name, source) for name in names))
        token_dropout = bool(config.token_dropout)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{source} is not an ESM-2 checkpoint of fair-esm's: {error!r} missing") from error
    except (RuntimeError, ValueError) as error:  # bool of a tensor of several numbers
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source}: its token_dropout is not true or false") from error
    return checked(dict(stored), Description(shape, token_dropout), NAMING, model_name, source)


def number(value: Any, name: str, source: Path) -> int:
    """A whole number of a configuration, which may also be a tensor of one number."""
    try:
        return operator.index(value)
    except (TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{source}: its {name} is no whole number but {value!r:.80}") from error
