"""Compile the kernels for a GPU that is not here, and print what NVIDIA's assembler says (test_compilation.py).

    python compile_kernels.py CAPABILITY      as 90

Triton carries the assembler. It chooses between interpreter and compiler when it is imported, hence a process.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from virnucpro.models.kernels.attention import TILE, attend_kernel
from virnucpro.models.kernels.norm import layer_norm_kernel
from virnucpro.models.kernels.rotary import rotate_kernel

ASSEMBLER = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"


class Launch(NamedTuple):
    """A kernel as the engine launches it: types of its arguments in order, constants, and how it is run."""

    kernel: Any
    arguments: tuple[str, ...]
    constants: dict[str, Any]
    options: dict[str, int]


def attention(half: int) -> Launch:
    """Attention with heads of twice `half`."""
    constants = {"HEADS": 40, "HALF": half, "BLOCK_D": 2 * half, "BLOCK_M": TILE.queries, "BLOCK_N": TILE.keys}
    arguments = ("*fp16", "*i32", "*fp32", "*fp32", "*fp16", "fp32", "i32")
    return Launch(attend_kernel, arguments, constants, {"num_warps": TILE.warps, "num_stages": TILE.stages})


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
    attention(32),  # 3B
    attention(64),  # 15B
]


def assemble(launch: Launch, capability: int) -> str:
    """What the assembler says of registers and spills."""
    names = launch.kernel.arg_names
    signature = dict(zip(names, launch.arguments, strict=False)) | dict.fromkeys(launch.constants, "constexpr")
    pointers = [at for at, kind in enumerate(launch.arguments) if kind.startswith("*")]
    aligned = {(at,): [["tt.divisibility", 16]] for at in pointers}
    values = {(names.index(name),): value for name, value in launch.constants.items()}
    source = ASTSource(launch.kernel, signature, values, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compiled.asm["ptx"])
        architecture = f"sm_{capability}" + "a" * (capability == 90)
        command = [ASSEMBLER, "-v", f"-arch={architecture}", ptx, "-o", cubin]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


if __name__ == "__main__":
    for each in LAUNCHES:
        print(assemble(each, int(sys.argv[1])))
