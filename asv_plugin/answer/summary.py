"""What a record says about precisions: the tables that the terminal and the Precision page show."""

from collections.abc import Iterator
from dataclasses import dataclass

from asv_plugin.answer.advice import recommend, speedup
from asv_plugin.answer.numbers import format_value, improvement
from asv_plugin.answer.records import AGAINST_FP32, THROUGHPUT, Record

REPEATS = ("CellFailed: measured once, and it failed", "CellFailed: the process that measured this cell died")
"""How the other metrics of a failed cell point to the first one's reason."""

LEGEND = (
    "Improvement: above 1 is better than FP32 in every row, below 1 is worse. ±: half the distance between the "
    "quartiles of the blocks timed in one process; it excludes process-to-process variation. "
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
class Summary:
    """One commit on one machine, in words and numbers for people to read."""

    machine: str
    commit: str
    device: str
    how: str
    tables: list[Table]
    failed: list[str]
    skipped: list[str]


def summarize(record: Record) -> Summary:
    """What a record says about precisions."""
    cells = list(dict.fromkeys(cell for values in record.values.values() for cell in values))
    about = [note for cell in cells if (note := record.note(*cell))]
    versions = sorted({f"{name} {version}" for note in about for name, version in note["versions"].items()})
    return Summary(
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
    """The precisions of one model and workload side by side, in the suite's order, those it does not have last."""
    found = {p for values in record.values.values() for m, p, w in values if (m, w) == (model, workload)}
    shown = [*(p for p in record.precisions if p in found), *sorted(found - set(record.precisions))]
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
        written = format_value(metric, value, steady) if value or metric in THROUGHPUT else ""
        cells.append("" if is_ratio else written)
        improvements.append(written if is_ratio else improvement(metric, fp32, value))
        shares.append(round(value.median / largest[metric], 3) if value and metric in THROUGHPUT else None)
    return Column(precision, cells, [] if precision == "fp32" else improvements, shares, speedup(record, *cell))


def reasons(record: Record, kind: str) -> Iterator[str]:
    """Why cells failed or were skipped: each reason once, with the cells it explains."""
    found: dict[str, set[str]] = {}
    for name, note in sorted(record.notes.items()):
        if kind in note and not str(note[kind]).startswith(REPEATS):
            found.setdefault(str(note[kind]), set()).add(name.partition("(")[2].rstrip(")") or name)
    for reason, cells in found.items():
        yield f"{reason} ({'; '.join(sorted(cells)) if len(cells) <= 3 else f'{len(cells)} cells'})"
