"""Compile the kernels for a GPU that is not here, and print what NVIDIA's assembler says (test_compilation.py).

    python compile_kernels.py CAPABILITY      as 90

Triton carries the assembler. It chooses between interpreter and compiler when it is imported, hence a process.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from virnucpro.models.kernels import gemm, quantise
from virnucpro.models.kernels.attention import LONG_TILE, TILE, Tile, attend_kernel
from virnucpro.models.kernels.norm import layer_norm_kernel
from virnucpro.models.kernels.rotary import rotate_kernel

ASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"


class Launch(NamedTuple):
    """A kernel as the engine launches it: types of its arguments in order, constants, and how it is run.

    `capabilities`: the GPUs it is for. `instruction`: a pattern that its PTX must match.
    """

    kernel: Any
    arguments: tuple[str, ...]
    constants: dict[str, Any]
    options: dict[str, Any]
    capabilities: tuple[int, ...] = (80, 86, 89, 90)
    instruction: str = ""


def attention(half: int, tile: Tile) -> Launch:
    """Attention with heads of twice `half`."""
    block = {"BLOCK_M": tile.queries, "BLOCK_N": tile.keys, "PART_FIRST": tile.part_first}
    constants = {"HEADS": 40, "HALF": half, "BLOCK_D": 2 * half, **block}
    arguments = ("*fp16", "*i32", "*i32", "*fp32", "*fp32", "*fp16", "fp32")
    return Launch(attend_kernel, arguments, constants, {"num_warps": tile.warps, "num_stages": tile.stages})


def row_kernels(dim: int, element: str, limit: float, capabilities: tuple[int, ...]) -> list[Launch]:
    """Quantisation of rows of `dim`, by itself and after GELU or the norm."""
    head, tail = quantise.blocks(dim)
    shape = {"LIMIT": limit, "DIM": dim, "HEAD": head, "TAIL": tail, "ROWS": 1}
    options = {"num_warps": quantise.warps_for(head), "enable_fp_fusion": False}
    apart = ("*i32", "*bf16")
    one = ("*bf16", "*fp32", f"*{element}", "*fp32", "i32", "*fp16", *apart)
    norm = (
        "*fp16",
        "*bf16",
        "*fp32",
        "*bf16",
        "*bf16",
        f"*{element}",
        "*fp32",
        "i32",
        "fp32",
        *2 * ("*fp16",),
        *apart,
    )
    gelu = element != "i8"
    return [
        Launch(kernel, arguments, dict.fromkeys(names, gelu) | {"APART": width} | shape, options, capabilities)
        for kernel, arguments, names in (
            (quantise.quantise_kernel, one, ("GELU", "BIAS")),
            (quantise.layer_norm_kernel, norm, ("ADDED",)),
        )
        for width in ((0,) if gelu else (0, 4, 8))
    ]


def hopper_gemm(tile: gemm.Tile, epilogue: dict[str, bool], operand: str, out: str, width: int = 0) -> Launch:
    """The persistent GEMM, of 3B's fc1 or fc2, with digits of a `width`."""
    n, k = (2560, 10240) if epilogue["ADD"] else (10240, 2560)
    boxes = (
        (operand, tile.rows, tile.depth),
        (operand, tile.columns, tile.depth),
        (out, tile.rows, tile.columns // tile.parts),
    )
    descriptors = [f"tensordesc<{kind}[{rows}, {columns}]>" for kind, rows, columns in boxes]
    shape = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "PARTS": tile.parts}
    constants = {"N": n, "K": k, **epilogue, **shape, "PROGRAMS": 132 * tile.programs, "WIDTH": width}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    instruction = r"wgmma\.mma_async\S*\.s32\.s8\.s8" if operand == "i8" else r"wgmma\.mma_async\S*e4m3\.e4m3"
    arguments = (*descriptors, "*fp32", "*fp32", "*fp32", "*bf16", "*bf16", "i32")
    return Launch(gemm.hopper_kernel, arguments, constants, options, (90,), instruction)


def portable_gemm(epilogue: dict[str, bool], width: int = 0) -> Launch:
    """The GEMM with pointers, of 3B's fc1 or fc2, with digits of a `width`."""
    tile = gemm.PORTABLE
    n, k = (2560, 10240) if epilogue["ADD"] else (10240, 2560)
    shape = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
    constants = {"N": n, "K": k, **epilogue, **shape, "WIDTH": width}
    arguments = ("*i8", "*i8", "*fp16", "*fp32", "*fp32", "*fp32", "*bf16", "*bf16", "i32")
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    instruction = r"mma\.sync\S*\.s32\.s8\.s8\.s32"
    return Launch(gemm.portable_kernel, arguments, constants, options, (80, 86, 89), instruction)


STORE = {"BIAS": True, "GELU": False, "ADD": False}
GELU = {"BIAS": True, "GELU": True, "ADD": False}
ADD = {"BIAS": False, "GELU": False, "ADD": True}
LAUNCHES = [
    Launch(
        rotate_kernel,
        ("*fp16", "*i32", "*fp32", "*fp32"),
        {"HEADS": 40, "HALF": 32, "FIRST": 40, "COUNT": 40, "BLOCK_H": 64, "BLOCK_D": 32},
        {"num_warps": 4},
    ),
    Launch(
        layer_norm_kernel,
        ("*fp16", "*fp32", "*fp16", "*fp16", "*fp16", "fp32"),
        {"DIM": 2560, "BLOCK": 4096},
        {"num_warps": 8},
    ),
    *(attention(half, tile) for half in (32, 64) for tile in (TILE, LONG_TILE)),  # 3B and 15B
    *row_kernels(2560, "i8", 127.0, (80, 86, 89, 90)),
    *row_kernels(10240, "fp8e4nv", 448.0, (89, 90)),
    hopper_gemm(gemm.PAIR, STORE, "i8", "bf16"),
    hopper_gemm(gemm.PAIR_GELU, GELU, "i8", "bf16"),
    hopper_gemm(gemm.PAIR, ADD, "i8", "fp16"),
    hopper_gemm(replace(gemm.PAIR, parts=4), STORE, "i8", "fp16", 16),
    hopper_gemm(gemm.PAIR_GELU, GELU, "i8", "fp16", 16),
    hopper_gemm(replace(gemm.PAIR, parts=4), ADD, "i8", "fp16", 16),
    hopper_gemm(replace(gemm.PAIR, parts=4), ADD, "i8", "fp16", 32),
    hopper_gemm(gemm.WIDE, ADD, "fp8e4nv", "fp16"),
    hopper_gemm(gemm.WIDE_WHOLE, ADD, "fp8e4nv", "fp16"),
    portable_gemm(STORE),
    portable_gemm(GELU),
    portable_gemm(ADD),
    portable_gemm(GELU, 16),
    portable_gemm(ADD, 32),
]


def assemble(launch: Launch, capability: int) -> str:
    """What the assembler says of registers and spills. Raises ValueError if the instruction isn't there."""
    names = launch.kernel.arg_names
    signature = dict(zip(names, launch.arguments, strict=False)) | dict.fromkeys(launch.constants, "constexpr")
    pointers = [at for at, kind in enumerate(launch.arguments) if kind.startswith("*")]
    aligned = {(at,): [["tt.divisibility", 16]] for at in pointers}
    values = {(names.index(name),): value for name, value in launch.constants.items()}
    source = ASTSource(launch.kernel, signature, values, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    if not re.search(launch.instruction, compiled.asm["ptx"]):
        raise ValueError(f"{launch.kernel} for {capability} has no {launch.instruction}")
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compiled.asm["ptx"])
        architecture = f"sm_{capability}" + "a" * (capability == 90)
        command = [ASSEMBLER, "-v", f"-arch={architecture}", ptx, "-o", cubin]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


if __name__ == "__main__":
    capability = int(sys.argv[1])
    for each in LAUNCHES:
        if capability in each.capabilities:
            print(assemble(each, capability))
