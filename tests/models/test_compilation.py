"""What Triton and NVIDIA's assembler make of the kernels, for GPUs that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NEEDS_TRITON

pytest.importorskip("triton", reason=NEEDS_TRITON)


def python(*arguments: str) -> str:
    """What Python prints in a process in which Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.exhaustive
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_without_spilling(capability):
    said = python(str(Path(__file__).with_name("compile_kernels.py")), str(capability))
    spilled = re.findall(r"(\d+) bytes spill stores", said)
    assert spilled and set(spilled) == {"0"}


def test_no_kernel_is_compiled_for_the_length_of_a_protein():
    """Triton makes a kernel for each value of a constant, and for 1 and multiples of 16 of integers."""
    said = python(
        "-c",
        "from virnucpro.models.kernels.attention import attend_kernel\n"
        "print(*[p.name for p in attend_kernel.params if not p.is_constexpr])",
    )
    assert said.split() == ["qkv", "blocks", "cu_seqlens", "cos", "sin", "out", "scale"], "pointers and a float"
