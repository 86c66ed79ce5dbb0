"""Which records are shown: the newest of a GPU and of a CPU that have every figure, and one GPU's history."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from asv_plugin.answer.records import (
    AGAINST_FP32,
    BENCHMARKS,
    ENERGY,
    FIDELITY,
    MASSIVE,
    Record,
    machines,
    records,
)
from asv_plugin.figures import CannotWrite

GEMMS, OVER_FAIR_ESM, OVER_TRANSFORMERS = "share of its GEMMs' speed", "over fair-esm", "over Transformers"
EMBED = "`virnucpro embed` over the engine alone"
ENGINE = {
    GEMMS: "engine.Engine.track_fraction_of_gemm_ceiling",
    OVER_FAIR_ESM: "engine.OverFairEsm.track_speedup_over_fair_esm",
    OVER_TRANSFORMERS: "engine.OverTransformers.track_speedup_over_transformers",
    EMBED: "pipeline.Pipeline.track_fraction_of_engine",
}
"""Metric to benchmark, as `BENCHMARKS`: ratios of the engine."""

WORKLOAD, FRAGMENTS = "mixed", "fragments"
"""The workload that all figures are of but those that are marked, and VirNucPro's own."""

M8, M650, M3B, M15B = "esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D", "esm2_t48_15B_UR50D"


@dataclass(frozen=True)
class Rows:
    """Metrics of a model, and the precisions for which a record must have them to be shown.

    Of another workload than `WORKLOAD` a record need not have them: older ones do not.
    """

    model: str
    metrics: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32", "tf32", "bf16", "fp16", "int8", "fp8")
    workload: str = WORKLOAD


OF_A_GPU = (
    Rows(M3B, ("tokens/s", "total runtime", "peak memory", ENERGY, FIDELITY, MASSIVE)),
    Rows(M3B, ("tokens/s",), workload=FRAGMENTS),
    Rows(M650, ("tokens/s", "peak memory")),
    Rows(M15B, ("tokens/s", "peak memory"), ("bf16", "int8")),
)
MORE_OF_A_GPU = (
    Rows(M3B, ("speed-up, same process", "min cosine to FP32")),
    Rows(M650, (ENERGY, "speed-up, same process", FIDELITY, MASSIVE)),
    Rows(M650, (EMBED,), ("fp16", "int8")),
    Rows(M15B, (ENERGY,), ("bf16", "int8")),
)
OVER_GEMMS = tuple(Rows(model, (GEMMS,), ("fp32", "fp16", "int8", "fp8")) for model in (M3B, M650))
OVER_PEERS = tuple(Rows(model, (OVER_FAIR_ESM, OVER_TRANSFORMERS), ("fp16",)) for model in (M3B, M650))
OF_A_CPU = (
    Rows(M8, ("tokens/s", "peak memory", "speed-up, same process", FIDELITY), ("fp32", "bf16", "fp16", "int8")),
    Rows(M8, ("tokens/s",), workload=FRAGMENTS),
)
HISTORY = tuple(Rows(model, ("tokens/s",), ("fp16",)) for model in (M3B, M650))


@dataclass(frozen=True)
class Chosen:
    """The records that are shown. `history`: of the GPU with most commits, the oldest first."""

    gpu: Record
    cpu: Record
    history: list[Record]


def choose(results: Path) -> Chosen:
    """The records to show of those in results/."""
    gpus: list[list[Record]] = []
    cpus: list[list[Record]] = []
    for machine, about in machines(results).items():
        (gpus if "gpu" in about else cpus).append(records(results, machine, BENCHMARKS | ENGINE))
    if not gpus:
        raise CannotWrite(f"there is no record of a GPU in {results}: run make bench on one")
    return Chosen(
        newest(gpus, (*OF_A_GPU, *MORE_OF_A_GPU, *OVER_GEMMS, *OVER_PEERS)),
        newest(cpus, OF_A_CPU),
        max((complete(found, HISTORY) for found in gpus), key=len)[::-1],
    )


def newest(machines: list[list[Record]], shown: Iterable[Rows]) -> Record:
    """Of all machines the newest commit's record that has all these rows."""
    found = complete((record for machine in machines for record in machine), shown)
    if not found:
        models = sorted({rows.model for rows in shown})
        raise CannotWrite(f"no record has all figures of {' and '.join(models)}: run make bench for all of them")
    return max(found, key=lambda record: (record.date, record.commit))


def complete(found: Iterable[Record], shown: Iterable[Rows]) -> list[Record]:
    """The records that have all these rows."""
    needed = [
        (metric, rows.model, precision, WORKLOAD)
        for rows in shown
        for metric in rows.metrics
        for precision in rows.precisions
        if rows.workload == WORKLOAD and not is_itself(metric, precision)
    ]
    return [record for record in found if all(record.value(*each) for each in needed)]


def is_itself(metric: str, precision: str) -> bool:
    """Whether a metric would compare FP32 with itself, which is not measured."""
    return precision == "fp32" and metric in (*AGAINST_FP32, MASSIVE)
