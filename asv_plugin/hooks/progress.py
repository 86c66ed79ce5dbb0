"""Print each cell when it has been measured: asv is silent until a whole benchmark, minutes of them, is done."""

import itertools
import time
from functools import wraps
from typing import Any

from asv import runner
from asv.console import log

from asv_plugin import notes
from asv_plugin.hooks.places import check_places

PLACES = {"asv.runner:_run_benchmark_single_param": "(benchmark, spawner, param_idx, "}
"""What of asv is hooked below, and how its parameters begin."""

LONG_ENOUGH = 1.0
"""Seconds; a cell that took less was skipped, or read another metric's measurement."""


def install() -> None:
    """Make asv print cells."""
    check_places(PLACES, __name__)
    run_cell = runner._run_benchmark_single_param

    # The one function that asv calls for each combination of parameters.
    @wraps(run_cell)
    def run_and_print_cell(benchmark: dict[str, Any], spawner: Any, param_idx: int, *args: Any, **kw: Any) -> Any:
        start = time.monotonic()
        result = run_cell(benchmark, spawner, param_idx, *args, **kw)
        # A cell that another one's process has measured tells how long that took
        noted = notes.read_output(result.stderr or "").get("seconds")
        seconds = noted or time.monotonic() - start
        if seconds >= LONG_ENOUGH and benchmark["params"]:
            cell = next(itertools.islice(notes.product(benchmark["params"]), param_idx, None))
            outcome = "failed after" if result.errcode else "measured in"
            log.info(f"{', '.join(cell)}: {outcome} {seconds:.0f} s")
        return result

    runner._run_benchmark_single_param = run_and_print_cell
