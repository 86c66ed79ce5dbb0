"""The ESM-2 encoder (Lin et al. 2023, doi:10.1126/science.ade2574), from tokens to representations.

Parameters carry fair-esm's names, so a fair-esm checkpoint loads by name. The heads for logits and contacts
are left out: embeddings do not need them. Shapes: B proteins, T tokens, D embedding, H heads.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD, MASK = 1, 32  # indices in ESM-2's alphabet
VOCABULARY = 33

# At training 15 % of the residues were selected and 80 % of those became <mask>; ESM-2 rescales its input by
# the share that was not masked, at inference too (Lin et al. 2023; fair-esm: token_dropout).
MASK_RATIO_TRAIN = 0.15 * 0.8


@dataclass(frozen=True)
class ESM2Shape:
    """How large an ESM-2 model is."""

    layers: int
    dim: int
    heads: int

    @property
    def parameters(self) -> int:
        """Number of parameters of the encoder."""
        layer = 12 * self.dim**2 + 13 * self.dim  # q k v out: 4 D² + 4 D; fc1 fc2: 8 D² + 5 D; norms: 4 D
        return VOCABULARY * self.dim + self.layers * layer + 2 * self.dim


SHAPES = {
    "esm2_t6_8M_UR50D": ESM2Shape(layers=6, dim=320, heads=20),
    "esm2_t12_35M_UR50D": ESM2Shape(layers=12, dim=480, heads=20),
    "esm2_t30_150M_UR50D": ESM2Shape(layers=30, dim=640, heads=20),
    "esm2_t33_650M_UR50D": ESM2Shape(layers=33, dim=1280, heads=20),
    "esm2_t36_3B_UR50D": ESM2Shape(layers=36, dim=2560, heads=40),
    "esm2_t48_15B_UR50D": ESM2Shape(layers=48, dim=5120, heads=40),
}
"""The six published sizes by their fair-esm names."""


class ESM2(nn.Module):
    """ESM-2's encoder in one precision.

    `precision` is ``fp32`` (IEEE: TF32 is off during its forward pass, whatever the process has set),
    ``tf32``, ``bf16`` or ``fp16``. Parameters have that type; rotary angles are FP32 in all of them.
    """

    def __init__(self, shape: ESM2Shape, precision: str = "fp32"):
        super().__init__()
        self.shape, self.precision = shape, precision
        self.num_layers, self.embed_dim = shape.layers, shape.dim  # fair-esm's attribute names
        # from_pretrained: nn.Embedding's own initialisation takes two seconds of imports on the meta device
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(VOCABULARY, shape.dim))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.emb_layer_norm_after = nn.LayerNorm(shape.dim)

    def forward(self, tokens: Tensor, repr_layers: Sequence[int] | None = None) -> dict[str, dict[int, Tensor]]:
        """Representations of padded proteins, as fair-esm's ESM2 returns them.

        `tokens`: int64 ``[B, T]``, each row BOS, residues, EOS, padding. `repr_layers`: which layers to
        return, 0 (the input embedding) to `num_layers` (after the last norm; the default).
        Returns ``{"representations": {layer: [B, T, D]}}`` in the model's type. At padding positions the
        values mean nothing. Raises ValueError for a layer that does not exist.
        """
        wanted = {self.num_layers} if repr_layers is None else set(repr_layers)
        if not wanted <= set(range(self.num_layers + 1)):
            raise ValueError(f"repr_layers {sorted(wanted)}: this model has layers 0 to {self.num_layers}")
        representations: dict[int, Tensor] = {}
        with float32_products(self.precision):
            padding = tokens.eq(PAD)
            x = self.embed(tokens, padding)
            # Asking a GPU whether there is any padding would make the host wait for it.
            masked = tokens.device.type == "cuda" or bool(padding.any())
            keys = ~padding[:, None, None, :] if masked else None  # [B, 1, 1, T], True is attended to
            cos, sin = rotary_tables(tokens.shape[1], self.shape.dim // self.shape.heads, tokens.device)
            if 0 in wanted:
                representations[0] = x
            for index, layer in enumerate(self.layers, start=1):
                x = layer(x, cos, sin, keys)
                if index in wanted and index < self.num_layers:
                    representations[index] = x
            if self.num_layers in wanted:
                representations[self.num_layers] = self.emb_layer_norm_after(x)
        return {"representations": representations}

    def embed(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Token embeddings ``[B, T, D]``: mask and padding tokens zeroed, rescaled for the masked share."""
        masked = tokens.eq(MASK)
        x = self.embed_tokens(tokens).masked_fill((masked | padding)[..., None], 0.0)
        observed = masked.sum(-1, dtype=torch.float32) / (~padding).sum(-1)
        return x * ((1 - MASK_RATIO_TRAIN) / (1 - observed)).to(x.dtype)[:, None, None]


class Layer(nn.Module):
    """One transformer layer, pre-norm: attention and a GELU feed-forward, each with a residual."""

    def __init__(self, shape: ESM2Shape):
        super().__init__()
        self.self_attn = Attention(shape)
        self.self_attn_layer_norm = nn.LayerNorm(shape.dim)
        self.fc1 = nn.Linear(shape.dim, 4 * shape.dim)
        self.fc2 = nn.Linear(4 * shape.dim, shape.dim)
        self.final_layer_norm = nn.LayerNorm(shape.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor | None) -> Tensor:
        """``[B, T, D]`` to ``[B, T, D]``."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), cos, sin, keys)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))  # the exact erf form, as fair-esm's


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, shape: ESM2Shape):
        super().__init__()
        self.heads = shape.heads
        self.q_proj = nn.Linear(shape.dim, shape.dim)
        self.k_proj = nn.Linear(shape.dim, shape.dim)
        self.v_proj = nn.Linear(shape.dim, shape.dim)
        self.out_proj = nn.Linear(shape.dim, shape.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor | None) -> Tensor:
        """``[B, T, D]`` to ``[B, T, D]``; `keys` ``[B, 1, 1, T]`` is True where a token may be attended to."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # [B, H, T, D/H]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.out_proj(x.transpose(1, 2).flatten(2))


def rotary_tables(length: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, FP32 ``[length, 1, head_dim]`` (Su et al., arXiv:2104.09864)."""
    frequencies = 1.0 / 10000 ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)[:, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``[B, T, H, D/H]`` by position, in FP32; the result has x's type."""
    first, second = x.float().chunk(2, dim=-1)
    half_turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos + half_turned * sin).to(x.dtype)


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """For ``fp32`` and ``tf32``: choose how FP32 matrix products are computed, and restore it after.

    The setting belongs to the process, not to a model, so two models in one process each need their own.
    Attention is not affected: PyTorch's memory-efficient kernel, the fused one that takes FP32 on a GPU, computes
    each FP32 product from three TF32 ones, with an error near FP32's own.
    """
    if precision not in ("fp32", "tf32"):
        yield
        return
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee" if precision == "fp32" else "tf32"
        yield
    finally:
        for backend, setting in zip(backends, before, strict=True):
            backend.fp32_precision = setting
