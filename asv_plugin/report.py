"""Print what was measured: FP32 beside the other precisions, for each model and workload.

python -m asv_plugin.report [--machine NAME] [--commit HEAD] [--results results]
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from asv.results import Results, iter_results_for_machine
from tabulate import tabulate

from asv_plugin import notes
from asv_plugin.notes import Notes
from asv_plugin.preflight import git

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

THROUGHPUT = {
    "tokens/s": "throughput.Throughput.track_tokens_per_second",
    "sequences/s": "throughput.Throughput.track_sequences_per_second",
    "total runtime": "throughput.Throughput.track_runtime",
    "peak memory": "throughput.Throughput.track_peak_memory",
}
HIGHER_IS_BETTER = {"tokens/s", "sequences/s"}
AGAINST_FP32 = {
    "speed-up, same process": "precision.Precision.track_speedup_over_fp32",
    "memory saving, alone": "precision.Precision.track_memory_saving",
    "min cosine to FP32": "precision.Precision.track_min_cosine_to_fp32",
}


@dataclass(frozen=True)
class Value:
    """A number with the spread of its samples: half the distance of the quartiles, None with one sample."""

    median: float
    spread: float | None = None


@dataclass
class Report:
    """All numbers of one commit on one machine: ``values[metric][model, precision, workload]``."""

    machine: str
    commit: str
    values: dict[str, dict[tuple[str, ...], Value]] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)

    def note(self, *cell: str) -> dict[str, object]:
        """What is known about a throughput cell (model, precision, workload) besides its numbers."""
        for benchmark in THROUGHPUT.values():
            note = self.notes.get(notes.key(benchmark, cell), {})
            if "device" in note:
                return note
        return {}


def load(results_dir: Path, machine: str, commit: str) -> Report:
    """The newest numbers of `commit` (a full hash) on `machine`, from all its environments."""
    report = Report(machine, commit)
    for result in iter_results_for_machine(str(results_dir), machine):
        if result.commit_hash == commit:
            report.notes |= notes.read(notes.notes_path(results_dir / result._filename))
            for metric, benchmark in (THROUGHPUT | AGAINST_FP32).items():
                report.values.setdefault(metric, {}).update(read_values(result, benchmark))
    return report


def read_values(result: Results, benchmark: str) -> Iterator[tuple[tuple[str, ...], Value]]:
    """The cells of a benchmark that have a value."""
    if benchmark not in result.get_all_result_keys():
        return
    params = result.get_result_params(benchmark)
    values = result.get_result_value(benchmark, params)
    statistics = result.get_result_stats(benchmark, params)
    for parameters, value, stats in zip(notes.product(params), values, statistics, strict=True):
        if value is not None and value == value:
            several = stats and stats.get("repeat", 1) > 1
            yield parameters, Value(value, (stats["q_75"] - stats["q_25"]) / 2 if several else None)


def render(report: Report) -> str:
    """The report as text."""
    measured = report.values.get("tokens/s", {})
    cells = list(dict.fromkeys((model, workload) for model, _, workload in measured))
    shown = [p for p in PRECISIONS if any(precision == p for _, precision, _ in measured)]
    parts = [heading(report, measured)]
    parts += [table(report, model, workload, shown) for model, workload in cells]
    if cells:
        parts.append(LEGEND)
    parts += missing(report)
    return "\n\n".join(parts)


LEGEND = (
    "Improvement: above 1 is better than FP32 in every row, below 1 is worse. ±: half the distance between the\n"
    "quartiles of one process's blocks. ~: the warm-up did not settle. Peak memory on a CPU: the whole process,\n"
    "Python and PyTorch included; on a GPU: what was allocated there."
)


def heading(report: Report, measured: dict[tuple[str, ...], Value]) -> str:
    """What was measured on what, in two lines."""
    note = next((found for cell in measured if (found := report.note(*cell))), {})
    versions = note.get("versions", {})
    with_what = ", ".join(f"{name} {v}" for name, v in versions.items()) if isinstance(versions, dict) else ""
    lines = [f"ESM-2 on {note.get('device', report.machine)}, commit {report.commit[:8]}"]
    if note:
        lines.append(f"{note.get('weights')} weights; {with_what}")
    return "\n".join(lines)


def table(report: Report, model: str, workload: str, shown: list[str]) -> str:
    """One model and workload: a row a metric, a column a precision, then the improvements over FP32."""
    others = [precision for precision in shown if precision != "fp32"]
    rows = []
    for metric in THROUGHPUT:
        values = {p: report.values[metric].get((model, p, workload)) for p in shown}
        rows.append(
            [metric]
            + [text(metric, values[p], metric != "tokens/s" or settled(report, model, p, workload)) for p in shown]
            + [improvement(metric, values.get("fp32"), values[p]) for p in others]
        )
    for metric in AGAINST_FP32:
        values = {p: report.values.get(metric, {}).get((model, p, workload)) for p in others}
        if any(values.values()):
            as_text = [text(metric, values[p]) for p in others]
            blank = [""] * len(others)
            fidelity = "cosine" in metric
            rows.append([metric, *[""] * ("fp32" in shown), *(as_text + blank if fidelity else blank + as_text)])
    headers = ["Metric", *map(str.upper, shown), *(f"{p.upper()} improvement" for p in others)]
    note = next((n for p in shown if (n := report.note(model, p, workload))), {})
    size = f" (proteins: {note['proteins']}, residues: {note['residues']:,})" if note else ""
    body = tabulate(rows, headers, tablefmt="simple", disable_numparse=True, stralign="right", colalign=("left",))
    return f"{model}, {workload}{size}\n{body}"


def settled(report: Report, *cell: str) -> bool:
    """Whether the warm-up of a throughput cell converged."""
    return bool(report.note(*cell).get("settled", True))


def text(metric: str, value: Value | None, steady: bool = True) -> str:
    """A value with its unit and spread."""
    if value is None:
        return "n/a"
    spread = f" ±{100 * value.spread / value.median:.0f}%" if value.spread is not None else ""
    return f"{quantity(metric, value.median)}{spread}{'' if steady else ' ~'}"


def quantity(metric: str, value: float) -> str:
    """A number as people write it."""
    if metric == "total runtime":
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    if metric == "peak memory":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
    if "cosine" in metric:
        return f"{value:.6f}"
    if metric in AGAINST_FP32:
        return f"{value:.2f}x"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def improvement(metric: str, fp32: Value | None, other: Value | None) -> str:
    """How many times better than FP32."""
    if fp32 is None or other is None:
        return "n/a"
    better = other.median / fp32.median if metric in HIGHER_IS_BETTER else fp32.median / other.median
    return f"{better:.2f}x"


def missing(report: Report) -> list[str]:
    """Why cells have no value: each reason once, with how many cells it explains; failures first."""
    parts = []
    for kind, title in (("failed", "FAILED"), ("skipped", "Not run (n/a)")):
        reasons: dict[str, set[str]] = {}
        for name, note in sorted(report.notes.items()):
            if kind in note and not str(note[kind]).startswith("CellFailed"):
                cell = name.partition("(")[2].rstrip(")") or name
                reasons.setdefault(str(note[kind]), set()).add(cell)
        if reasons:
            lines = [f"  {reason} ({summary(cells)})" for reason, cells in reasons.items()]
            parts.append("\n".join([f"{title}:", *lines]))
    return parts


def summary(cells: set[str]) -> str:
    """A few cells by name, many by number."""
    return "; ".join(sorted(cells)) if len(cells) <= 3 else f"{len(cells)} cells"


def main() -> None:
    """Command line; ends with exit code 1 where there is nothing to show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--machine", help="as in results/; not needed where there is only one")
    parser.add_argument("--commit", default="HEAD", help="commit to show (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    arguments = parser.parse_args()
    commit = git("rev-parse", "--verify", f"{arguments.commit}^{{commit}}")
    if commit is None:
        sys.exit(f"error: git knows no commit {arguments.commit!r}")
    machines = sorted(path.parent.name for path in arguments.results.glob("*/machine.json"))
    machine = arguments.machine or (machines[0] if len(machines) == 1 else None)
    if machine is None or machine not in machines:
        sys.exit(f"error: --machine: choose one of {', '.join(machines) or '(no results yet: run make bench)'}")
    report = load(arguments.results, machine, commit)
    print(render(report))
    if not report.values.get("tokens/s"):
        sys.exit(f"error: no result of commit {commit[:8]} on {machine} has a value; run make bench")


if __name__ == "__main__":
    main()
