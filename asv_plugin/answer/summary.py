"""What a record says about precisions: the tables that the terminal and the Precision page show."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from asv_plugin.answer.advice import advise, speedup
from asv_plugin.answer.numbers import RATIOS, format_value, improvement
from asv_plugin.answer.records import (
    AGAINST_FP32,
    ENERGY,
    FIDELITY,
    MASSIVE,
    MASSIVE_NOTE,
    NOTED,
    THROUGHPUT,
    Record,
)

REPEATS = ("CellFailed: measured once, and it failed", "CellFailed: the process that measured this cell died")
"""How the other metrics of a failed cell point to the first one's reason."""

LEGEND = (
    "x: an improvement over FP32, so above 1 is better and below 1 is worse. ±: half the distance between the "
    "quartiles of the blocks timed in one process; it excludes process-to-process variation. "
    "!: that is over 5 %, too wide to judge by: run it again, or use make ab. ~: the warm-up did not settle. "
    "Peak memory on a CPU: the process's own, Python and PyTorch included, their library files not; on a GPU: "
    "what was allocated there. Energy: of the whole GPU board. Max error over distance: the largest distance that "
    "a protein's embedding moves from its FP32 embedding, over the median distance between different proteins' "
    "embeddings. With a massive channel: the same of random weights that were given a channel like ESM-2 3B's. "
    "Min cosine: the smallest similarity of a protein's, or a residue's, embedding to its FP32 embedding. Same "
    "nearest neighbour: the share of proteins that keep theirs. With random weights these say how "
    "the arithmetic rounds, not what pretrained weights would show."
)


@dataclass(frozen=True)
class Column:
    """One precision of a table: for each row a text and, where rows compare, the improvement over FP32."""

    precision: str
    cells: list[str]
    improvements: list[str]
    speedup: float | None


@dataclass(frozen=True)
class Table:
    """One model and workload. `best`: the precision that the advice names, recommended or provisionally."""

    model: str
    workload: str
    size: str
    metrics: list[str]
    columns: list[Column]
    best: str | None
    is_recommendation: bool
    advice: str

    @property
    def gain(self) -> float | None:
        """How many times FP32's speed `best` has; None without advice."""
        return next((column.speedup for column in self.columns if column.precision == self.best), None)


@dataclass(frozen=True)
class Summary:
    """One commit on one machine, in words and numbers for people to read.

    `failed`, `skipped`, `doubtful`: cells without a value, n/a, and measured while the GPU was busy, and why.
    `changed`: models and precisions whose embeddings differ from those of the last commit before.
    """

    machine: str
    commit: str
    device: str
    how: str
    tables: list[Table]
    failed: list[str]
    skipped: list[str]
    doubtful: list[str]
    changed: list[str]


def summarize(record: Record) -> Summary:
    """What a record says about precisions."""
    cells = list(dict.fromkeys(cell for values in record.values.values() for cell in values))
    about = [note for cell in cells if (note := record.note(*cell))]
    versions = sorted(
        {f"{name} {version}" for note in about for name, version in note.get("versions", {}).items()}
    )
    return Summary(
        machine=record.machine,
        commit=record.commit,
        device=", ".join(sorted({note["device"] for note in about})) or record.machine,
        how="; ".join(part for part in (weights(record, cells), ", ".join(versions), threads(about)) if part),
        tables=[table(record, *pair) for pair in dict.fromkeys((model, workload) for model, _, workload in cells)],
        failed=list(reasons(record, "failed")),
        skipped=list(reasons(record, "skipped")),
        doubtful=list(busy(record)),
        changed=record.changed,
    )


def weights(record: Record, cells: list[tuple[str, ...]]) -> str:
    """Which weights: speed and memory do not depend on their values, fidelity does."""
    speed, fidelity = (
        " and ".join(
            sorted({known for cell in cells if (known := record.note(*cell, about=about.values()).get("weights"))})
        )
        for about in (THROUGHPUT, AGAINST_FP32)
    )
    if speed and fidelity and speed != fidelity:
        return f"{speed} weights, {fidelity} weights for the comparison with FP32"
    return f"{speed or fidelity} weights" if speed or fidelity else ""


def threads(about: list[dict[str, Any]]) -> str:
    """How many threads computed on which CPUs, where a CPU was measured; `taskset` changes both."""
    found = {(note["threads"], note.get("cpus")) for note in about if "threads" in note and "gpu" not in note}
    return " and ".join(
        f"{count} threads{f' on CPUs {cpus}' if cpus else ''}" for count, cpus in sorted(found, key=str)
    )


def table(record: Record, model: str, workload: str) -> Table:
    """The precisions of one model and workload side by side, in the suite's order, those it does not have last."""
    found = {p for values in record.values.values() for m, p, w in values if (m, w) == (model, workload)}
    shown = [*(p for p in record.precisions if p in found), *sorted(found - set(record.precisions))]
    optional = [ENERGY, *AGAINST_FP32, *(metric for metric in NOTED if metric != MASSIVE)]
    optional.insert(optional.index(FIDELITY) + 1, MASSIVE)
    metrics = [m for m in THROUGHPUT if m != ENERGY]
    metrics += [m for m in optional if any(record.value(m, model, p, workload) for p in shown)]
    advice = advise(record, model, workload, shown)
    note = next((known for p in shown if (known := record.note(model, p, workload))), {})
    blocks = max((v.samples for p in shown if (v := record.value("tokens/s", model, p, workload))), default=0)
    counts = [
        f"{what}: {note[what]:{form}}" for what, form in (("proteins", ""), ("residues", ",")) if what in note
    ]
    size = ", ".join([*counts, f"blocks timed: {blocks}"]) if note else ""
    columns = [column(record, metrics, (model, p, workload)) for p in shown]
    return Table(
        model, workload, size, metrics, columns, advice.precision, advice.is_recommendation, advice.sentence
    )


def column(record: Record, metrics: list[str], cell: tuple[str, ...]) -> Column:
    """One precision's values and improvements, row by row."""
    model, precision, workload = cell
    cells, improvements = [], []
    for metric in metrics:
        value, fp32 = record.value(metric, *cell), record.value(metric, model, "fp32", workload)
        is_ratio = metric in RATIOS
        steady = metric != "tokens/s" or record.note(*cell, about=THROUGHPUT.values()).get("settled") is not False
        written = format_value(metric, value, steady) if value or metric in THROUGHPUT else ""
        cells.append("" if is_ratio else written)
        improvements.append(written if is_ratio else improvement(metric, fp32, value))
    return Column(precision, cells, [] if precision == "fp32" else improvements, speedup(record, *cell))


def busy(record: Record) -> Iterator[str]:
    """What used the GPU before cells were measured: each once, with the cells."""
    found: dict[str, set[str]] = {}
    for name, note in sorted(record.notes.items()):
        if reason := (note.get("gpu") or {}).get("busy"):
            found.setdefault(reason, set()).add(name.partition("(")[2].rstrip(")") or name)
    return with_cells(found)


def reasons(record: Record, kind: str) -> Iterator[str]:
    """Why cells failed or were skipped, or one of their figures: each reason once, with the cells it explains."""
    found: dict[str, set[str]] = {}
    for name, note in sorted(record.notes.items()):
        for about in (note, note.get(MASSIVE_NOTE, {})):
            if kind in about and not str(about[kind]).startswith(REPEATS):
                found.setdefault(str(about[kind]), set()).add(name.partition("(")[2].rstrip(")") or name)
    return with_cells(found)


def with_cells(found: dict[str, set[str]]) -> Iterator[str]:
    """Reasons with the cells that each explains, by name where they are few."""
    for reason, cells in found.items():
        yield f"{reason} ({'; '.join(sorted(cells)) if len(cells) <= 3 else f'{len(cells)} cells'})"
