"""The processes that measure: new servers for each pair, and asv's forks of them, in turn or one by one."""

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from asv import runner, util
from asv.results import Results

from asv_plugin import notes
from asv_plugin.compare.suite import SIDES, Cell, print_progress
from asv_plugin.compare.trial import Trial
from asv_plugin.compare.turns import Turns
from asv_plugin.compare.verdict import Pair
from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.runner:get_spawner": "(env, benchmark_dir, launch_method)",
    "asv.runner:Spawner.create_setup_cache": "(self, benchmark_id, timeout, params_str)",
    "asv.runner:run_benchmark": "(benchmark, spawner, profile, selected_idx=None, extra_params=None, cwd=None, ",
    "asv.results:Results.add_result": "(self, benchmark, result, ",
}
"""What of asv is called below, and how its parameters begin."""

T = TypeVar("T")


class Servers:
    """A new process for each side, from which asv forks those that measure; or what starts them one by one."""

    def __init__(self, trial: Trial, first: int, resources: contextlib.ExitStack):
        check_places(PLACES, __name__)
        self.trial, self.first, self.suite = trial, first, trial.suite
        self.folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="virnucpro-ab-")))
        self.pool = resources.enter_context(ThreadPoolExecutor(2))
        self.spawners: list[Any] = []
        resources.callback(lambda: [spawner.close() for spawner in self.spawners])
        for env in self.suite.environments:
            launch_method = self.suite.conf.launch_method or "auto"
            self.spawners.append(runner.get_spawner(env, self.suite.conf.benchmark_dir, launch_method))
        self.on_both(lambda side: self.spawners[side].preimport())

    def on_both(self, call: Callable[[int], T]) -> list[T]:
        """Do the same for both sides at the same time."""
        return list(self.pool.map(call, (0, 1)))

    def measure(self, cell: Cell) -> None:
        """Add a pair to each benchmark of the cell."""
        folders = self.folders_for(cell)
        for name in cell.names:
            key = cell.key(name)
            if key in self.trial.reasons:
                continue
            in_turn = bool(self.suite.benchmarks[name].get("takes_turns")) and cell not in self.trial.sequential
            if in_turn:
                results = self.in_turn(name, cell, folders)
                if any(result.errcode for result in results):
                    print_progress(
                        f"{key} failed where BASE and HEAD ran at the same time: now one after the other"
                    )
                    self.trial.sequential.add(cell)
                    folders, in_turn = self.folders_for(cell), False
            if not in_turn:
                results = self.sequentially(name, cell, folders)
            self.trial.pairs[key].append(self.read(name, cell, results, in_turn))

    def in_turn(self, name: str, cell: Cell, folders: list[Path]) -> list[Any]:
        """Both sides' results, from processes that live at the same time."""
        with Turns((folders[0], folders[1])) as turns:
            running = [self.pool.submit(self.run, side, name, cell, folders, 2) for side in (0, 1)]
            turns.grant(self.first, lambda side: not running[side].done())
        return [each.result() for each in running]

    def sequentially(self, name: str, cell: Cell, folders: list[Path]) -> list[Any]:
        """Both sides' results."""
        results = {side: self.run(side, name, cell, folders) for side in (self.first, 1 - self.first)}
        return [results[0], results[1]]

    def run(self, side: int, name: str, cell: Cell, folders: list[Path], timeout_factor: int = 1) -> Any:
        """asv's result of one benchmark, all but the cell NaN; it may take `timeout_factor` times its timeout."""
        benchmark = self.suite.benchmarks[name]
        timeout = benchmark.get("timeout") or self.suite.environments[side]._default_benchmark_timeout
        benchmark = benchmark | {"timeout": timeout_factor * timeout}
        return runner.run_benchmark(
            benchmark, self.spawners[side], False, selected_idx={cell.index}, cwd=str(folders[side])
        )

    def folders_for(self, cell: Cell) -> list[Path]:
        """A new working directory for each side: a copy of what setup_cache left, where there is one."""
        folders = [Path(tempfile.mkdtemp(dir=self.folder)) for _ in SIDES]
        benchmark = self.suite.benchmarks[cell.names[0]]
        key = benchmark.get("setup_cache_key")
        if key is not None:
            if key not in self.trial.caches:
                self.trial.caches[key] = self.set_up(cell.names[0], benchmark)
            for cache, folder in zip(self.trial.caches[key], folders, strict=True):
                shutil.copytree(cache, folder, dirs_exist_ok=True)
        return folders

    def set_up(self, name: str, benchmark: dict[str, Any]) -> list[Path]:
        """Where asv has run setup_cache for each side."""
        timeout = benchmark.get("setup_cache_timeout") or self.suite.conf.default_benchmark_timeout

        def create(side: int) -> Path:
            made, said = self.spawners[side].create_setup_cache(name, timeout, "{}")
            if made is None:
                raise util.UserError(f"{SIDES[side]}: setup_cache of {name} failed:\n{said}")
            return Path(made)

        return self.on_both(create)

    def read(self, name: str, cell: Cell, results: list[Any], in_turn: bool) -> Pair:
        """The two values as asv makes them of samples; reason there is none goes to the trial's reasons."""
        values: list[float | None] = []
        reasons: list[str | None] = []
        benchmark, key = self.suite.benchmarks[name], cell.key(name)
        for result in results:
            kept = Results.unnamed()
            kept.add_result(benchmark, result)
            value = kept.get_result_value(name, benchmark["params"])[cell.index]
            measured = isinstance(value, (int, float)) and math.isfinite(value)
            values.append(float(value) if measured else None)
            note = notes.notes_of(benchmark, result).get(key, {})
            reasons.append(None if measured else note.get("skipped") or note.get("failed") or "it gave no number")
        if reasons[0] == reasons[1] and reasons[0]:
            self.trial.reasons[key] = reasons[0]
        elif any(reasons):
            self.trial.reasons[key] = "; ".join(
                f"{side}: {reason}" for side, reason in zip(SIDES, reasons, strict=True) if reason
            )
        samples = [result.samples[cell.index] or [] for result in results]
        if in_turn and len(samples[0]) == len(samples[1]) > 1 and min(map(min, samples)) > 0:
            return Pair.of_blocks(*samples)
        return Pair(*values)
