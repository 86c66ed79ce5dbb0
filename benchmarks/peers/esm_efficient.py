"""esm-efficient (Python package esme) as a peer: the fastest packed ESM-2 of others that we know.

It takes one kernel from the package flash_attn, which must be compiled; here that kernel is PyTorch's own
FlashAttention for packs, on a CPU `scaled_dot_product_attention` protein by protein. All else runs as published in
0.0.9.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..measure.gemms import Shape, dtype_of, float32_gemms
from ..suite.places import find
from ..suite.program import packed
from ..suite.workloads import Protein
from .base import Peer, State

VERSION = "0.0.9"

NEEDED = ("einops", "huggingface_hub", "safetensors", "tqdm")
"""What of its dependencies the model alone imports."""

BUDGETS = {"cpu": (2_048,), "cuda": (16_384, 49_152)}
"""Tokens of a pack that it is tried with; the fastest one counts."""

TOKEN_DROPOUT = 1 - 0.15 * 0.8
"""ESM-2 scales its input by this, esm-efficient does not: it is put into the weights, to have equal results."""

EncodePack = Callable[[Tensor, Tensor, int], Tensor]
"""Tokens ``[T]``, where proteins end ``[N + 1]`` and the longest's tokens to representations ``[T, D]``."""


def missing() -> str | None:
    """Why esm-efficient cannot be measured here; None where it can."""
    lacking = [name for name in ("esme", *NEEDED) if find_spec(name) is None]
    if lacking:
        return (
            f"without {', '.join(lacking)}: pip install --no-deps esm-efficient=={VERSION}, "
            f"pip install {' '.join(NEEDED)}"
        )
    return None


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    **options: Any,
) -> Tensor:
    """What esm-efficient calls: ``[T, H, d]`` queries, keys and values; neither causal nor with dropout."""
    if any(options.values()):
        raise NotImplementedError(f"esm-efficient called flash_attn with {options}; is it {VERSION}?")
    if q.is_cuda:
        return on_gpu()(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    parts = []
    for start, end in itertools.pairwise(cu_seqlens_q.tolist()):
        one = (each[start:end].transpose(0, 1) for each in (q, k, v))  # [H, T, d]
        parts.append(F.scaled_dot_product_attention(next(one), next(one), next(one)).transpose(0, 1))
    return torch.cat(parts)


def on_gpu() -> Callable[..., Any]:
    """PyTorch's attention for packs (2.10 and newer)."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def stand_in(name: str, **functions: Any) -> ModuleType:
    """A module that has these functions."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    vars(module).update(functions)
    return module


def import_model() -> Any:
    """esm-efficient's ESM2. The stand-ins are there while it is imported, and only then: others look for them."""
    stand_ins = {
        "flash_attn": stand_in("flash_attn", flash_attn_varlen_func=flash_attn_varlen_func),
        # Of its padded path, which is not run here
        "flash_attn.bert_padding": stand_in("flash_attn.bert_padding", pad_input=None, unpad_input=None),
        "accelerate": stand_in("accelerate"),  # loads checkpoints
    }
    before = {name: sys.modules.pop(name, None) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        from esme.esm import ESM2
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return ESM2


def esm_efficient(shape: Shape, precision: str, device: str, state: State | None) -> EncodePack:
    """esm-efficient's ESM-2, with these weights or with random ones of its own."""
    with torch.device(device):
        model = import_model()(shape.layers, shape.dim, shape.heads, dtype=dtype_of(precision))
    model.eval().requires_grad_(False)
    if state is not None:
        model.load_state_dict(its_names(state), strict=False)
        for index, layer in enumerate(model.layers):
            frequencies = state.get(f"layers.{index}.self_attn.rot_emb.inv_freq")
            if frequencies is not None:  # else an older commit's, which are those that it computes itself
                layer.self_attn.rot_emb.inv_freq = frequencies.to(device)

    def encode(input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        with float32_gemms(precision):
            return model.forward_representation(input_ids, (cu_seqlens, max_seqlen))

    return encode


def its_names(state: State) -> dict[str, Tensor]:
    """An encoder's parameters, by fair-esm's names, as esm-efficient calls them."""
    names = {
        "self_attn.q_proj": "self_attn.q",
        "self_attn.k_proj": "self_attn.k",
        "self_attn.v_proj": "self_attn.v",
        "self_attn.out_proj": "self_attn.out",
        "self_attn_layer_norm": "self_attn.norm",
        "final_layer_norm": "final.0",
        "fc1": "final.1",
        "fc2": "final.3",
    }
    found = {}
    for name, values in state.items():
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        found[name] = values * TOKEN_DROPOUT if name == "embed_tokens.weight" else values
    return found


class PackedPeer(Peer):
    """A peer that takes packs; its sizes are token budgets."""

    unit = "packs"

    def __init__(
        self,
        encode: EncodePack,
        entries: Sequence[Protein],
        precision: str,
        device: str,
        sizes: Sequence[int] | None = None,
    ):
        super().__init__(encode, entries, packed, precision, device, sizes or BUDGETS[device])

    def embed(self, batch: Any) -> tuple[Sequence[str], Tensor]:
        """A pack's labels and embeddings, ``[N, D]`` on the device."""
        cu_seqlens = batch.cu_seqlens.to(self.device)
        found = self.encode(batch.input_ids.to(self.device), cu_seqlens, batch.max_seqlen)
        return batch.sequence_ids, find("mean_over_residues")(found, cu_seqlens)
