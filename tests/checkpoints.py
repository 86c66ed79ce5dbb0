"""Checkpoints that are made up."""

from argparse import Namespace
from pathlib import Path

import esm
import torch


def save_in_fair_esms_format(model: esm.ESM2, path: Path) -> None:
    """What fair-esm's own checkpoints have of a model, contact head apart."""
    about = {"encoder_layers": model.num_layers, "encoder_embed_dim": model.embed_dim}
    config = Namespace(**about, encoder_attention_heads=model.attention_heads, token_dropout=True)
    state = {}
    for name, value in model.state_dict().items():
        prefix = "encoder." if name.startswith("lm_head") else "encoder.sentence_encoder."
        if not name.startswith("contact_head"):
            state[prefix + name] = value.clone()
    torch.save({"cfg": {"model": config}, "model": state}, path)
