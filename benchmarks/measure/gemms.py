"""The GEMMs of a model alone, in each precision: a ceiling of the engine's speed."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..suite.places import find


class Shape(Protocol):
    """How large a model is."""

    layers: int
    dim: int
    heads: int


COMPARABLE = ["fp32", "tf32", "bf16", "fp16"]
"""The precisions in which baselines compute, too."""


def dtype_of(precision: str) -> torch.dtype:
    """PyTorch's type of a precision in which baselines compute, too."""
    if precision not in COMPARABLE:
        raise ValueError(f"no other implementation computes in {precision}")
    dtype: torch.dtype = find("PRECISIONS")[precision].activations_on("cuda")
    return dtype


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
