"""Which precision? One function, `answer`, computes what the terminal and the Precision page show."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from asv_plugin.recorded import AGAINST_FP32, THROUGHPUT, Record, Value

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
HIGHER_IS_BETTER = {"tokens/s", "sequences/s"}

FAITHFUL = 0.999
"""The smallest cosine to FP32 with which a precision is recommended."""

FASTER = 1.03
"""A precision is recommended over FP32 only if it is faster by more than measuring it again would show."""

WIDE = 0.05
"""A spread above this share of the value is marked: it is wider than what counts as a change in speed."""

REPEATS = ("CellFailed: measured once, and it failed", "CellFailed: the process that measured this cell died")
"""How the other metrics of a failed cell point to the first one's reason."""

LEGEND = (
    "Improvement: above 1 is better than FP32 in every row, below 1 is worse. ±: half the distance between the "
    "quartiles of the blocks timed in one process; it does not hold the difference from process to process. "
    "!: that is over 5 %, too wide to judge by: run it again, or use make ab. ~: the warm-up did not settle. "
    "Peak memory on a CPU: the whole process, Python and PyTorch included; on a GPU: what was allocated there. "
    "Min cosine: the smallest similarity of any protein's embedding to its FP32 embedding; with random weights it "
    "says how the arithmetic rounds, not what pretrained weights would show."
)


@dataclass(frozen=True)
class Column:
    """One precision of a table: for each row a text and, where rows compare, the share of its largest value."""

    precision: str
    cells: list[str]
    improvements: list[str]
    shares: list[float | None]
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
    cells = list(dict.fromkeys(cell for values in record.values.values() for cell in values))
    about = [note for cell in cells if (note := record.note(*cell))]
    versions = sorted({f"{name} {version}" for note in about for name, version in note["versions"].items()})
    return Answer(
        machine=record.machine,
        commit=record.commit,
        device=", ".join(sorted({note["device"] for note in about})) or record.machine,
        how="; ".join(part for part in (weights(record, cells), ", ".join(versions)) if part),
        tables=[table(record, *pair) for pair in dict.fromkeys((model, workload) for model, _, workload in cells)],
        failed=list(reasons(record, "failed")),
        skipped=list(reasons(record, "skipped")),
    )


def weights(record: Record, cells: list[tuple[str, ...]]) -> str:
    """Which weights: speed and memory do not depend on their values, fidelity does."""
    speed, fidelity = (
        " and ".join(
            sorted({note["weights"] for cell in cells if (note := record.note(*cell, about=about.values()))})
        )
        for about in (THROUGHPUT, AGAINST_FP32)
    )
    if speed and fidelity and speed != fidelity:
        return f"{speed} weights, {fidelity} weights for the comparison with FP32"
    return f"{speed or fidelity} weights" if speed or fidelity else ""


def table(record: Record, model: str, workload: str) -> Table:
    """The precisions of one model and workload side by side, those that this module does not know last."""
    found = {p for values in record.values.values() for m, p, w in values if (m, w) == (model, workload)}
    shown = [*(p for p in PRECISIONS if p in found), *sorted(found - set(PRECISIONS))]
    metrics = [*THROUGHPUT, *(m for m in AGAINST_FP32 if any(record.value(m, model, p, workload) for p in shown))]
    largest = {
        m: max((v.median for p in shown if (v := record.value(m, model, p, workload))), default=0) for m in metrics
    }
    recommended, advice = recommend(record, model, workload, shown)
    note = next((known for p in shown if (known := record.note(model, p, workload))), {})
    blocks = max((v.samples for p in shown if (v := record.value("tokens/s", model, p, workload))), default=0)
    size = f"proteins: {note['proteins']}, residues: {note['residues']:,}, blocks timed: {blocks}" if note else ""
    columns = [column(record, largest, (model, p, workload)) for p in shown]
    return Table(model, workload, size, metrics, columns, recommended, advice)


def column(record: Record, largest: dict[str, float], cell: tuple[str, ...]) -> Column:
    """One precision's values and improvements, row by row; `largest`: each metric's largest value in the row."""
    model, precision, workload = cell
    cells, improvements, shares = [], [], []
    for metric in largest:
        value, fp32 = record.value(metric, *cell), record.value(metric, model, "fp32", workload)
        is_ratio = metric in AGAINST_FP32 and "cosine" not in metric
        steady = metric != "tokens/s" or record.note(*cell, about=THROUGHPUT.values()).get("settled") is not False
        written = text(metric, value, steady) if value or metric in THROUGHPUT else ""
        cells.append("" if is_ratio else written)
        improvements.append(written if is_ratio else improvement(metric, fp32, value))
        shares.append(round(value.median / largest[metric], 3) if value and metric in THROUGHPUT else None)
    return Column(precision, cells, [] if precision == "fp32" else improvements, shares, speedup(record, *cell))


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
    others: dict[str, tuple[float, float]] = {}
    unfaithful, unknown = [], []
    for precision in shown:
        if precision == "fp32":
            continue
        cosine = record.value("min cosine to FP32", model, precision, workload)
        speed = speedup(record, model, precision, workload)
        if cosine is None or speed is None:
            unknown.append(precision.upper())
        elif cosine.median < FAITHFUL:
            unfaithful.append(f"{precision.upper()} (smallest cosine {floor(cosine.median)})")
        else:
            others[precision] = (speed, cosine.median)
    left_out = f" Not faithful enough: {', '.join(unfaithful)}; {FAITHFUL} is needed." if unfaithful else ""
    left_out += f" Not judged, for want of a fidelity or of FP32's speed: {', '.join(unknown)}." if unknown else ""
    if "fp32" not in shown and not others:
        return None, f"No recommendation: FP32, which the others are judged against, has no result.{left_out}"
    best = max(others, key=lambda precision: others[precision][0], default=None)
    if best and others[best][0] > FASTER:
        speed, smallest = others[best]
        this, fp32 = (record.value("peak memory", model, p, workload) for p in (best, "fp32"))
        share = f", {this.median / fp32.median:.0%} of its peak memory" if this and fp32 else ""
        said = f"{speed:.2f} times FP32's speed{share}, smallest cosine {floor(smallest)}"
        return best, f"Use {best.upper()}: {said}.{left_out}"
    said = " and ".join(f"{p.upper()} runs at {speed:.2f} times its speed" for p, (speed, _) in others.items())
    noise = ", and less than 3 % more is what measuring again can show" if best and others[best][0] > 1 else ""
    return "fp32", f"Use FP32: {said or 'nothing else has a usable result'} here{noise}.{left_out}"


def floor(cosine: float) -> str:
    """A cosine to five digits, never rounded up: what is too small must not look large enough."""
    return f"{math.floor(cosine * 1e5) / 1e5:.5f}"


def text(metric: str, value: Value | None, steady: bool = True) -> str:
    """A value with its unit and spread, which is marked where it is `WIDE`."""
    if value is None:
        return "n/a"
    share = value.spread / value.median if value.spread is not None else None
    spread = f" ±{100 * share:.0f}%{'!' if share > WIDE else ''}" if share is not None else ""
    return f"{quantity(metric, value.median)}{spread}{'' if steady else ' ~'}"


def quantity(metric: str, value: float) -> str:
    """A number as people write it: three digits and a unit."""
    if "cosine" in metric:
        return floor(value)
    if metric in AGAINST_FP32:
        return f"{value:.2f}x"
    if metric == "peak memory":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
    value = float(f"{value:.3g}")
    if metric == "total runtime":
        return f"{value:,.4g} s" if value >= 1 else f"{1000 * value:.3g} ms"
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
        if kind in note and not str(note[kind]).startswith(REPEATS):
            found.setdefault(str(note[kind]), set()).add(name.partition("(")[2].rstrip(")") or name)
    for reason, cells in found.items():
        yield f"{reason} ({'; '.join(sorted(cells)) if len(cells) <= 3 else f'{len(cells)} cells'})"
