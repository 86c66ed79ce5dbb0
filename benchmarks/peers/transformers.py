"""Transformers' EsmModel with SDPA as a baseline."""

from importlib.util import find_spec

from torch import Tensor, nn

from ..measure.gemms import Shape, float32_gemms
from .base import Encode, State, fill


def transformers_is_missing() -> str | None:
    """Why Transformers cannot be measured here; None where it can."""
    if find_spec("transformers") is None:
        return "Transformers is not installed where this ran; install it there to compare with it"
    return None


def esm_model(shape: Shape, precision: str, device: str, state: State | None) -> nn.Module:
    """Transformers' EsmModel with SDPA, with these weights or with random ones."""
    from transformers import EsmConfig, EsmModel

    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=shape.dim,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.dim,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        attn_implementation="sdpa",
    )
    names = {transformers_name(name): values for name, values in (state or {}).items()}
    return fill(lambda: EsmModel(config, add_pooling_layer=False), names, precision, device)


def transformers(shape: Shape, precision: str, device: str, state: State | None) -> Encode:
    """`esm_model`, from padded tokens to representations."""
    peer = esm_model(shape, precision, device, state)

    def encode(tokens: Tensor) -> Tensor:
        with float32_gemms(precision):
            return peer(input_ids=tokens, attention_mask=tokens.ne(1)).last_hidden_state

    return encode


def transformers_name(name: str) -> str:
    """fair-esm's name of a parameter as Transformers calls it."""
    for ours, theirs in (
        ("embed_tokens", "embeddings.word_embeddings"),
        ("layers.", "encoder.layer."),
        ("emb_layer_norm_after", "encoder.emb_layer_norm_after"),
        ("self_attn_layer_norm", "attention.LayerNorm"),
        ("final_layer_norm", "LayerNorm"),
        ("self_attn.rot_emb", "attention.self.rotary_embeddings"),
        ("self_attn.q_proj", "attention.self.query"),
        ("self_attn.k_proj", "attention.self.key"),
        ("self_attn.v_proj", "attention.self.value"),
        ("self_attn.out_proj", "attention.output.dense"),
        ("fc1", "intermediate.dense"),
        ("fc2", "output.dense"),
    ):
        name = name.replace(ours, theirs)
    return name
