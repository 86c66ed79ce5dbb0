"""Checkpoints that are made up, in the form of published ones."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import esm
import torch


def round_frequencies(model: esm.ESM2) -> None:
    """Round rotary frequencies to FP16, as Meta's are: they were trained so, and fair-esm computes with them."""
    for layer in model.layers:
        layer.self_attn.rot_emb.inv_freq.copy_(layer.self_attn.rot_emb.inv_freq.half())


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
