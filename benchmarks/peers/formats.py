"""A model's precisions side by side, in turn in one process: speed, energy, memory and fidelity in one table.

Speeds are over those of `BASE`; a precision's ceiling is its GEMMs alone. Peak memory and fidelity come from a
process for each: memory with packs of `MEMORY_TOKENS`, fidelity as the benchmark `precision` measures it.
"""

import statistics
from collections.abc import Sequence

from ..measure import gpu
from ..measure.fidelity import FIGURE, compare
from ..measure.gemms import LayerGEMMs
from ..measure.in_turn import Fresh, Row, in_turn, peak_memory
from ..measure.timing import Run
from ..suite.hardware import Hardware, precision_skip_reason
from ..suite.outcomes import Measurement
from ..suite.places import find
from ..suite.program import Embedder, load, packed
from ..suite.workloads import Protein, fidelity_proteins

BASE = {"cpu": "fp32", "cuda": "bf16"}
"""What other precisions are compared with, by type of device."""

DEFAULT = {"cpu": ["fp32", "bf16", "int8"], "cuda": ["bf16", "fp16", "int8", "fp8"]}

MEMORY_TOKENS = {"cpu": 2_048, "cuda": 16_384}
"""Of a pack with which memory is measured: with larger ones a GPU's activations would outweigh the weights."""

GEMMS = "GEMMs alone"


def table(
    model: str,
    precisions: Sequence[str],
    entries: list[Protein],
    hardware: Hardware,
    rounds: int,
    fresh: Fresh,
) -> str:
    """The table of a model; precisions that this machine lacks are named below it."""
    from tabulate import tabulate  # not in asv's environments

    reasons = {precision: precision_skip_reason(hardware, precision) for precision in precisions}
    left_out = [f"not measured: {reason}" for reason in reasons.values() if reason]
    measured = [precision for precision, reason in reasons.items() if not reason]
    if not measured:
        return "\n".join(left_out)
    base = BASE[hardware.device] if BASE[hardware.device] in measured else measured[0]
    busy = gpu.busy_before_this_process(hardware.uuid) if hardware.device == "cuda" else None

    load.cache_clear()  # an earlier model takes memory
    apart = {
        precision: (
            fresh(memory, (model, precision, entries, hardware)),
            fresh(fidelity, (model, precision, hardware)),
        )
        for precision in measured
    }
    engines = {precision: Embedder(model, precision, entries, hardware) for precision in measured}
    rows = []
    for precision, engine in engines.items():
        tokens = max(len(batch.input_ids) for batch in engine.batches)
        products = LayerGEMMs(engine.esm2.shape, precision, engine.device, tokens)
        rows += [
            Row(precision, engine.run, engine.tokens),
            Row(f"{precision}, {GEMMS}", products.run, tokens),
        ]
    speeds = in_turn(rows, hardware.device, rounds)
    lines = []
    for precision, engine in engines.items():
        speed, ceiling = speeds[precision], speeds[f"{precision}, {GEMMS}"]
        seconds = engine.tokens / statistics.median(speed)
        joules = gpu.energy(engine.run, engine.tokens, seconds, hardware, gpu.ENERGY_WORKLOAD, busy)
        left_out += [
            f"{precision}: no energy: {reason}" for reason in joules.unavailable.values() if hardware.uuid
        ]
        times = quotients(speed, speeds[base])
        peak, distances = apart[precision]
        lines.append(
            [
                precision,
                f"{statistics.median(speed):,.0f}",
                f"{statistics.median(times):.2f}",
                f"{min(times):.2f} to {max(times):.2f}",
                f"{statistics.median(ceiling):,.0f}",
                f"{statistics.median(quotients(speed, ceiling)):.2f}",
                "".join(f"{value:.2f}" for value in joules.samples.get(gpu.ENERGY, [])),
                peak,
                *distances,
            ]
        )
    headers = [
        model,
        "tokens/s",
        f"times {base}",
        "in rounds",
        GEMMS,
        "share",
        "J per 1,000 tokens",
        f"peak memory, packs of {MEMORY_TOKENS[hardware.device]:,}",
        "smallest cosine",
        "of a residue",
        "error over distance",
    ]
    return "\n".join([tabulate(lines, headers, disable_numparse=True), *left_out])


def quotients(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(some, others, strict=True)]


def memory(model: str, precision: str, entries: list[Protein], hardware: Hardware) -> str:
    """Peak memory of a pass in packs of `MEMORY_TOKENS`; see `peak_memory`."""

    def load_it() -> Run:
        engine = Embedder(model, precision, entries, hardware)
        engine.batches = packed(entries, MEMORY_TOKENS[hardware.device])
        return engine.run

    return peak_memory(load_it, hardware.device)


def fidelity(model: str, precision: str, hardware: Hardware) -> tuple[str, str, str]:
    """The smallest cosines to FP32, of pooled embeddings and of residues, and the error over distance.

    Empty for FP32 itself, and where memory does not hold FP32 beside the precision.
    """
    weights = find("SHAPES")[model].parameters * (4 + find("PRECISIONS")[precision].bytes_per_weight)
    if precision == "fp32" or 1.1 * weights > hardware.memory:
        return "", "", ""
    proteins = fidelity_proteins("mixed")
    fp32, other = (Embedder(model, each, proteins, hardware, 1) for each in ("fp32", precision))
    found: Measurement = compare(fp32, other, proteins)
    about = found.notes["fidelity"]
    residues = about["smallest_residue_cosine"]
    return (
        f"{about['smallest_cosine']:.6f}",
        f"{residues:.6f}",
        "".join(f"{value:.2%}" for value in found.samples.get(FIGURE, [])),
    )
