"""FP16 against FP32 on a GPU, as a test: the seeds' benchmark of VirNucPro.

    VIRNUCPRO_TEST_MODEL=esm2_t33_650M_UR50D pytest tests/benchmarks/test_fp16_throughput.py -s [-k memory]

The model is ESM-2 3B unless VIRNUCPRO_TEST_MODEL names another, with random weights unless
VIRNUCPRO_BENCH_WEIGHTS says otherwise. No particular speed-up is asserted: that is what the asv suite records.
"""

import gc
import os
import random
import statistics

import pytest
import torch
from tabulate import tabulate

from benchmarks.measure.memory import PeakMemory
from benchmarks.measure.timing import TIMERS, measure
from benchmarks.suite.hardware import probe, skip_reason
from benchmarks.suite.program import WEIGHTS, padded, weights_of
from benchmarks.suite.workloads import AMINO_ACIDS, tokens_in
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.async_inference import AsyncInferenceRunner

MODEL = os.environ.get("VIRNUCPRO_TEST_MODEL", "esm2_t36_3B_UR50D")


def seeded_proteins(count: int = 200) -> list[tuple[str, str]]:
    """Proteins of 20 to 400 residues, uniform, sorted by length."""
    rng = random.Random(42)
    proteins = ["".join(rng.choices(AMINO_ACIDS, k=rng.randint(20, 400))) for _ in range(count)]
    return [(f"protein{index}", protein) for index, protein in enumerate(sorted(proteins, key=len))]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.delenv("VIRNUCPRO_DISABLE_FP16", raising=False)
    reason = skip_reason(probe(), MODEL, ("fp32",), "mixed")
    if reason:
        pytest.skip(reason)
    yield
    gc.collect()
    torch.cuda.empty_cache()


def embed_200_proteins(enable_fp16: bool) -> dict[str, float]:
    """Load, warm up, measure: tokens/s, sequences/s, seconds, and bytes at the peak."""
    model, _ = load_esm2_model(MODEL, "cuda", enable_fp16=enable_fp16, weights=weights_of(MODEL))
    runner, proteins = AsyncInferenceRunner(model), seeded_proteins()
    batches = padded(proteins, 64)

    def run(passes: int) -> None:
        for _ in range(passes):
            embedded = sum(len(result.sequence_ids) for result in runner.run(batches))
            assert embedded == len(proteins)

    memory = PeakMemory("cuda")
    timing = measure(run, TIMERS["cuda"], after_warm_up=memory.reset)
    seconds = statistics.median(timing.samples)
    return {
        "tokens/s": tokens_in(proteins) / seconds,
        "sequences/s": len(proteins) / seconds,
        "total runtime (s)": seconds,
        "peak memory (GiB)": memory.read().amount / 2**30,
    }


def loaded_bytes(enable_fp16: bool) -> int:
    """Bytes that a loaded model takes on the GPU; it is freed again."""
    before = torch.cuda.memory_allocated()
    model, _ = load_esm2_model(MODEL, "cuda", enable_fp16=enable_fp16, weights=weights_of(MODEL))
    taken = torch.cuda.memory_allocated() - before
    del model
    return taken


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares FP16 with FP32 on a GPU; there is none")
class TestFP16Throughput:
    def test_fp16_vs_fp32_throughput(self, gpu):
        fp32 = embed_200_proteins(enable_fp16=False)
        gc.collect()
        torch.cuda.empty_cache()
        fp16 = embed_200_proteins(enable_fp16=True)
        rows = []
        for metric in fp32:
            ratio = fp16[metric] / fp32[metric] if "/s" in metric else fp32[metric] / fp16[metric]
            rows.append([metric, f"{fp32[metric]:,.2f}", f"{fp16[metric]:,.2f}", f"{ratio:.2f}x"])
        print(f"\n{MODEL}, {WEIGHTS} weights, 200 proteins, {torch.cuda.get_device_name()}")
        print(tabulate(rows, ["Metric", "FP32", "FP16", "Improvement"], stralign="right"))
        assert fp16["tokens/s"] >= fp32["tokens/s"]
        assert fp16["peak memory (GiB)"] <= fp32["peak memory (GiB)"]

    def test_fp16_memory_reduction(self, gpu):
        fp32 = loaded_bytes(enable_fp16=False)
        fp16 = loaded_bytes(enable_fp16=True)
        print(f"\n{MODEL}: FP32 {fp32 / 2**30:.2f} GiB, FP16 {fp16 / 2**30:.2f} GiB")
        assert fp16 < fp32


def test_the_200_proteins_are_the_seeds():
    proteins = seeded_proteins()
    assert len(proteins) == 200
    assert all(20 <= len(protein) <= 400 for _, protein in proteins)
