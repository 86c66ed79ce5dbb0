"""Read what asv recorded: the numbers of a commit on a machine, and why others are missing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asv import util
from asv.console import log
from asv.results import Results, iter_results_for_machine

from asv_plugin import notes
from asv_plugin.notes import Notes

THROUGHPUT = {
    "tokens/s": "throughput.Throughput.track_tokens_per_second",
    "sequences/s": "throughput.Throughput.track_sequences_per_second",
    "total runtime": "throughput.Throughput.track_runtime",
    "peak memory": "throughput.Throughput.track_peak_memory",
}
AGAINST_FP32 = {
    "speed-up, same process": "precision.Precision.track_speedup_over_fp32",
    "memory saving, alone": "precision.Precision.track_memory_saving",
    "min cosine to FP32": "precision.Precision.track_min_cosine_to_fp32",
}
BENCHMARKS = THROUGHPUT | AGAINST_FP32
"""Metric, as people read it, to the asv benchmark that records it."""


@dataclass(frozen=True)
class Value:
    """A number with the spread of its samples: half the distance of the quartiles, None with one sample."""

    median: float
    spread: float | None = None
    samples: int = 1


@dataclass
class Record:
    """One commit on one machine: ``values[metric][model, precision, workload]``.

    `date` is the commit's and `measured` the last benchmark's start, in milliseconds since 1970.
    """

    machine: str
    commit: str
    date: int = 0
    measured: float = 0
    values: dict[str, dict[tuple[str, ...], Value]] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)

    def value(self, metric: str, *cell: str) -> Value | None:
        """The number of a cell (model, precision, workload), if it has one."""
        return self.values.get(metric, {}).get(cell)

    def note(self, *cell: str) -> dict[str, Any]:
        """What is known about a throughput cell besides its numbers."""
        for benchmark in THROUGHPUT.values():
            note = self.notes.get(notes.key(benchmark, cell), {})
            if "device" in note:
                return note
        return {}


def machines(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Name to asv's record of each machine in results/; a broken machine.json is named and skipped."""
    found = {}
    for path in sorted(results_dir.glob("*/machine.json")):
        try:
            found[path.parent.name] = util.load_json(str(path))
        except (util.UserError, OSError, ValueError) as error:
            log.warning(f"{path} is skipped: {error}")
    return found


def records(results_dir: Path, machine: str) -> list[Record]:
    """All commits recorded on a machine, the newest commit first; asv names and skips broken files.

    Of a commit that was measured in several environments (other versions of PyTorch, say), the last one measured.
    """
    newest: dict[str, Results] = {}
    for result in iter_results_for_machine(str(results_dir), machine):
        known = newest.get(result.commit_hash)
        if known is None or last_started(result) > last_started(known):
            newest[result.commit_hash] = result
    found = [read_record(results_dir, machine, result) for result in newest.values()]
    return sorted(found, key=lambda record: (record.date, record.commit), reverse=True)


def last_started(result: Results) -> tuple[float, str]:
    """When a file's last benchmark was started, in milliseconds; then its environment, to break a tie."""
    return max(result.started_at.values(), default=0), result.env_name


def read_record(results_dir: Path, machine: str, result: Results) -> Record:
    """A result file with its notes."""
    return Record(
        machine,
        result.commit_hash,
        result.date,
        last_started(result)[0],
        {metric: dict(read_values(result, benchmark)) for metric, benchmark in BENCHMARKS.items()},
        notes.read(notes.notes_path(results_dir / result._filename)),
    )


def read_values(result: Results, benchmark: str) -> Iterator[tuple[tuple[str, ...], Value]]:
    """The cells of a benchmark that have a value."""
    if benchmark not in result.get_all_result_keys():
        return
    params = result.get_result_params(benchmark)
    values = result.get_result_value(benchmark, params)
    statistics = result.get_result_stats(benchmark, params)
    for cell, value, stats in zip(notes.product(params), values, statistics, strict=True):
        if value is not None and value == value:
            samples = (stats or {}).get("repeat") or 1
            spread = (stats["q_75"] - stats["q_25"]) / 2 if samples > 1 else None
            yield cell, Value(value, spread, samples)
