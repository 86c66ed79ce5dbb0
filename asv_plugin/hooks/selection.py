"""Which cells asv was asked for: processes that measure are told, and only their rows are printed.

On a GPU one process measures several cells. asv's tables have a row for every combination of parameters, hundreds
for the one cell of ``--bench``.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from functools import wraps
from typing import Any

from asv import results, util
from asv.benchmarks import Benchmarks

from asv_plugin import notes
from asv_plugin.hooks.places import check_places

VARIABLE = "VIRNUCPRO_BENCH_ASKED"  # as in benchmarks/suite/cell.py

PLACES = {
    "asv.benchmarks:Benchmarks.discover": "(conf, repo, environments, commit_hash, regex=None, ",
    "asv.results:_format_benchmark_result": "(result, benchmark, max_width=None)",
}
"""What of asv is hooked below, and how its parameters begin."""


def install() -> None:
    """Make asv tell, and print what was asked for; after this, whatever it starts knows."""
    check_places(PLACES, __name__)
    discover, format_table = Benchmarks.discover, results._format_benchmark_result

    # What `asv run` and its like call, with what --bench says, before they start a process that measures
    @wraps(discover)
    def discover_and_tell(*args: Any, **kw: Any) -> Benchmarks:
        found = discover(*args, **kw)
        asked = {(class_of(name), *cell) for name, cell in selected_cells(found) if cell}
        os.environ[VARIABLE] = json.dumps(sorted(asked))
        return found

    # What makes the table of a benchmark that `asv run` prints when all of its cells are done
    @wraps(format_table)
    def format_requested(result: Sequence[Any], benchmark: dict[str, Any], max_width: int | None = None) -> Any:
        requested = {tuple(cell) for cell in json.loads(os.environ.get(VARIABLE, "[]"))}
        cells = [(class_of(benchmark["name"]), *cell) for cell in notes.product(benchmark["params"])]
        chosen = [cell in requested for cell in cells]
        if all(chosen) or not any(chosen):
            return format_table(result, benchmark, max_width)
        return [
            f"{', '.join(cell[1:])}: {util.human_value(value, benchmark['unit'], err=error)}"
            for cell, (value, error) in itertools.compress(zip(cells, result, strict=True), chosen)
        ]

    Benchmarks.discover, results._format_benchmark_result = discover_and_tell, format_requested


def class_of(benchmark: str) -> str:
    """The class in a benchmark's name; of a plain function its file."""
    return benchmark.split(".")[-2]


def selected_cells(benchmarks: Benchmarks) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The cells that --bench selects: a benchmark, and parameters as notes have them."""
    for name, benchmark in benchmarks.items():
        chosen = benchmarks.benchmark_selection[name]
        for at, cell in enumerate(notes.product(benchmark["params"])):
            if not chosen or at in chosen:
                yield name, cell
