"""Which cells a machine can run, and what it says of the others."""

from dataclasses import replace

import pytest

from benchmarks.measure.gemms import COMPARABLE, dtype_of
from benchmarks.suite import hardware
from benchmarks.suite.hardware import (
    GIB,
    LARGEST,
    MODELS,
    PRECISIONS,
    Hardware,
    cpu_name,
    memory_needed,
    probe,
    skip_reason,
)
from benchmarks.suite.workloads import FASTA_VARIABLE
from virnucpro.models.esm2 import SHAPES
from virnucpro.models.precision import PRECISIONS as OF_THE_COMMIT

M8, M650, M3B, M15B = *MODELS, LARGEST
CPU = Hardware("cpu", "a CPU", 24 * GIB, (0, 0), {})
H100 = Hardware("cuda", "NVIDIA H100", 79 * GIB, (9, 0), {})
SMALL = Hardware("cuda", "a small GPU", 8 * GIB, (8, 6), {})
OLD = Hardware("cuda", "a V100", 32 * GIB, (7, 0), {})


@pytest.mark.parametrize(
    "hardware, model, precisions, said",
    [
        (CPU, M8, ("tf32",), "TF32 is a mode of NVIDIA GPUs"),
        (CPU, M3B, ("fp32",), "esm2_t36_3B_UR50D is benchmarked on GPUs only"),
        (CPU, M650, ("fp16",), "esm2_t33_650M_UR50D is benchmarked on GPUs only"),
        (SMALL, M3B, ("fp32",), "needs about 15.3 GiB; a small GPU has 8.0 GiB free"),
        (SMALL, M3B, ("fp32", "fp16"), "in fp32 and fp16 needs about 20.6 GiB"),
        (OLD, M650, ("bf16",), "BF16 needs compute capability 8.0; a V100 has 7.0"),
        (OLD, M650, ("fp32", "tf32"), "TF32 needs compute capability 8.0"),
        (OLD, M650, ("int8",), "INT8 needs compute capability 8.0; a V100 has 7.0"),
        (SMALL, M650, ("fp8",), "FP8 needs compute capability 8.9; a small GPU has 8.6"),
        (CPU, M8, ("fp8",), "FP8 is a mode of NVIDIA GPUs"),
        (CPU, M15B, ("int8",), "esm2_t48_15B_UR50D is benchmarked on GPUs only"),
        (H100, M15B, ("fp32", "bf16"), "in fp32 and bf16 needs about"),
    ],
)
def test_what_a_machine_cannot_run_has_a_reason(hardware, model, precisions, said):
    assert said in skip_reason(hardware, model, precisions, "mixed")


def test_the_h100_runs_everything_beside_fp32_but_15b():
    for model in MODELS:
        for precision in PRECISIONS:
            assert skip_reason(H100, model, ("fp32", precision), "mixed") is None


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_the_h100_holds_15b_alone(precision):
    assert skip_reason(H100, M15B, (precision,), "mixed") is None


def test_a_cpu_runs_8m_in_fp32_bf16_fp16_and_int8():
    for precision in ("fp32", "bf16", "fp16", "int8"):
        assert skip_reason(CPU, M8, (precision,), "mixed") is None


def test_weights_of_one_byte_have_activations_of_the_compute_type():
    def needed(precision, tokens, device):
        return memory_needed(M650, (precision,), tokens, device)

    assert needed("int8", 0, "cuda") - GIB == SHAPES[M650].parameters
    for precision, other, device in (("int8", "fp16", "cuda"), ("fp8", "fp16", "cuda"), ("int8", "fp32", "cpu")):
        activations = needed(precision, 1_000, device) - needed(precision, 0, device)
        assert activations == needed(other, 1_000, device) - needed(other, 0, device)


def test_too_little_memory_on_a_cpu_is_said():
    tiny = Hardware("cpu", "a tiny machine", GIB // 2, (0, 0), {})
    assert "a tiny machine has 0.5 GiB free" in skip_reason(tiny, M8, ("fp32",), "mixed")


def test_the_fasta_workload_without_a_file_hints_at_the_variable(monkeypatch):
    monkeypatch.delenv(FASTA_VARIABLE, raising=False)
    assert FASTA_VARIABLE in skip_reason(H100, M8, ("fp32",), "fasta")
    monkeypatch.setenv(FASTA_VARIABLE, "mine.fasta")
    assert skip_reason(H100, M8, ("fp32",), "fasta") is None


def test_a_cpu_without_units_for_a_precision_measures_one_workload_in_it():
    slow = replace(CPU, slow=("bf16", "int8"))
    said = "this CPU has no units for BF16, which is measured for mixed only"
    assert skip_reason(slow, M8, ("fp32", "bf16"), "short") == said
    assert skip_reason(slow, M8, ("fp32", "bf16"), "mixed") is None
    assert skip_reason(slow, M8, ("fp32",), "short") is skip_reason(CPU, M8, ("bf16",), "short") is None


def test_the_units_of_this_cpu_are_looked_up(monkeypatch):
    monkeypatch.setattr(hardware, "UNITS", {"fp32": {"flags", "Features"}, "bf16": {"no such unit"}})
    assert hardware.slow_precisions() == ("bf16",)


def test_probing_finds_this_machine():
    found = probe()
    assert found.device in ("cpu", "cuda")
    assert found.memory > GIB // 4
    assert {"python", "torch", "fair-esm"} <= set(found.versions)
    assert "(R)" not in cpu_name()


def test_all_precisions_of_this_commit_are_measured():
    assert sorted(PRECISIONS) == sorted(OF_THE_COMMIT)


@pytest.mark.parametrize("name", PRECISIONS)
def test_what_the_suite_reads_of_a_precision_is_there(name):
    precision = OF_THE_COMMIT[name]
    assert precision.on_cpu in (True, False) and precision.capability >= (0, 0)
    assert precision.bytes_per_weight in (1, 2, 4) and precision.activations_on("cuda").itemsize in (2, 4)
    if name in COMPARABLE:
        assert dtype_of(name).itemsize == precision.bytes_per_weight


def test_a_precision_that_came_later_than_the_commit_is_skipped(monkeypatch):
    older = {name: precision for name, precision in OF_THE_COMMIT.items() if name != "fp8"}
    monkeypatch.setattr("virnucpro.models.precision.PRECISIONS", older)
    assert (
        skip_reason(H100, M8, ("fp32", "fp8"), "mixed")
        == "this commit has no FP8; it has FP32, TF32, BF16, FP16, INT8"
    )
    assert skip_reason(H100, M8, ("fp32",), "mixed") is None
