"""What the engine is measured beside: its GEMMs alone, and what users run today with its weights."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import esm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._hardware import PRECISIONS
from ._virnucpro import find
from ._workloads import Protein

BATCH_SIZES = {"cpu": (1, 2, 8), "cuda": (8, 32, 128)}
"""Proteins in a padded batch that a peer is tried with; the fastest one counts."""


class Shape(Protocol):
    """How large a model is."""

    layers: int
    dim: int
    heads: int


Encode = Callable[[Tensor], Tensor]
"""Padded tokens ``[B, T]`` on the device to representations of the last layer ``[B, T, D]``."""

State = Mapping[str, Tensor]
"""An ESM-2 encoder's parameters by fair-esm's names."""


COMPARABLE = [name for name, precision in PRECISIONS.items() if precision.dtype]
"""The precisions in which peers compute, too."""


def dtype_of(precision: str) -> torch.dtype:
    """PyTorch's type of a precision in which peers compute, too."""
    name = PRECISIONS[precision].dtype
    if name is None:
        raise ValueError(f"no other implementation computes in {precision}")
    return getattr(torch, name)


@contextlib.contextmanager
def float32_gemms(precision: str) -> Iterator[None]:
    """Let FP32 GEMMs be IEEE's, or TF32 where that is the precision, as virnucpro does for its own."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class LayerGEMMs:
    """The GEMMs of ESM-2's layers and nothing else: what no implementation on this machine can beat.

    In INT8 and FP8 of operands that are quantised already, with scales and bias, which cost nothing to speak of,
    but without GELU and the residual: on a GPU the commit's own INT8 kernel and PyTorch's FP8 product, on a CPU
    PyTorch's INT8 product.
    """

    def __init__(self, shape: Shape, precision: str, device: str, tokens: int):
        dim = shape.dim
        widths = ((dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim))  # qkv, out, fc1, fc2
        self.gemm, operand, bias_type = gemm_of(precision, device)
        # As many as the model has: one layer's alone would stay in the processor's cache
        self.layers = [
            [
                (
                    operand(torch.randn(outputs, inputs, device=device).mul_(inputs**-0.5)),
                    torch.zeros(outputs, device=device, dtype=bias_type),
                )
                for inputs, outputs in widths
            ]
            for _ in range(shape.layers)
        ]
        self.inputs = [operand(torch.randn(tokens, inputs, device=device)) for inputs, _ in widths]
        self.precision = precision
        if device == "cpu" and self.gemm is F.linear:
            self.gemm = min(CPU_GEMMS, key=self.seconds_of_a_layer)

    @torch.inference_mode()
    def seconds_of_a_layer(self, gemm: "Gemm") -> float:
        """The shortest of three times that a layer's GEMMs take on a CPU."""
        found = []
        with float32_gemms(self.precision):
            for _ in range(3):
                start = time.perf_counter()
                for x, (weight, bias) in zip(self.inputs, self.layers[0], strict=True):
                    gemm(x, weight, bias)
                found.append(time.perf_counter() - start)
        return min(found)

    @torch.inference_mode()
    def run(self, passes: int) -> None:
        """Compute them that many times."""
        with float32_gemms(self.precision):
            for layer in self.layers * passes:
                for x, (weight, bias) in zip(self.inputs, layer, strict=True):
                    self.gemm(x, weight, bias)


Operand = Any
"""A matrix as a GEMM takes it: a tensor, or 8-bit values ``[rows, inputs]`` and FP32 scales ``[rows]``."""

Gemm = Callable[[Operand, Operand, Tensor], Tensor]
"""Input, weight and bias to the output."""


def gemm_of(precision: str, device: str) -> tuple[Gemm, Callable[[Tensor], Operand], torch.dtype]:
    """A precision's GEMM on a type of device, what makes operands of FP32 matrices for it, and the bias's type."""
    if precision == "int8":
        gemm, limit, dtype = (int8_on_cpu if device == "cpu" else int8_on_gpu()), 127, torch.int8
        bias = torch.float32 if device == "cpu" else torch.float16
    elif precision == "fp8":
        gemm, limit, dtype, bias = fp8_on_gpu, 448, torch.float8_e4m3fn, torch.bfloat16
    else:
        dtype = dtype_of(precision)
        return F.linear, lambda matrix: matrix.to(dtype), dtype
    return gemm, functools.partial(eight_bits, limit=limit, dtype=dtype), bias


def onednn_linear(x: Operand, weight: Operand, bias: Tensor) -> Tensor:
    """The GEMM of oneDNN where PyTorch would take MKL's: on AMD's CPUs it is the faster one."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


CPU_GEMMS: tuple[Gemm, ...] = (F.linear, onednn_linear) if torch.backends.mkldnn.is_available() else (F.linear,)
"""A CPU's GEMMs in 32 and 16 bits; the faster one is the ceiling."""


def eight_bits(matrix: Tensor, limit: int, dtype: torch.dtype) -> Operand:
    """FP32 ``[rows, inputs]``, overwritten, as 8-bit values with a scale for each row."""
    scales = matrix.abs().amax(1).div_(limit)
    matrix.div_(scales[:, None])
    return (matrix.round_() if dtype == torch.int8 else matrix).to(dtype), scales


def int8_on_cpu(x: Operand, weight: Operand, bias: Tensor) -> Tensor:
    """PyTorch's INT8 product alone, the sums in INT32: scales and bias would be passes of their own."""
    return torch._int_mm(x[0], weight[0].t())


def int8_on_gpu() -> Gemm:
    """The commit's kernel, to FP16."""
    kernel = find("int8_linear")
    return lambda x, weight, bias: kernel(*x, *weight, bias, torch.float16)


def fp8_on_gpu(x: Operand, weight: Operand, bias: Tensor) -> Tensor:
    """PyTorch's product, to BF16, the only type that it has for a scale for each row."""
    (values, scales), (weights, weight_scales) = x, weight
    return torch._scaled_mm(
        values,
        weights.t(),
        scales[:, None],
        weight_scales[None],
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


class Peer:
    """Another implementation of ESM-2 with proteins, in the order given, cut into batches by one of some sizes.

    `cut`: proteins and a size to batches as `embeddings` takes them. `unit`: what has that size.
    """

    unit = "batches"

    def __init__(
        self,
        encode: Callable[..., Tensor],
        entries: Sequence[Protein],
        cut: Callable[[Sequence[Protein], int], list[Any]],
        precision: str,
        device: str,
        sizes: Sequence[int],
    ):
        self.encode, self.precision, self.device = encode, precision, device
        self.batches = {size: cut(entries, size) for size in sizes}
        # One batch of the largest size tells which size is the fastest: neighbours, as batches of sorted ones are
        middle = max(0, (len(entries) - max(sizes)) // 2)
        some = entries[middle : middle + max(sizes)]
        self.trials = {size: cut(some, size) for size in sizes} if len(sizes) > 1 else {}
        self.size = min(sizes)

    def choose_fastest(self, timer: Callable[[Callable[[], None]], float]) -> None:
        """Use the size that is fastest here."""
        seconds = {}
        everything = self.batches
        try:
            self.batches = self.trials
            for size in self.trials:
                self.size = size
                self.run(1)
                seconds[size] = timer(functools.partial(self.run, 1))
        finally:
            self.batches = everything
        self.size = min(seconds, key=lambda size: seconds[size], default=self.size)

    def check(self, expected: Mapping[str, Tensor]) -> float:
        """The largest difference from `expected` embeddings ``[D]`` by label, over their largest value.

        Raises RuntimeError where it is more than rounding: two speeds then are not of the same work.
        """
        found = self.embeddings()
        largest = max(row.abs().max().item() for row in expected.values())
        difference = max((row - found[label]).abs().max().item() for label, row in expected.items()) / largest
        if not difference <= PRECISIONS[self.precision].rounding:
            raise RuntimeError(f"this implementation's embeddings differ from the engine's by {difference:.2g}")
        return difference

    def run(self, passes: int) -> None:
        """Embed the workload that many times, from token batches on the CPU to embeddings on the CPU."""
        for _ in range(passes):
            self.embeddings()

    @torch.inference_mode()
    def embeddings(self) -> dict[str, Tensor]:
        """Each protein's embedding ``[D]``: the mean over its residues."""
        pending = []
        for batch in self.batches[self.size]:
            labels, mean = self.embed(batch)
            pending.append((labels, mean.to("cpu", non_blocking=True)))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {label: row for labels, mean in pending for label, row in zip(labels, mean, strict=True)}

    def embed(self, batch: Any) -> tuple[Sequence[str], Tensor]:
        """A batch's labels and embeddings, ``[N, D]`` on the device."""
        raise AssertionError("a subclass says how")


class PaddedPeer(Peer):
    """A peer that takes padded batches of `convert`, a batch converter as fair-esm's; its sizes are proteins."""

    def __init__(
        self,
        encode: Encode,
        entries: Sequence[Protein],
        convert: Callable[..., Any],
        precision: str,
        device: str,
        sizes: Sequence[int] | None = None,
    ):
        def cut(some: Sequence[Protein], size: int) -> list[Any]:
            return [convert(some[at : at + size]) for at in range(0, len(some), size)]

        super().__init__(encode, entries, cut, precision, device, sizes or BATCH_SIZES[device])

    def embed(self, batch: Any) -> tuple[Sequence[str], Tensor]:
        """A batch's labels and embeddings, ``[N, D]`` on the device."""
        labels, proteins, tokens = batch
        lengths = torch.tensor([len(protein) for protein in proteins])
        on_device = tokens.to(self.device)
        return labels, mean_over_residues(self.encode(on_device), lengths.to(self.device))


def mean_over_residues(representations: Tensor, lengths: Tensor) -> Tensor:
    """Mean of ``[B, T, D]`` over each row's first `lengths` residues, after BOS: float32 ``[B, D]``."""
    position = torch.arange(representations.shape[1], device=lengths.device)
    residues = (position > 0) & (position <= lengths[:, None])
    return torch.where(residues[..., None], representations.float(), 0.0).sum(1) / lengths[:, None]


def fair_esm(shape: Shape, precision: str, device: str, state: State | None) -> Encode:
    """fair-esm's own ESM-2."""
    peer = fill(lambda: esm.ESM2(shape.layers, shape.dim, shape.heads), state, precision, device)

    def encode(tokens: Tensor) -> Tensor:
        with float32_gemms(precision):
            return peer(tokens, repr_layers=[shape.layers])["representations"][shape.layers]

    return encode


def transformers_is_missing() -> str | None:
    """Why Transformers cannot be measured here; None where it can."""
    if find_spec("transformers") is None:
        return "Transformers is not installed where this ran; install it there to compare with it"
    return None


def transformers(shape: Shape, precision: str, device: str, state: State | None) -> Encode:
    """Transformers' EsmModel with SDPA."""
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
    peer = fill(lambda: EsmModel(config, add_pooling_layer=False), names, precision, device)

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
        ("self_attn.q_proj", "attention.self.query"),
        ("self_attn.k_proj", "attention.self.key"),
        ("self_attn.v_proj", "attention.self.value"),
        ("self_attn.out_proj", "attention.output.dense"),
        ("fc1", "intermediate.dense"),
        ("fc2", "output.dense"),
    ):
        name = name.replace(ours, theirs)
    return name


def fill(make: Callable[[], nn.Module], state: State | None, precision: str, device: str) -> nn.Module:
    """A peer in the precision, made on the device; with its own random weights, or with all of these."""
    with torch.device(device):
        peer = make().to(dtype_of(precision)).eval()
    taken = peer.load_state_dict(dict(state or {}), strict=False)
    if taken.unexpected_keys:
        raise RuntimeError(f"this peer has no parameter {taken.unexpected_keys[0]}")
    return peer.requires_grad_(False)
