"""Which precision? One function, `answer`, computes what the terminal and the Precision page show."""

from collections.abc import Iterator
from dataclasses import dataclass

from asv_plugin.recorded import AGAINST_FP32, THROUGHPUT, Record, Value

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
HIGHER_IS_BETTER = {"tokens/s", "sequences/s"}

FAITHFUL = 0.999
"""The smallest cosine to FP32 with which a precision is recommended."""

FASTER = 1.03
"""A precision is recommended over FP32 only if it is faster by more than measuring it again would show."""

LEGEND = (
    "Improvement: above 1 is better than FP32 in every row, below 1 is worse. ±: half the distance between the "
    "quartiles of the blocks timed in one process; it does not hold the difference from process to process. "
    "~: the warm-up did not settle. Peak memory on a CPU: the whole process, Python and PyTorch included; on a "
    "GPU: what was allocated there. Min cosine: the smallest similarity of any protein's embedding to its FP32 "
    "embedding; with random weights it says how the arithmetic rounds, not what pretrained weights would show."
)


@dataclass(frozen=True)
class Column:
    """One precision of a table: a text for each row; `speed` is its tokens/s over the fastest's, 0 to 1."""

    precision: str
    cells: list[str]
    improvements: list[str]
    speed: float
    speedup: float | None


@dataclass(frozen=True)
class Table:
    """One model and workload."""

    model: str
    workload: str
    size: str
    metrics: list[str]
    columns: list[Column]
    recommended: str | None
    advice: str


@dataclass(frozen=True)
class Answer:
    """One commit on one machine, in words and numbers for people to read."""

    machine: str
    commit: str
    device: str
    how: str
    tables: list[Table]
    failed: list[str]
    skipped: list[str]


def answer(record: Record) -> Answer:
    """What a record says about precisions."""
    measured = [cell for cell in record.values.get("tokens/s", {}) if record.note(*cell)]
    note = record.note(*measured[0]) if measured else {}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(note.get("versions", {}).items()))
    pairs = dict.fromkeys((model, workload) for model, _, workload in record.values.get("tokens/s", {}))
    return Answer(
        machine=record.machine,
        commit=record.commit,
        device=str(note.get("device", record.machine)),
        how=f"{note['weights']} weights; {versions}" if note else "",
        tables=[table(record, model, workload) for model, workload in pairs],
        failed=list(reasons(record, "failed")),
        skipped=list(reasons(record, "skipped")),
    )


def table(record: Record, model: str, workload: str) -> Table:
    """The precisions of one model and workload side by side."""
    shown = [p for p in PRECISIONS if record.value("tokens/s", model, p, workload)]
    metrics = [*THROUGHPUT, *(m for m in AGAINST_FP32 if any(record.value(m, model, p, workload) for p in shown))]
    blocks = max(value.samples for p in shown if (value := record.value("tokens/s", model, p, workload)))
    fastest = max(value.median for p in shown if (value := record.value("tokens/s", model, p, workload)))
    recommended, advice = recommend(record, model, workload, shown)
    note = next((found for p in shown if (found := record.note(model, p, workload))), {})
    return Table(
        model,
        workload,
        f"proteins: {note['proteins']}, residues: {note['residues']:,}, blocks timed: {blocks}" if note else "",
        metrics,
        [column(record, metrics, (model, p, workload), fastest) for p in shown],
        recommended,
        advice,
    )


def column(record: Record, metrics: list[str], cell: tuple[str, ...], fastest: float) -> Column:
    """One precision's values and improvements, row by row."""
    model, precision, workload = cell
    cells, improvements = [], []
    for metric in metrics:
        value, fp32 = record.value(metric, *cell), record.value(metric, model, "fp32", workload)
        is_ratio = metric in AGAINST_FP32 and "cosine" not in metric
        steady = metric != "tokens/s" or record.note(*cell).get("settled") is not False
        written = text(metric, value, steady) if value or metric in THROUGHPUT else ""
        cells.append("" if is_ratio else written)
        improvements.append(written if is_ratio else improvement(metric, fp32, value))
    tokens = record.value("tokens/s", *cell)
    return Column(
        precision,
        cells,
        [] if precision == "fp32" else improvements,
        round(tokens.median / fastest, 3) if tokens else 0.0,
        speedup(record, *cell),
    )


def speedup(record: Record, model: str, precision: str, workload: str) -> float | None:
    """Tokens/s over FP32's: measured in one process where it was, else from two processes."""
    if precision == "fp32":
        return 1.0
    together = record.value("speed-up, same process", model, precision, workload)
    if together:
        return round(together.median, 3)
    this, fp32 = (record.value("tokens/s", model, p, workload) for p in (precision, "fp32"))
    return round(this.median / fp32.median, 3) if this and fp32 else None


def recommend(record: Record, model: str, workload: str, shown: list[str]) -> tuple[str | None, str]:
    """The fastest precision that is faithful, and a sentence that says why. Those that failed are not shown."""
    if "fp32" not in shown:
        return None, "No recommendation: FP32, which the others are judged against, has no result."
    others: dict[str, tuple[float, float]] = {}
    unfaithful, unknown = [], []
    for precision in shown[1:]:
        cosine = record.value("min cosine to FP32", model, precision, workload)
        speed = speedup(record, model, precision, workload)
        if cosine is None or speed is None:
            unknown.append(precision.upper())
        elif cosine.median < FAITHFUL:
            unfaithful.append(f"{precision.upper()} (smallest cosine {cosine.median:.4f})")
        else:
            others[precision] = (speed, cosine.median)
    best = max(others, key=lambda precision: others[precision][0], default=None)
    left_out = f" Not faithful enough: {', '.join(unfaithful)}; {FAITHFUL} is needed." if unfaithful else ""
    left_out += f" Not judged, without a fidelity: {', '.join(unknown)}." if unknown else ""
    if best and others[best][0] > FASTER:
        speed, smallest = others[best]
        memory = [record.value("peak memory", model, p, workload) for p in (best, "fp32")]
        share = f", {memory[0].median / memory[1].median:.0%} of its peak memory" if all(memory) else ""  # type: ignore[union-attr]
        said = f"{speed:.2g} times FP32's speed{share}, smallest cosine {smallest:.5f}"
        return best, f"Use {best.upper()}: {said}.{left_out}"
    slower = " and ".join(f"{p.upper()} runs at {speed:.2f} times its speed" for p, (speed, _) in others.items())
    return "fp32", f"Use FP32: {slower or 'nothing else has a usable result'} here.{left_out}"


def text(metric: str, value: Value | None, steady: bool = True) -> str:
    """A value with its unit and spread."""
    if value is None:
        return "n/a"
    spread = f" ±{100 * value.spread / value.median:.0f}%" if value.spread is not None else ""
    return f"{quantity(metric, value.median)}{spread}{'' if steady else ' ~'}"


def quantity(metric: str, value: float) -> str:
    """A number as people write it: three digits and a unit."""
    if metric == "total runtime":
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if metric == "peak memory":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
    if "cosine" in metric:
        return f"{value:.6f}"
    if metric in AGAINST_FP32:
        return f"{value:.2f}x"
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.{2 if value < 10 * size else 1 if value < 100 * size else 0}f}{suffix}"
    return f"{value:.3g}"


def improvement(metric: str, fp32: Value | None, other: Value | None) -> str:
    """How many times better than FP32; nothing for a metric that is no quantity of one precision."""
    if metric not in THROUGHPUT:
        return ""
    if fp32 is None or other is None:
        return "n/a"
    better = other.median / fp32.median if metric in HIGHER_IS_BETTER else fp32.median / other.median
    return f"{better:.2f}x"


def reasons(record: Record, kind: str) -> Iterator[str]:
    """Why cells failed or were skipped: each reason once, with the cells it explains."""
    found: dict[str, set[str]] = {}
    for name, note in sorted(record.notes.items()):
        # What the other metrics of a failed cell say repeats the first one's reason.
        if kind in note and not str(note[kind]).startswith("CellFailed"):
            found.setdefault(str(note[kind]), set()).add(name.partition("(")[2].rstrip(")") or name)
    for reason, cells in found.items():
        yield f"{reason} ({'; '.join(sorted(cells)) if len(cells) <= 3 else f'{len(cells)} cells'})"
