"""The Triton kernels against PyTorch, run by Triton's interpreter; and compiled for GPUs that are not here."""

import re
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs Triton, which PyTorch's CPU build does not bring: pip install triton")

# The interpreter is chosen when Triton is imported, so each test's body runs in a process of its own.
INTERPRETED = """
import torch
from torch import nn
from virnucpro.models import kernels
from virnucpro.models.attention import attend_one_by_one
from virnucpro.models.rotary import rotary_tables, rotate_
torch.manual_seed(0)
"""


def run(body: str, interpret: bool = True) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED + body], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_rotation_equals_pytorchs_in_every_shape_and_type():
    run("""
cos, sin = rotary_tables(64, 24, torch.device("cpu"))
for heads in (1, 20):
    for head_dim in (16, 24, 64):
        cos, sin = rotary_tables(64, head_dim, torch.device("cpu"))
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
            qkv = torch.randn(7, 3, heads, head_dim).to(dtype)
            positions = torch.tensor([0, 1, 2, 0, 1, 0, 63], dtype=torch.int32)
            expected = rotate_(qkv.clone(), positions, cos, sin)
            found = kernels.rotate_(qkv.clone(), positions, cos, sin)
            assert torch.equal(found[:, 2], qkv[:, 2]), "values must be left alone"
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
""")


def test_keys_alone_can_be_rotated():
    run("""
cos, sin = rotary_tables(64, 64, torch.device("cpu"))
qkv, positions = torch.randn(4, 3, 5, 64), torch.tensor([0, 1, 2, 0], dtype=torch.int32)
both = kernels.rotate_(qkv.clone(), positions, cos, sin)
found = kernels.rotate_(qkv.clone(), positions, cos, sin, queries=False)
assert torch.equal(found[:, 1], both[:, 1])
assert torch.equal(found[:, ::2], qkv[:, ::2])
""")


def test_attention_equals_pytorchs_in_every_shape():
    """In FP16: Triton's interpreter multiplies no BF16 matrices."""
    run("""
for heads, dim in ((2, 16), (3, 24), (2, 64), (1, 128)):
    tables = rotary_tables(256, dim, torch.device("cpu"))
    for lengths in ([1], [64], [65, 3, 0, 130, 7]):
        tokens, ends = sum(lengths), torch.tensor([0, *lengths]).cumsum(0).int()
        positions = torch.cat([torch.arange(length) for length in lengths]).int()
        qkv = torch.randn(tokens, 3, heads, dim).half()
        expected = attend_one_by_one(rotate_(qkv.clone(), positions, *tables).float(), ends)
        found = kernels.attend(qkv, positions, *tables, ends, max(lengths))
        assert found.dtype == torch.float16 and found.is_contiguous()
        torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=0)
""")


def test_attention_within_a_protein_does_not_depend_on_the_pack():
    run("""
tables = rotary_tables(256, 64, torch.device("cpu"))
def attend(lengths, qkv):
    positions = torch.cat([torch.arange(length) for length in lengths]).int()
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    return kernels.attend(qkv.clone(), positions, *tables, ends, max(lengths))
one, other = torch.randn(70, 3, 2, 64).half(), torch.randn(200, 3, 2, 64).half()
assert torch.equal(attend([200, 70], torch.cat((other, one)))[200:], attend([70], one))
""")


def test_norm_of_the_residual_equals_pytorchs_in_every_width_and_type():
    run("""
for dim in (320, 480, 1280, 2560):
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)):
        norm = nn.LayerNorm(dim)
        norm.weight.data.normal_(1, 0.1); norm.bias.data.normal_(0, 0.1)
        x, offset = 3 * torch.randn(5, dim).to(dtype) + 2, torch.randn(dim)
        weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
        expected = nn.functional.layer_norm(x + offset, (dim,), weight.float(), bias.float(), norm.eps)
        found = kernels.layer_norm(x, offset, weight, bias, norm.eps)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)
""")


def test_no_tokens_are_no_work():
    run("""
cos, sin = rotary_tables(4, 16, torch.device("cpu"))
nowhere = torch.empty(0, dtype=torch.int32)
kernels.rotate_(torch.empty(0, 3, 2, 16), nowhere, cos, sin)
assert kernels.layer_norm(torch.empty(0, 8), torch.ones(8), torch.ones(8), torch.ones(8), 1e-5).shape == (0, 8)
none = torch.zeros(1, dtype=torch.int32)
assert kernels.attend(torch.empty(0, 3, 2, 16).half(), nowhere, cos, sin, none, 0).shape == (0, 2, 16)
""")


def test_what_the_kernels_cannot_take_is_refused():
    run("""
cos, sin = rotary_tables(4, 16, torch.device("cpu"))
places, ones = torch.zeros(4, dtype=torch.int32), torch.ones(8)
for call in (
    lambda: kernels.rotate_(torch.ones(4, 2, 3, 16).transpose(1, 2), places, cos, sin),
    lambda: kernels.rotate_(torch.ones(4, 3, 2, 8), places, cos, sin),
    lambda: kernels.layer_norm(torch.ones(8, 4).T, ones, ones, ones, 1e-5),
    lambda: kernels.layer_norm(torch.ones(4, 8), ones.half(), ones, ones, 1e-5),
    lambda: kernels.attend(torch.ones(4, 3, 2, 16), places, cos, sin, torch.tensor([0, 4]), 4),
):
    try:
        call()
    except ValueError as error:
        assert "needed, not" in str(error)
    else:
        raise AssertionError("not refused")
""")


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_without_spilling(capability):
    """As launched for 3B and, attention, for 15B. Triton carries NVIDIA's assembler, so this needs no GPU."""
    said = run(
        f"""
import pathlib, subprocess, tempfile, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
assembler = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
tile = dict(BLOCK_M=kernels.TILE.queries, BLOCK_N=kernels.TILE.keys)
launch = dict(num_warps=kernels.TILE.warps, num_stages=kernels.TILE.stages)
attention = ("*fp16", "*i32", "*fp32", "*fp32", "*fp16", "fp32", "i32")
for kernel, arguments, constants, options in (
    (
        kernels.rotate_kernel, ("*fp16", "*i32", "*fp32", "*fp32"),
        dict(HEADS=40, HALF=32, FIRST=40, COUNT=40, BLOCK_H=64, BLOCK_D=32), dict(num_warps=4),
    ),
    (
        kernels.layer_norm_kernel, ("*fp16", "*fp32", "*fp16", "*fp16", "*fp16", "fp32"),
        dict(DIM=2560, BLOCK=4096), dict(num_warps=8),
    ),
    (kernels.attend_kernel, attention, dict(HEADS=40, HALF=32, BLOCK_D=64, **tile), launch),
    (kernels.attend_kernel, attention, dict(HEADS=40, HALF=64, BLOCK_D=128, **tile), launch),
):
    names = kernel.arg_names
    signature = dict(zip(names, arguments)) | {{name: "constexpr" for name in constants}}
    aligned = {{(at,): [["tt.divisibility", 16]] for at, kind in enumerate(arguments) if kind[0] == "*"}}
    values = {{(names.index(name),): value for name, value in constants.items()}}
    source = ASTSource(kernel, signature, values, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", {capability}, 32), options=options)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        architecture = "sm_{capability}" + "a" * ({capability} == 90)
        command = [assembler, "-v", "-arch=" + architecture, file.name, "-o", "/dev/null"]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stderr)
""",
        interpret=False,
    )
    assert re.findall(r"(\d+) bytes spill stores", said) == ["0"] * 4


def test_no_kernel_is_compiled_for_the_length_of_a_protein():
    """Triton makes a kernel for each value of a constant, and for 1 and multiples of 16 of other integers."""
    run(
        """
for parameter in kernels.attend_kernel.params:
    if parameter.name == "blocks":
        assert parameter.do_not_specialize and not parameter.is_constexpr
        break
else:
    raise AssertionError("blocks is no parameter")
""",
        interpret=False,
    )
