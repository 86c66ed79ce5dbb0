"""Tell the processes that measure which cells asv was asked for: on a GPU one process measures several."""

import json
import os
from collections.abc import Iterator
from functools import wraps
from typing import Any

from asv.benchmarks import Benchmarks

from asv_plugin import notes
from asv_plugin.hooks.places import check_places

VARIABLE = "VIRNUCPRO_BENCH_ASKED"  # as in benchmarks/_cells.py

PLACES = {"asv.benchmarks:Benchmarks.discover": "(conf, repo, environments, commit_hash, regex=None, "}
"""What of asv is hooked below, and how its parameters begin."""


def install() -> None:
    """Make asv tell; after this, whatever it starts knows."""
    check_places(PLACES, __name__)
    discover = Benchmarks.discover

    # What `asv run` and its like call, with what --bench says, before they start a process that measures
    @wraps(discover)
    def discover_and_tell(*args: Any, **kw: Any) -> Benchmarks:
        found = discover(*args, **kw)
        asked = {(name.split(".")[-2], *cell) for name, cell in selected_cells(found) if cell}
        os.environ[VARIABLE] = json.dumps(sorted(asked))
        return found

    Benchmarks.discover = discover_and_tell


def selected_cells(benchmarks: Benchmarks) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The cells that --bench selects: a benchmark, and parameters as notes have them."""
    for name, benchmark in benchmarks.items():
        chosen = benchmarks.benchmark_selection[name]
        for at, cell in enumerate(notes.product(benchmark["params"])):
            if not chosen or at in chosen:
                yield name, cell
