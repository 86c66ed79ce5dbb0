"""The ESM-2 encoder (Lin et al. 2023, doi:10.1126/science.ade2574), from tokens to representations.

Everything runs on packed proteins: the tokens of N proteins one after the other, without padding between them, T
in all. Only attention sees where one protein ends. Parameters carry fair-esm's names, but query, key and value
have one projection. The heads for logits and contacts are left out: embeddings do not need them.
Shapes: T tokens, N proteins, D embedding, H heads, d = D / H.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from virnucpro.models.attention import Rotary, attend, blocks_of
from virnucpro.models.float32_mode import float32_products
from virnucpro.models.forking import check_can_compute
from virnucpro.models.formats import FORMATS
from virnucpro.models.linear import Linear, layer_norm, parameter
from virnucpro.models.precision import PRECISIONS
from virnucpro.models.rotary import Frequencies, RotaryTables, exact_frequencies

if TYPE_CHECKING:
    from virnucpro.models.kernels import Blocks

GEMMS = ("self_attn.qkv_proj", "self_attn.out_proj", "fc1", "fc2")
"""A layer's GEMMs, by their names in it."""

PAD, MASK = 1, 32  # indices in ESM-2's alphabet
VOCABULARY = 33

ROWS = 16
"""A CPU's packs are filled up to a multiple of so many tokens.

oneDNN compiles code for each shape of a GEMM, and keeps it: 516 MiB for 200 numbers of tokens in FP32.
"""

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


@dataclass(frozen=True)
class Constants:
    """What of a checkpoint is no parameter, and yet decides its embeddings.

    `frequencies`: of the rotary positions, the same in all layers; Meta's are rounded to FP16, as in training.
    `token_dropout`: whether ``<mask>`` is zeroed and the rest rescaled for it. `norm_eps`: what layer norms add to
    the variance. `stored`: whether the frequencies came from a checkpoint, for people to read.
    """

    frequencies: Frequencies
    token_dropout: bool = True
    norm_eps: float = 1e-5
    stored: bool = field(default=False, compare=False, repr=False)

    @classmethod
    def exact(cls, shape: ESM2Shape) -> "Constants":
        """Those of ESM-2, but for the rounding of the frequencies."""
        return cls(exact_frequencies(shape.dim // shape.heads))


class ESM2(nn.Module):
    """ESM-2's encoder in one precision, for inference.

    `precision`: a name in `PRECISIONS`. Rotary angles are FP32 in all of them. `constants`: by default
    `Constants.exact`.
    """

    def __init__(self, shape: ESM2Shape, precision: str = "fp32", constants: Constants | None = None):
        super().__init__()
        self.shape, self.precision = shape, precision
        self.constants = constants or Constants.exact(shape)
        linear = FORMATS[PRECISIONS[precision].matmul]
        self.num_layers, self.embed_dim = shape.layers, shape.dim  # fair-esm's attribute names
        # from_pretrained: nn.Embedding's own initialisation takes two seconds of imports on the meta device
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(VOCABULARY, shape.dim, dtype=torch.float32))
        self.layers: Sequence[Layer] = nn.ModuleList(  # type: ignore[assignment]
            Layer(shape, linear, self.constants.norm_eps) for _ in range(shape.layers)
        )
        self.emb_layer_norm_after = norm_of(shape.dim, self.constants.norm_eps)
        self.rotary_tables = RotaryTables(self.constants.frequencies)

    def forward(self, tokens: Tensor, repr_layers: Sequence[int] | None = None) -> dict[str, dict[int, Tensor]]:
        """Representations of padded proteins, as fair-esm's ESM2 returns them, computed without the padding.

        `tokens`: int64 ``[B, T]``, each row BOS, residues, EOS, padding. `repr_layers`: which layers to
        return, 0 (the input embedding) to `num_layers` (after the last norm; the default).
        Returns ``{"representations": {layer: [B, T, D]}}`` in the model's type, zero at padding.
        Raises ValueError for a layer that does not exist.
        """
        kept = tokens.ne(PAD)
        cu_seqlens = F.pad(kept.sum(-1).cumsum(0), (1, 0)).int()
        packed = self.forward_packed(tokens[kept], cu_seqlens, tokens.shape[1], repr_layers)["representations"]
        representations = {}
        for layer, values in packed.items():
            representations[layer] = values.new_zeros((*tokens.shape, self.embed_dim))
            representations[layer][kept] = values
        return {"representations": representations}

    @torch.no_grad()
    def forward_packed(
        self, input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int, repr_layers: Sequence[int] | None = None
    ) -> dict[str, dict[int, Tensor]]:
        """Representations of packed proteins; the host does not wait for the device.

        `input_ids`: int64 ``[T]``, BOS, residues and EOS of one protein after the other. `cu_seqlens`: int32
        ``[N + 1]``, 0 and where each protein ends. `max_seqlen`: at least the tokens of the longest protein.
        `repr_layers`: as for `forward`. Returns ``{"representations": {layer: [T, D]}}`` in the model's type, on a
        CPU views of up to 15 rows more. Raises ValueError for a layer that does not exist.
        """
        wanted = {self.num_layers} if repr_layers is None else set(repr_layers)
        if not wanted <= set(range(self.num_layers + 1)):
            raise ValueError(f"repr_layers {sorted(wanted)}: this model has layers 0 to {self.num_layers}")
        if not len(input_ids):
            return {"representations": {layer: self.embed_tokens(input_ids) for layer in wanted}}
        check_can_compute(input_ids.device)
        representations: dict[int, Tensor] = {}
        tokens, filled = len(input_ids), cu_seqlens
        if input_ids.device.type == "cpu":
            input_ids, filled = filled_up(input_ids, cu_seqlens)
        is_fp32 = self.embed_tokens.weight.dtype == torch.float32
        mode = PRECISIONS[self.precision].float32_mode if is_fp32 else None
        # autocast would mix types, and this model has one
        with torch.autocast(input_ids.device.type, enabled=False), float32_products(mode):
            x, rotary = self.begin(input_ids, filled, max_seqlen)
            if 0 in wanted:
                representations[0] = x.clone()  # the layers below change x in place
            # x is the residual without the biases that were added to it: those are in `before`, summed up
            before = self.summed_biases()
            where = (rotary, cu_seqlens, max_seqlen, mode == "bf16", blocks_of(x, cu_seqlens, max_seqlen))
            for index, layer in enumerate(self.layers):
                layer.add_attention_(x, before[2 * index], *where)
                layer.add_feed_forward_(x, before[2 * index + 1])
                if index + 1 in wanted and index + 1 < self.num_layers:
                    representations[index + 1] = (x + before[2 * index + 2]).to(x.dtype)
            if self.num_layers in wanted:
                representations[self.num_layers] = layer_norm(x, before[-1], self.emb_layer_norm_after)
        return {"representations": {layer: values[:tokens] for layer, values in representations.items()}}

    def begin(self, input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> tuple[Tensor, Rotary]:
        """The residual ``[T, D]`` before the first layer, and where each token stands in its protein."""
        protein = protein_of_each_token(cu_seqlens, len(input_ids))
        positions = torch.arange(len(input_ids), device=input_ids.device, dtype=torch.int32) - cu_seqlens[protein]
        rotary = (positions, *self.rotary_tables(max_seqlen, input_ids.device))
        return self.embed(input_ids, protein, cu_seqlens), rotary

    def embed(self, input_ids: Tensor, protein: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Token embeddings ``[T, D]``; with token dropout mask tokens are zeroed, and each protein is rescaled."""
        x = self.embed_tokens(input_ids)
        if not self.constants.token_dropout:
            return x
        masked = input_ids.eq(MASK)
        count = torch.zeros(len(cu_seqlens) - 1, device=x.device, dtype=torch.float32)
        count.index_add_(0, protein, masked.float())
        observed = count / cu_seqlens.diff()
        scale = ((1 - MASK_RATIO_TRAIN) / (1 - observed)).to(x.dtype)[protein].masked_fill_(masked, 0.0)
        return x.mul_(scale[:, None])

    def summed_biases(self) -> Tensor:
        """What the biases of the GEMMs before each norm add to the residual: FP32 ``[2 layers + 1, D]``.

        The GEMMs' results are added to the residual in their epilogue, where a bias would need another step.
        """
        linears = (linear for layer in self.layers for linear in (layer.self_attn.out_proj, layer.fc2))
        biases: list[Tensor] = [linear.bias for linear in linears]
        before = torch.ones(len(biases) + 1, len(biases), device=biases[0].device, dtype=torch.float64).tril(-1)
        return (before @ torch.stack(biases).double()).float()  # a sum that is the same in every run

    def channels_apart(self) -> dict[str, list[int]]:
        """The input channels that GEMMs keep out of 8 bits, by GEMM, as ``layers.3.fc1``, where there are any."""
        buffers = dict(self.named_buffers())
        found = {name.removesuffix(".channels"): buffers[name].tolist() for name in buffers if "channels" in name}
        return {name: channels for name, channels in found.items() if channels}

    def fair_esm_state(self) -> dict[str, Tensor]:
        """The parameters and rotary frequencies by fair-esm's names, as this model computes with them.

        Parameters share memory with this model's, but for 8-bit formats: those give what their numbers stand for,
        in FP32.
        """
        values: dict[str, Tensor] = {
            f"{name}.{leaf}": value
            for name in ("embed_tokens", "emb_layer_norm_after")
            for leaf, value in self.get_submodule(name).named_parameters()
        }
        for index, layer in enumerate(self.layers):
            values |= {f"layers.{index}.{name}": value for name, value in layer.plain_values().items()}
        state = {}
        for name, value in values.items():
            for part, rows in zip(parts_of(name), value.detach().chunk(len(parts_of(name))), strict=True):
                state[part] = rows
        device = self.embed_tokens.weight.device
        frequencies = torch.tensor(self.constants.frequencies, device=device, dtype=torch.float32)
        return state | dict.fromkeys(frequency_names(self.shape), frequencies)


class Layer(nn.Module):
    """One transformer layer, pre-norm: attention and a GELU feed-forward, each added to the residual.

    `linear`: the class of its four GEMMs. `norm_eps`: of its norms.
    """

    def __init__(self, shape: ESM2Shape, linear: type[Linear], norm_eps: float):
        super().__init__()
        self.self_attn = Attention(shape, linear)
        self.self_attn_layer_norm = norm_of(shape.dim, norm_eps)
        self.fc1 = linear(shape.dim, 4 * shape.dim)
        self.fc2 = linear(4 * shape.dim, shape.dim)
        self.final_layer_norm = norm_of(shape.dim, norm_eps)

    def load_(
        self, values: dict[str, Tensor], dtype: torch.dtype, apart: Mapping[str, Sequence[int]] = {}
    ) -> None:
        """Store FP32 `values` by this layer's names of weights and biases, which are overwritten and taken out.

        `dtype`: the activations'. `apart`: by names in `GEMMS`, the input channels that 8 bits leave out.
        """
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                weight, bias = values.pop(f"{name}.weight"), values.pop(f"{name}.bias")
                module.load_(weight, bias, dtype, apart.get(name, ()))
            elif isinstance(module, nn.LayerNorm):
                for leaf in ("weight", "bias"):
                    setattr(module, leaf, parameter(values.pop(f"{name}.{leaf}").to(dtype)))

    def plain_values(self) -> dict[str, Tensor]:
        """What `load_` was given, up to this format's rounding; shared memory where nothing was changed."""
        values: dict[str, Tensor] = {}
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                values |= {f"{name}.weight": module.plain_weight(), f"{name}.bias": module.bias}
            elif isinstance(module, nn.LayerNorm):
                values |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
        return values

    def add_attention_(
        self,
        x: Tensor,
        offset: Tensor,
        rotary: Rotary,
        cu_seqlens: Tensor,
        max_seqlen: int,
        may_round: bool = False,
        blocks: "Blocks | None" = None,
    ) -> None:
        """Add the attention of the norm of ``x + offset`` to `x` ``[T, D]``, without out_proj's bias.

        The arguments from `rotary` on are `attend`'s.
        """
        attention = self.self_attn
        normed = attention.qkv_proj.normed(x, offset, self.self_attn_layer_norm)
        qkv = attention.qkv_proj(normed).unflatten(-1, (3, attention.heads, -1))  # [T, 3, H, d]
        attended = attend(qkv, rotary, cu_seqlens, max_seqlen, may_round, blocks).flatten(1)
        attention.out_proj.add_to_(x, attention.out_proj.operand(attended))

    def add_feed_forward_(self, x: Tensor, offset: Tensor) -> None:
        """Add the feed-forward of the norm of ``x + offset`` to `x` ``[T, D]``, without fc2's bias."""
        self.fc2.add_to_(x, self.fc2.operand(self.fc1.gelu(self.fc1.normed(x, offset, self.final_layer_norm))))


class Attention(nn.Module):
    """The GEMMs around attention, under fair-esm's names."""

    def __init__(self, shape: ESM2Shape, linear: type[Linear]):
        super().__init__()
        self.heads = shape.heads
        self.qkv_proj = linear(shape.dim, 3 * shape.dim)
        self.out_proj = linear(shape.dim, shape.dim)


def norm_of(dim: int, eps: float) -> nn.LayerNorm:
    """A layer norm whose parameters are FP32, whatever type the process has for new ones."""
    return nn.LayerNorm(dim, eps, dtype=torch.float32)


def frequency_names(shape: ESM2Shape) -> list[str]:
    """Where fair-esm's ESM-2 keeps its rotary frequencies: a copy in each layer."""
    return [f"layers.{index}.self_attn.rot_emb.inv_freq" for index in range(shape.layers)]


def parts_of(parameter: str) -> list[str]:
    """fair-esm's names of what is joined, along the first dimension, in a parameter of this model."""
    return (
        [parameter.replace("qkv_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
        if "qkv_proj" in parameter
        else [parameter]
    )


def filled_up(input_ids: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """A pack with a protein of padding more, where its tokens are no multiple of `ROWS`."""
    missing = -len(input_ids) % ROWS
    if not missing:
        return input_ids, cu_seqlens
    filled = F.pad(input_ids, (0, missing), value=PAD)
    return filled, F.pad(cu_seqlens, (0, 1), value=len(filled))


def protein_of_each_token(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Index of the protein of each token, int64 ``[T]``; `tokens` is T, which the host knows without waiting."""
    proteins = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return torch.repeat_interleave(proteins, cu_seqlens.diff(), output_size=tokens)
