"""ESM-2 as Transformers saves it: ``config.json`` beside ``model.safetensors`` or ``pytorch_model.bin``.

The names are those of EsmModel and EsmForMaskedLM. Rotary frequencies are a layer's each, as Transformers 4 stored
them, or the model's, as 5 does. A field that ``config.json`` lacks has the default of EsmConfig.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from virnucpro.models.esm2 import MASK, PAD, VOCABULARY, ESM2Shape
from virnucpro.models.stored import (
    MERGE,
    Checkpoint,
    CheckpointError,
    Description,
    Naming,
    ReadError,
    checked,
    first_line,
    shown,
    unpickled,
    whole_number,
)

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
PART = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")
"""How the name of a file ends that has only some of a model's parameters."""

NAMES = (
    ("embed_tokens", "embeddings.word_embeddings"),
    ("emb_layer_norm_after", "encoder.emb_layer_norm_after"),
    ("layers.", "encoder.layer."),
    ("self_attn_layer_norm", "attention.LayerNorm"),
    ("final_layer_norm", "LayerNorm"),
    ("self_attn.rot_emb", "attention.self.rotary_embeddings"),
    ("self_attn.q_proj", "attention.self.query"),
    ("self_attn.k_proj", "attention.self.key"),
    ("self_attn.v_proj", "attention.self.value"),
    ("self_attn.out_proj", "attention.output.dense"),
    ("fc1", "intermediate.dense"),
    ("fc2", "output.dense"),
)
"""fair-esm's names of a model's parts and Transformers'."""

UNUSED = re.compile(
    r"embeddings\.(position_ids|position_embeddings\.weight)|pooler\.dense\.(weight|bias)|"
    r"contact_head\.regression\.(weight|bias)|"
    r"lm_head\.(bias|(dense|layer_norm|decoder)\.(weight|bias))"
)
"""Heads, pooler, and positions that a model with rotary ones does not use."""

DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "rope_theta": 10_000.0,
    "position_embedding_type": "absolute",
}
"""Of EsmConfig, where they are not None or False (Transformers 4 and 5)."""

NEEDED: dict[str, tuple[Any, ...]] = {
    "model_type": ("esm",),
    "vocab_size": (VOCABULARY,),
    "pad_token_id": (PAD,),
    "position_embedding_type": ("rotary",),
    "emb_layer_norm_before": (False, None),
    "is_folding_model": (False, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
}
"""What an ESM-2 has."""


def theirs(name: str) -> str:
    """Transformers' name of a parameter by fair-esm's."""
    for ours, other in NAMES:
        name = name.replace(ours, other)
    return name


NAMING = Naming(
    prefixes=("esm.",),
    theirs=theirs,
    unused=lambda name: UNUSED.fullmatch(name) is not None,
    shared_frequencies="rotary_embeddings.inv_freq",
    other_endings=(  # Transformers 5.23 writes so what it reads as the others
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
        ("encoder.layer.*.attention.self.rotary_embeddings.inv_freq", "rotary_embeddings.inv_freq"),
    ),
)


def is_described_beside(path: Path) -> bool:
    """Whether it is a folder or file whose kind only a ``config.json`` describes: JSON, or safetensors."""
    return path.is_dir() or path.suffix == ".json" or is_safetensors(path)


def is_state(data: Any) -> bool:
    """Whether it is parameters by name, as ``pytorch_model.bin`` has them, and nothing else."""
    return isinstance(data, Mapping) and bool(data) and all(isinstance(each, Tensor) for each in data.values())


def checkpoint(path: Path, model_name: str, data: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """A model out of a folder, or of the file of one that `path` names; `data`: what that holds, if known."""
    folder = path if path.is_dir() else path.parent
    config = folder / CONFIG
    if (folder / ADAPTER).exists() and (path.is_dir() or path.name.startswith("adapter_")):
        raise CheckpointError(f"{path} holds an adapter (LoRA): {MERGE}")
    if not config.is_file():
        kind = "it is a folder" if path.is_dir() else "it has parameters and not what they are of"
        kind = "it is a safetensors file" if is_safetensors(path) else kind
        raise ReadError(f"{kind}, and there is no {CONFIG} {'in' if path.is_dir() else 'beside'} it")
    about = described(json_of(config), config)
    return checked(parameters_of(path, folder, data), about, NAMING, model_name, path)


def described(config: Mapping[str, Any], path: Path) -> Description:
    """What a configuration says; CheckpointError, by field, where that is no ESM-2."""
    field = {**DEFAULTS, **config}
    for name, allowed in NEEDED.items():
        if field.get(name) not in allowed:
            raise CheckpointError(
                f"{path} is of no ESM-2: its {name} is {shown(field.get(name))}, not {allowed[0]!r}"
            )
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    layers, dim, heads, wide = (whole_number(field[name], name, path) for name in sizes)
    if wide != 4 * dim:
        raise CheckpointError(f"{path} is of no ESM-2: its intermediate_size is {wide}, not {4 * dim}")
    token_dropout, mask = field.get("token_dropout"), field.get("mask_token_id")
    if token_dropout not in (True, False, None):
        raise CheckpointError(f"{path}: its token_dropout is not true or false but {shown(token_dropout)}")
    if token_dropout and mask != MASK:
        raise CheckpointError(f"{path} is of no ESM-2: its mask_token_id is {shown(mask)}, not {MASK}")
    for name, least, most in (("layer_norm_eps", 1e-30, 1.0), ("rope_theta", 1.0, 1e30)):
        if type(field[name]) not in (int, float) or not least <= field[name] <= most:
            raise CheckpointError(
                f"{path}: its {name} is no number from {least:g} to {most:g} but {shown(field[name])}"
            )
    return Description(
        ESM2Shape(layers, dim, heads),
        bool(token_dropout),
        float(field["layer_norm_eps"]),
        float(field["rope_theta"]),
    )


def parameters_of(path: Path, folder: Path, data: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
    """All tensors by the names that they are stored with, from one file or from the parts that an index names."""
    if path.is_dir() or path.name == CONFIG:
        names = [*SINGLE, *(f"{name}{INDEX}" for name in SINGLE)]
        found = next((folder / name for name in names if (folder / name).exists()), None)
        if found is None:
            raise ReadError(f"there is none of {', '.join(names)} beside {CONFIG}")
        path = found
    if PART.search(path.name):
        raise ReadError(f"it is one of several parts: name the folder {folder}")
    if not path.name.endswith(INDEX):
        return tensors_of(path) if data is None else data
    places = json_of(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(each, str) for each in places.values()):
        raise ReadError(f"{path.name} has no weight_map of names to files")
    names = sorted(set(places.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ReadError(f"{path.name} names {name!r}, which is no file beside it")
    tensors: dict[str, Tensor] = {}
    for name in names:
        part = tensors_of(folder / name)
        wrong = [each for each in part if places.get(each) != name]
        if wrong:
            raise ReadError(f"{name} has {wrong[0]}, which {path.name} does not place there")
        tensors |= part
    lacking = [each for each in places if each not in tensors]
    if lacking:
        raise ReadError(f"{places[lacking[0]]} lacks {lacking[0]}, which {path.name} places there")
    return tensors


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of one file."""
    if not is_safetensors(path):
        if path.suffix == ".safetensors":
            raise ReadError(f"{path.name} is no safetensors file: it is empty, damaged, or of another kind")
        data = unpickled(path)
        if not is_state(data):
            raise ReadError(f"{path.name} has no tensors by name")
        return dict(data)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ReadError(f"{path.name} is damaged, or no safetensors file: {first_line(error)}") from error
    return tensors


def is_safetensors(path: Path) -> bool:
    """Whether it is a file that begins as safetensors: 8 bytes of length, then JSON."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def json_of(path: Path) -> dict[str, Any]:
    """What a file of JSON has by name."""
    if not path.is_file():  # opening a pipe would wait for someone who writes
        raise ReadError(f"{path.name} is not a regular file")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path.name} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise ReadError(f"{path.name} is damaged: it has no fields")
    return data
