"""The Triton kernels against PyTorch, run by Triton's interpreter; and compiled for GPUs that are not here."""

import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs Triton, which PyTorch's CPU build does not bring: pip install triton")

# The interpreter is chosen when Triton is imported, so each test's body runs in a process of its own.
INTERPRETED = """
import torch
from torch import nn
from virnucpro.models import kernels
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


def test_residual_and_norm_equal_pytorchs_in_every_width_and_type():
    run("""
for dim in (320, 480, 1280, 2560):
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)):
        norm = nn.LayerNorm(dim)
        norm.weight.data.normal_(1, 0.1); norm.bias.data.normal_(0, 0.1)
        x, update = 3 * torch.randn(5, dim).to(dtype) + 2, torch.randn(5, dim).to(dtype)
        total = x.float() + update.float()
        weight, bias = norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)
        expected = nn.functional.layer_norm(total, (dim,), weight.float(), bias.float(), norm.eps)
        found = kernels.add_layer_norm_(x, update, weight, bias, norm.eps)
        one_ulp = 2**-7 if dtype == torch.bfloat16 else 0  # the interpreter cuts BF16 off instead of rounding it
        torch.testing.assert_close(x, total.to(dtype), rtol=one_ulp, atol=0)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)
""")


def test_no_tokens_are_no_work():
    run("""
cos, sin = rotary_tables(4, 16, torch.device("cpu"))
kernels.rotate_(torch.empty(0, 3, 2, 16), torch.empty(0, dtype=torch.int32), cos, sin)
normed = kernels.add_layer_norm_(torch.empty(0, 8), torch.empty(0, 8), torch.ones(8), torch.ones(8), 1e-5)
assert normed.shape == (0, 8)
""")


def test_what_the_kernels_cannot_take_is_refused():
    run("""
cos, sin = rotary_tables(4, 16, torch.device("cpu"))
for call in (
    lambda: kernels.rotate_(torch.ones(4, 2, 3, 16).transpose(1, 2), torch.zeros(4, dtype=torch.int32), cos, sin),
    lambda: kernels.rotate_(torch.ones(4, 3, 2, 8), torch.zeros(4, dtype=torch.int32), cos, sin),
    lambda: kernels.add_layer_norm_(torch.ones(8, 4).T, torch.ones(4, 8), torch.ones(8), torch.ones(8), 1e-5),
):
    try:
        call()
    except ValueError as error:
        assert "needed, not" in str(error)
    else:
        raise AssertionError("not refused")
""")


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus(capability):
    """Triton carries NVIDIA's assembler, so this needs no GPU. Nothing may spill into slow local memory."""
    said = run(
        f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
for kernel, arguments, constants in (
    (kernels.rotate_kernel, ("*fp16", "*i32", "*fp32", "*fp32"), dict(HEADS=40, HALF=32, BLOCK_H=128, BLOCK_D=32)),
    (kernels.add_layer_norm_kernel, ("*fp16",) * 5 + ("fp32",), dict(DIM=2560, BLOCK=4096)),
):
    names = kernel.arg_names
    signature = dict(zip(names, arguments)) | {{name: "constexpr" for name in constants}}
    source = ASTSource(kernel, signature, {{(names.index(name),): value for name, value in constants.items()}})
    compiled = triton.compile(source, target=GPUTarget("cuda", {capability}, 32), options=dict(num_warps=8))
    print(len(compiled.asm["cubin"]), compiled.asm["ptx"].count(".local"))
""",
        interpret=False,
    )
    for line in said.splitlines():
        size, local = map(int, line.split())
        assert size > 1000
        assert local == 0
    assert len(said.splitlines()) == 2
