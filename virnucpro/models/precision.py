"""The precisions in which ESM-2 runs: one table that everything else follows.

It does not import PyTorch, which takes seconds, so that a command line can be checked first; types are PyTorch's
names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Precision:
    """A precision: how weights are stored, what activations are, how GEMMs compute, and what hardware that needs.

    `bytes_per_weight`: of the GEMMs. `compute`: PyTorch's type of the activations and of all other parameters, on
    a CPU `compute_on_cpu` where that is given. `matmul`: the number format of the GEMMs, a key of
    `formats.FORMATS`. `float32_mode`: with FP32 activations, see `float32_mode.float32_products`, else None.
    `capability`: the least NVIDIA compute capability (CUDA C++ programming guide, "Arithmetic Instructions").
    `on_cpu`: whether CPUs run it. `auto_from`: the compute capability from which on ``--precision auto`` takes it;
    None for never. `about`: for a help text.
    """

    name: str
    bytes_per_weight: int
    compute: str
    matmul: str
    float32_mode: str | None
    capability: tuple[int, int]
    on_cpu: bool
    about: str
    auto_from: tuple[int, int] | None = None
    compute_on_cpu: str | None = None

    def activations_on(self, device: str) -> "torch.dtype":
        """PyTorch's type of the activations on a type of device, ``cpu`` or ``cuda``."""
        import torch

        name = self.compute_on_cpu if device == "cpu" and self.compute_on_cpu else self.compute
        dtype: torch.dtype = getattr(torch, name)
        return dtype


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision("fp32", 4, "float32", "native", "ieee", (0, 0), True, "IEEE FP32, TF32 off"),
            Precision("tf32", 4, "float32", "native", "tf32", (8, 0), False, "FP32 with TF32 GEMMs"),
            Precision("bf16", 2, "bfloat16", "native", None, (8, 0), True, "BF16"),
            # FP16 arithmetic from 5.3; faster than FP32 in GEMMs from 7.0, the first tensor cores
            Precision("fp16", 2, "float16", "native", None, (5, 3), True, "FP16", auto_from=(7, 0)),
            # FP16 around the GEMMs, because BF16 would add a rounding error as large as INT8's
            Precision("int8", 1, "float16", "int8", "bf16", (8, 0), True, "INT8 GEMMs", compute_on_cpu="float32"),
            Precision("fp8", 1, "float16", "fp8", None, (8, 9), False, "FP8 (e4m3) GEMMs"),
        )
    }
)
"""Every precision by its name, in the order in which people read them."""

FALLBACK = "fp32"
"""What ``--precision auto`` takes where no other precision's `auto_from` is reached; every device runs it."""


def auto_precision(capability: tuple[int, int] | None) -> str:
    """The precision of ``--precision auto`` for an NVIDIA compute capability, or None for a CPU.

    FP16 on a GPU with tensor cores, FP32 elsewhere.
    """
    for precision in PRECISIONS.values():
        if capability is not None and precision.auto_from is not None and capability >= precision.auto_from:
            return precision.name
    return FALLBACK


def unsupported_reason(name: str, capability: tuple[int, int] | None, device: str) -> str | None:
    """Why a device cannot compute in a precision, with the remedy; None where it can.

    `capability`: NVIDIA's, or None for a CPU; `device`: its name, for the sentence.
    """
    precision = PRECISIONS[name]
    usable = [each.name for each in PRECISIONS.values() if is_supported(each, capability)]
    if name in usable:
        return None
    remedy = f"use {', '.join(usable[:-1])} or {usable[-1]}" if len(usable) > 1 else f"use {usable[0]}"
    if capability is None:
        return f"precision {name!r} is a mode of NVIDIA GPUs; on the CPU {remedy}"
    needed = ".".join(map(str, precision.capability))
    found = ".".join(map(str, capability))
    return f"precision {name!r} needs an NVIDIA GPU of compute capability {needed}; {device} has {found}: {remedy}"


def is_supported(precision: Precision, capability: tuple[int, int] | None) -> bool:
    """Whether a device of this compute capability (None: a CPU) computes in the precision."""
    return precision.on_cpu if capability is None else capability >= precision.capability
