"""Read what asv recorded: the numbers of a commit on a machine, and why others are missing."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asv import util
from asv.results import Results, iter_results_for_machine

from asv_plugin import notes
from asv_plugin.hooks.broken_files import BROKEN, valid_machine_files
from asv_plugin.notes import Notes
from asv_plugin.outputs import history
from asv_plugin.rules import Rule, rules_of

THROUGHPUT = {
    "tokens/s": "throughput.Throughput.track_tokens_per_second",
    "sequences/s": "throughput.Throughput.track_sequences_per_second",
    "total runtime": "throughput.Throughput.track_runtime",
    "peak memory": "throughput.Throughput.track_peak_memory",
    "energy per 1,000 tokens": "throughput.Throughput.track_energy",
}
AGAINST_FP32 = {
    "speed-up, same process": "precision.Precision.track_speedup_over_fp32",
    "memory saving, alone": "precision.Precision.track_memory_saving",
    "max error over distance": "precision.Precision.track_max_error_over_distance",
    "min cosine to FP32": "precision.Precision.track_min_cosine_to_fp32",
}
FIDELITY = "max error over distance"
ENERGY = "energy per 1,000 tokens"
BENCHMARKS = THROUGHPUT | AGAINST_FP32
"""Metric, as people read it, to the asv benchmark that records it."""

MASSIVE = "with a massive channel, as ESM-2 3B's"
"""`FIDELITY` of random weights that were given such a channel."""

MASSIVE_NOTE = "massive_channel"
"""What benchmarks/measure/fidelity_massive.py calls it in a cell's notes."""

NOTED = {
    MASSIVE: (MASSIVE_NOTE, "error_over_distance"),
    "min cosine, any residue": ("fidelity", "smallest_residue_cosine"),
    "same nearest neighbour": ("fidelity", "same_nearest_neighbour"),
}
"""Metric to its place in the notes of `FIDELITY`: what was measured beside it."""


@dataclass(frozen=True)
class Value:
    """A number with the spread of its samples: half the distance of the quartiles, None with one sample."""

    median: float
    spread: float | None = None
    samples: int = 1


@dataclass
class Record:
    """One commit on one machine: ``values[metric][model, precision, workload]``.

    `date` is the commit's and `measured` the last benchmark's start, in milliseconds since 1970. `precisions` are
    the suite's, in its order. `changed`: what of its embeddings differs from an older commit's, in words.
    """

    machine: str
    commit: str
    date: int = 0
    measured: float = 0
    values: dict[str, dict[tuple[str, ...], Value]] = field(default_factory=dict)
    notes: Notes = field(default_factory=dict)
    precisions: tuple[str, ...] = ()
    changed: list[str] = field(default_factory=list)

    def value(self, metric: str, *cell: str) -> Value | None:
        """The number of a cell (model, precision, workload), if it has one."""
        return self.values.get(metric, {}).get(cell)

    def note(self, *cell: str, about: Iterable[str] = BENCHMARKS.values()) -> dict[str, Any]:
        """What is known about a cell besides its numbers, from whichever of the benchmarks measured it."""
        for benchmark in about:
            note = self.notes.get(notes.key(benchmark, cell), {})
            if "device" in note:
                return note
        return {}


def machines(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Name to asv's record of each machine in results/."""
    return {Path(path).parent.name: util.load_json(path) for path in sorted(valid_machine_files(str(results_dir)))}


def records(results_dir: Path, machine: str, benchmarks: Mapping[str, str] = BENCHMARKS) -> list[Record]:
    """All commits recorded on a machine, the newest commit first; asv names and skips broken files.

    Of a commit that was measured in several environments (other versions of PyTorch, say), the one with the most
    values; of several with as many, the last one measured. As in asv, only values of the benchmarks' present
    version count: those of an older protocol cannot be compared.
    """
    suite = read_suite(results_dir)
    best: dict[str, tuple[tuple[int, float, str], Record]] = {}
    for result in iter_results_for_machine(str(results_dir), machine):
        record = read_record(results_dir, machine, result, suite, benchmarks)
        rank = (sum(map(len, record.values.values())), record.measured, result.env_name)
        if result.commit_hash not in best or rank > best[result.commit_hash][0]:
            best[result.commit_hash] = rank, record
    found = sorted((record for _, record in best.values()), key=lambda record: (record.date, record.commit))
    for record, changes in zip(found, history(record.notes for record in found), strict=True):
        record.changed = [f"{each.of}: {each}" for each in changes]
    return found[::-1]


@dataclass(frozen=True)
class Recorded:
    """The present benchmarks: by name the version and what counts as a change; precisions in `params`' order."""

    versions: dict[str, str] = field(default_factory=dict)
    precisions: tuple[str, ...] = ()
    rules: dict[str, Rule] = field(default_factory=dict)


def read_suite(results_dir: Path) -> Recorded:
    """The present suite, from results/benchmarks.json."""
    try:
        known = util.load_json(str(results_dir / "benchmarks.json"))
        entries = {name: entry for name, entry in known.items() if isinstance(entry, dict)}
        return Recorded(
            {name: str(entry["version"]) for name, entry in entries.items()},
            tuple(dict.fromkeys(p for name in BENCHMARKS.values() for p in precisions_of(entries.get(name, {})))),
            rules_of(entries),
        )
    except (util.UserError, OSError, *BROKEN):
        return Recorded()


def precisions_of(benchmark: dict[str, Any]) -> list[str]:
    """The precisions among a benchmark's `params`, in their order; asv keeps their Python form, with quotes."""
    named = dict(zip(benchmark.get("param_names", []), benchmark.get("params", []), strict=True))
    return [name.strip("'") for name in named.get("precision", [])]


def read_record(
    results_dir: Path, machine: str, result: Results, suite: Recorded, benchmarks: Mapping[str, str]
) -> Record:
    """A result file with its notes."""
    record = Record(
        machine,
        result.commit_hash,
        result.date,
        max(result.started_at.values(), default=0),
        {
            metric: dict(read_values(result, benchmark))
            for metric, benchmark in benchmarks.items()
            if result.benchmark_version.get(benchmark) == suite.versions.get(benchmark)
        },
        notes.read(notes.notes_path(results_dir / result._filename)),
        suite.precisions,
    )
    record.values |= {metric: dict(read_noted(record, *place)) for metric, place in NOTED.items()}
    return record


def read_noted(record: Record, about: str, name: str) -> Iterator[tuple[tuple[str, ...], Value]]:
    """A figure that the notes of a cell's fidelity hold, for each cell that has one."""
    for cell in record.values.get(FIDELITY, {}):
        value = record.note(*cell, about=AGAINST_FP32.values()).get(about, {}).get(name)
        if value is not None and math.isfinite(value):
            yield cell, Value(value)


def read_values(result: Results, benchmark: str) -> Iterator[tuple[tuple[str, ...], Value]]:
    """The cells of a benchmark that have a value."""
    if benchmark not in result.get_all_result_keys():
        return
    params = result.get_result_params(benchmark)
    values = result.get_result_value(benchmark, params)
    statistics = result.get_result_stats(benchmark, params)
    for cell, value, stats in zip(notes.product(params), values, statistics, strict=True):
        if len(cell) == 3 and value is not None and math.isfinite(value):
            samples = (stats or {}).get("repeat") or 1
            spread = (stats["q_75"] - stats["q_25"]) / 2 if samples > 1 else None
            yield cell, Value(value, spread, samples)
