"""A figure's version changes with its protocol: asv shows numbers of the present version only."""

import hashlib
import json
from dataclasses import asdict

import pytest

from benchmarks import engine, pipeline, precision, scaling, throughput, workers
from benchmarks.measure import fidelity, gpu, timing
from benchmarks.peers import base
from benchmarks.suite import hardware, workloads

SEEDED = {name: [residues for _, residues in workloads.proteins(name, "cpu")] for name in workloads.LENGTHS}
PASS_TOKENS = {model: hardware.PASS_TOKENS[model] for model in hardware.MODELS}
WORKLOADS = [SEEDED, workloads.FASTA_RESIDUES, hardware.LEAST_TOKENS, PASS_TOKENS]
TIMES = [asdict(timing.PROTOCOL), asdict(timing.ON_GPU)]
FIDELITY = [
    [residues for _, residues in workloads.fidelity_proteins("mixed")],
    [workloads.FIDELITY_LENGTHS, fidelity.LEAST_PROTEINS],
]
MIXED = [SEEDED["mixed"], PASS_TOKENS]
PEERS = [TIMES, MIXED, engine.TOKENS, base.BATCH_SIZES]
FILES = [asdict(pipeline.PROTOCOL), pipeline.ENGINE_SECONDS, pipeline.MODEL_ON_GPUS, MIXED]
CURVES = [asdict(scaling.PROTOCOL), scaling.TOKENS, scaling.SequenceLength().proteins("64", "cpu")]
WORKERS = [workers.TOKENS_PER_WORKER, SEEDED["mixed"], scaling.seeded_proteins([1, 2])]
COUNTS = [asdict(scaling.PROTOCOL), scaling.SequenceCount().proteins("100", "cpu")]

FRAGMENTS = [TIMES, hardware.LEAST_TOKENS, PASS_TOKENS, workloads.proteins("fragments", "cpu")]
"""What decides the figures of `fragments`, which joined later, without changing another workload's numbers."""

LARGEST = [TIMES, SEEDED["mixed"], hardware.PASS_TOKENS[hardware.LARGEST]]
"""What decides the figures of 15B, which joined later, without changing another model's numbers."""

PROTOCOLS = {
    throughput.Throughput: {
        "peak_memory": WORKLOADS,
        "energy": [gpu.SECONDS, gpu.ENERGY_WORKLOAD, MIXED],
        "": [TIMES, WORKLOADS],
    },
    precision.Precision: {
        "memory_saving": WORKLOADS,
        "min_cosine_to_fp32": WORKLOADS,
        "max_error_over_distance": FIDELITY,
        "": [TIMES, WORKLOADS],
    },
    engine.Engine: {"one_long_among_short": [TIMES, engine.even_and_ragged()], "": [TIMES, MIXED]},
    engine.OverFairEsm: {"": PEERS},
    engine.OverTransformers: {"": PEERS},
    pipeline.Pipeline: {"": FILES},
    scaling.SequenceLength: {"": CURVES},
    scaling.SequenceCount: {"": COUNTS},
    workers.Workers: {"": WORKERS},
}
"""What decides a figure, by the name of its function; "" for all others of the class."""

FINGERPRINTS = {
    "Engine.track_compile_seconds": ("1", "75ca01efd202"),
    "Engine.track_fraction_of_gemm_ceiling": ("2", "75ca01efd202"),
    "Engine.track_load_seconds": ("1", "75ca01efd202"),
    "Engine.track_one_long_among_short": ("1", "1859b2cb303c"),
    "OverFairEsm.track_speedup_over_fair_esm": ("1", "949cdfcfc20f"),
    "OverTransformers.track_speedup_over_transformers": ("1", "949cdfcfc20f"),
    "Pipeline.track_fraction_of_engine": ("1", "18b64714f017"),
    "Pipeline.track_peak_memory": ("2", "18b64714f017"),
    "Pipeline.track_runtime": ("1", "18b64714f017"),
    "Pipeline.track_sequences_per_second": ("1", "18b64714f017"),
    "Pipeline.track_tokens_per_second": ("1", "18b64714f017"),
    "Precision.track_max_error_over_distance": ("1", "5c3e44f6f6f0"),
    "Precision.track_memory_saving": ("2", "205a4b95ca02"),
    "Precision.track_min_cosine_to_fp32": ("1", "205a4b95ca02"),
    "Precision.track_speedup_over_fp32": ("1", "deb094d07c14"),
    "SequenceCount.track_tokens_per_second": ("1", "6db5dbb6225f"),
    "SequenceLength.track_tokens_per_second": ("1", "1669e4f91f52"),
    "Throughput.track_energy": ("1", "dc4cc77299cc"),
    "Throughput.track_peak_memory": ("2", "205a4b95ca02"),
    "Throughput.track_runtime": ("1", "deb094d07c14"),
    "Throughput.track_sequences_per_second": ("1", "deb094d07c14"),
    "Throughput.track_tokens_per_second": ("1", "deb094d07c14"),
    "Workers.track_file_efficiency": ("1", "cb2a6d69381a"),
    "Workers.track_parallel_efficiency": ("2", "cb2a6d69381a"),
    "Workers.track_tokens_per_second": ("2", "cb2a6d69381a"),
}
"""Each figure's version and the digest of its protocol. Where a protocol was changed on purpose, raise the version
of the function (`tracked(..., version=...)`), and write both here."""

OF_LARGEST, OF_FRAGMENTS = "a70cd57b934f", "a6a79dd83e53"


def figures() -> dict[str, tuple[str, str]]:
    """The present version of each figure and the digest of its protocol."""
    found = {}
    for benchmark, protocols in PROTOCOLS.items():
        for name in dir(benchmark):
            if name.startswith("track_"):
                protocol = protocols.get(name.removeprefix("track_"), protocols[""])
                found[f"{benchmark.__name__}.{name}"] = getattr(benchmark, name).version, digest(protocol)
    return found


def digest(protocol) -> str:
    """A protocol's fingerprint."""
    return hashlib.sha256(json.dumps(protocol).encode()).hexdigest()[:12]


@pytest.mark.parametrize("figure", figures())
def test_a_protocol_changes_with_the_version_of_its_figure_only(figure):
    assert FINGERPRINTS.get(figure) == figures()[figure]


def test_the_largest_models_protocol_changes_with_the_versions_of_throughput_only():
    assert digest(LARGEST) == OF_LARGEST


def test_the_protocol_of_fragments_changes_with_the_versions_of_throughput_and_precision_only():
    assert digest(FRAGMENTS) == OF_FRAGMENTS


def test_the_protocols_of_all_benchmarks_are_watched():
    from asv_runner.discovery import disc_benchmarks

    assert {name.partition(".")[2] for name in found_by_asv(disc_benchmarks)} == set(figures())


def found_by_asv(discover) -> list[str]:
    return [benchmark.name for benchmark in discover("benchmarks")]


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setitem(hardware.LEAST_TOKENS, "cpu", 999),
        lambda patch: patch.setitem(SEEDED, "mixed", ["M"]),
    ],
)
def test_a_changed_constant_is_found(monkeypatch, change):
    before = figures()
    change(monkeypatch)
    assert figures()["Throughput.track_peak_memory"] != before["Throughput.track_peak_memory"]
