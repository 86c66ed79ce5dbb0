"""Which cells there are, and which of them this Python has recorded on this machine."""

import math
import os
import runpy
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asv import util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.environment import get_env_name, get_environments
from asv.repo import get_repo
from asv.results import Results, iter_results_for_machine

from asv_plugin import notes
from asv_plugin.hooks.selection import selected_cells
from asv_plugin.untrusted import for_terminal

FIRST = ("throughput", "precision")
"""The files of benchmarks that most want to know first."""

Key = tuple[str, tuple[str, ...]]
"""A benchmark, and the parameters of one of its cells as notes have them."""

Cells = set[Key]


@dataclass(frozen=True)
class Recorded:
    """Of a file of benchmarks: whether all cells asked for are recorded, and about how long they take.

    asv keeps the time of a benchmark's last run only: of what was recorded in parts this is too little.
    """

    complete: bool
    seconds: float


RecordedFiles = dict[str, dict[str, Recorded]]
"""Commit to file of benchmarks to what is recorded."""


def benchmark_files(folder: Path) -> list[str]:
    """The names of the suite's files of benchmarks, without `.py`: `FIRST`, then the others by name."""
    names = sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("_"))
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def selector(file: str, bench: str) -> str:
    """A --bench of asv's for the cells of one file of benchmarks that `bench` selects.

    asv searches ``file.Class.track_metric('parameter', 'another')`` and takes what any of several --bench finds.
    """
    return rf"^(?={file}\.).*(?:{bench})"


def discover(config: Config) -> Benchmarks:
    """The benchmarks as they are now; results/benchmarks.json, which may be older, is written anew.

    asv imports them in a process of its own, which takes as long as PyTorch does. Raises its UserError.
    """
    (environment,) = get_environments(config, [f"existing:{sys.executable}"], verbose=False)
    found = Benchmarks.discover(config, get_repo(config), [environment], ["HEAD"])
    found.save()
    return found


def selected(config: Config, suite: Benchmarks, files: list[str], bench: str) -> dict[str, Cells]:
    """File of benchmarks to the cells that asv will measure."""
    cells: dict[str, Cells] = {file: set() for file in files}
    regexes = [selector(file, bench) for file in files]
    for name, cell in selected_cells(Benchmarks(config, list(suite.values()), regexes)):
        cells[name.partition(".")[0]].add((name, cell))
    return cells


def recorded(results: Path, name: str, wanted: dict[str, Cells], suite: Benchmarks) -> RecordedFiles:
    """What this Python recorded on this machine of the files of benchmarks that are asked for."""
    found: RecordedFiles = {}
    if not (results / name).is_dir():
        return found
    for result in iter_results_for_machine(str(results), name):
        if result.env_name != environment():
            continue
        cell_notes = notes.read(notes.notes_path(results / result._filename))
        of_commit = found.setdefault(result.commit_hash, {})
        for file, cells in wanted.items():
            outcomes = outcomes_of(result, file, cell_notes, suite)
            if outcomes:
                of_commit[file] = completeness(outcomes, cells, result.duration)
    return found


def completeness(outcomes: dict[Key, float], wanted: Cells, duration: dict[str, float]) -> Recorded:
    """What `outcomes_of` a file, and asv's seconds of each benchmark, say of the cells that are asked for."""
    seconds = sum(duration.get(benchmark) or 0.0 for benchmark in {benchmark for benchmark, _ in outcomes})
    measured = cell_count(key for key, value in outcomes.items() if not math.isnan(value))
    to_measure = cell_count(key for key in wanted if not math.isnan(outcomes.get(key, 0.0)))
    return Recorded(wanted <= outcomes.keys(), seconds * to_measure / max(measured, 1))


def outcomes_of(
    result: Results, file: str, cell_notes: notes.Notes, suite: dict[str, dict[str, Any]]
) -> dict[Key, float]:
    """The cells of a file that were measured at the benchmarks' present versions, and with NaN those skipped.

    asv has NaN, too, for cells that it was not asked for; only those that were skipped have a reason.
    """
    found = {}
    for benchmark in result.get_all_result_keys():
        version = suite.get(benchmark, {}).get("version")
        if benchmark.startswith(f"{file}.") and result.benchmark_version.get(benchmark) == version:
            params = result.get_result_params(benchmark)
            values = result.get_result_value(benchmark, params) or []
            for cell, value in zip(notes.product(params), values, strict=False):
                skipped = not params or "skipped" in cell_notes.get(notes.key(benchmark, cell), {})
                if value is not None and (not math.isnan(value) or skipped):
                    found[benchmark, cell] = value
    return found


def cell_count(keys: Iterable[Key]) -> int:
    """How many measurements these are: one serves all metrics of a class."""
    return len({(benchmark.rpartition(".")[0], cell) for benchmark, cell in keys})


def require_the_same_pytorch(results: Path, name: str) -> None:
    """End the program where this Python's results are of another PyTorch: asv has one file for both."""
    for path in (results / name).glob(f"*-{environment()}.notes"):
        versions = (note.get("versions", {}).get("torch") for note in notes.read(path).values())
        for recorded in set(filter(None, versions)):
            if recorded != pytorch():
                sys.exit(
                    f"error: {path} was recorded with PyTorch {for_terminal(recorded)}, and {sys.executable} has "
                    f"{pytorch()}: give this machine another name (MACHINE=...), or remove {path.parent}"
                )


def pytorch() -> str:
    """``torch.__version__`` of this Python, which importing PyTorch would take seconds to tell."""
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise util.UserError(f"{sys.executable} has no PyTorch")
    return runpy.run_path(str(Path(spec.submodule_search_locations[0], "version.py")))["__version__"]


def environment() -> str:
    """What asv calls this Python."""
    path = os.path.abspath(sys.executable)  # noqa: PTH100 -- as asv, which takes .. out and follows no link
    return get_env_name("existing", path.replace(os.sep, "_"), {}, {})
