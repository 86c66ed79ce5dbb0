"""Checkpoints that are made up, in the form of published ones."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import esm
import torch
from safetensors.torch import save_file

from virnucpro.models.esm2_flash import load_esm2_model


def round_frequencies(model: esm.ESM2) -> None:
    """Round rotary frequencies to FP16, as Meta's are: they were trained so, and fair-esm computes with them."""
    for layer in model.layers:
        layer.self_attn.rot_emb.inv_freq.copy_(layer.self_attn.rot_emb.inv_freq.half())


def seeded_8m() -> esm.ESM2:
    """fair-esm's 8M with this project's random weights of seed 0 and frequencies as Meta's.

    Queries and keys are 3 times as large, so that attention sees places.
    """
    model, _ = load_esm2_model("esm2_t6_8M_UR50D", "cpu", precision="fp32", weights="random")
    state = model.fair_esm_state()
    for name in state:
        if "q_proj.weight" in name or "k_proj.weight" in name:
            state[name] = 3 * state[name]
    theirs = esm.ESM2(6, 320, 20).eval()
    theirs.load_state_dict(state, strict=False)
    round_frequencies(theirs)
    return theirs


def save_in_fair_esms_format(model: esm.ESM2, path: Path, dtype: torch.dtype | None = None, **config: Any) -> None:
    """What fair-esm's own checkpoints have of a model: all of its state but the contact head.

    `dtype`: of the parameters, by default as they are; `config`: more than fair-esm reads, or something else.
    """
    about = {
        "encoder_layers": model.num_layers,
        "encoder_embed_dim": model.embed_dim,
        "encoder_attention_heads": model.attention_heads,
        "token_dropout": model.token_dropout,
    }
    state = {}
    for name, value in model.state_dict().items():
        prefix = "encoder." if name.startswith("lm_head") else "encoder.sentence_encoder."
        if not name.startswith("contact_head"):
            state[prefix + name] = (
                value.clone() if name.endswith("inv_freq") else value.to(dtype or value.dtype, copy=True)
            )
    torch.save({"cfg": {"model": Namespace(**about | config)}, "model": state}, path)


def load_fair_esm(path: Path) -> esm.ESM2:
    """fair-esm's model with a checkpoint of this form, in FP32, read by fair-esm's own code."""
    data = torch.load(path, weights_only=False)
    model, _ = esm.pretrained.load_model_and_alphabet_core("esm2_made_up", data, None)
    return model.eval()


TRANSFORMERS = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.rot_emb": "attention.self.rotary_embeddings",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
"""Transformers' names of the parts of a layer, by fair-esm's."""


def transformers_config(model: esm.ESM2, **fields: Any) -> dict[str, Any]:
    """What `config.json` says of a model; `fields`: what it says instead."""
    config = {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "vocab_size": 33,
        "mask_token_id": 32,
        "pad_token_id": 1,
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.embed_dim,
        "num_attention_heads": model.attention_heads,
        "intermediate_size": 4 * model.embed_dim,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "token_dropout": model.token_dropout,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "is_folding_model": False,
        "max_position_embeddings": 1026,
    }
    return config | fields


def transformers_state(model: esm.ESM2, prefix: str = "esm.") -> dict[str, torch.Tensor]:
    """A model's state as Transformers 4 saves that of EsmForMaskedLM, and with prefix ``""`` that of EsmModel."""
    state = {
        f"{prefix}embeddings.position_ids": torch.arange(1026)[None],
        f"{prefix}embeddings.position_embeddings.weight": torch.zeros(1026, model.embed_dim),
    }
    for name, value in model.state_dict().items():
        if name.startswith("lm_head"):
            theirs = name.replace("lm_head.weight", "lm_head.decoder.weight")
        elif name.startswith("layers."):
            _, index, part = name.split(".", 2)
            part, leaf = part.rsplit(".", 1)
            theirs = f"{prefix}encoder.layer.{index}.{TRANSFORMERS[part]}.{leaf}"
        elif name.startswith("embed_tokens"):
            theirs = f"{prefix}embeddings.word_embeddings.weight"
        else:
            theirs = prefix + name.replace("emb_layer_norm_after", "encoder.emb_layer_norm_after")
        if prefix or not name.startswith("lm_head"):
            state[theirs] = value.clone()
    return state


def save_in_transformers_format(
    model: esm.ESM2, folder: Path, state: dict[str, torch.Tensor] | None = None, **fields: Any
) -> Path:
    """A folder as Transformers saves one; `state`: by default `transformers_state`; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(transformers_config(model, **fields)))
    metadata = {"format": "pt"}
    save_file(transformers_state(model) if state is None else state, folder / "model.safetensors", metadata)
    return folder
