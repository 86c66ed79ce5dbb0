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
from asv_plugin.compare.suite import INTERRUPTED, SIDES, Cell, print_progress
from asv_plugin.compare.trial import Trial
from asv_plugin.compare.turns import Turns
from asv_plugin.compare.verdict import Pair, Reading
from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.runner:get_spawner": "(env, benchmark_dir, launch_method)",
    "asv.runner:Spawner.create_setup_cache": "(self, benchmark_id, timeout, params_str)",
    "asv.runner:run_benchmark": "(benchmark, spawner, profile, selected_idx=None, extra_params=None, cwd=None, ",
    "asv.runner:fail_benchmark": "(benchmark, stderr='', errcode=1)",
    "asv.results:Results.add_result": "(self, benchmark, result, ",
}
"""What of asv is called below, and how its parameters begin."""

T = TypeVar("T")


class Servers:
    """A new process for each side, from which asv forks those that measure; or what starts them one by one.

    A side whose process does not come up fails in all of its cells.
    """

    def __init__(self, trial: Trial, first: int, resources: contextlib.ExitStack):
        check_places(PLACES, __name__)
        self.trial, self.first, self.suite = trial, first, trial.suite
        self.folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="virnucpro-compare-")))
        self.spawners: dict[int, Any] = {}
        # Before the pool is waited for, so that what runs in it ends; and after it, what Ctrl-C caught starting
        resources.callback(self.close)
        self.pool = resources.enter_context(ThreadPoolExecutor(2))
        resources.callback(self.close)
        self.broken = self.on_both(self.start)

    def start(self, side: int) -> str:
        """Start a side's process, with its benchmarks imported; why it cannot run any, or nothing."""
        launch_method = self.suite.conf.launch_method or "auto"
        try:
            self.spawners[side] = runner.get_spawner(
                self.suite.environment(side), self.suite.conf.benchmark_dir, launch_method
            )
        except RuntimeError as error:  # asv's for a server that ended before it listened
            return str(error)
        imported, output = self.spawners[side].preimport()
        return "" if imported else output

    def close(self) -> None:
        """End the processes that there are."""
        while self.spawners:
            self.spawners.popitem()[1].close()

    def on_both(self, call: Callable[[int], T]) -> list[T]:
        """Do the same for both sides at the same time."""
        return list(self.pool.map(call, (0, 1)))

    def measure(self, cell: Cell) -> None:
        """Add a pair to each benchmark of the cell that is not decided yet."""
        folders, together = self.folders_for(cell), cell not in self.trial.sequential
        for name in cell.names:
            if self.trial.is_done(cell, name):
                continue
            key, beside = cell.key(name), None
            if together and self.suite.benchmarks[name].get("takes_turns"):
                pair = self.pair(name, cell, self.in_turn(name, cell, folders), in_turn=True)
                if not (pair.base.failed or pair.head.failed):
                    self.trial.pairs[key].append(pair)
                    continue
                print_progress(f"{key} failed where BASE and HEAD ran at the same time: now one after the other")
                folders, together, beside = self.folders_for(cell), False, pair
            pair = self.pair(name, cell, self.sequentially(name, cell, folders), in_turn=False)
            self.trial.pairs[key].append(pair)
            if beside and pair.complete:
                self.trial.sequential.add(cell)
                self.trial.suspects[key] = beside

    def in_turn(self, name: str, cell: Cell, folders: list[Path]) -> list[Any]:
        """Both sides' results, from processes that live at the same time."""
        with Turns((folders[0], folders[1])) as turns:
            running = [self.pool.submit(self.run, side, name, cell, folders, 2) for side in (0, 1)]
            turns.grant(self.first, lambda side: not running[side].done())
        return [each.result() for each in running]

    def sequentially(self, name: str, cell: Cell, folders: list[Path]) -> list[Any]:
        """Both sides' results, one after the other."""
        results = {side: self.run(side, name, cell, folders) for side in (self.first, 1 - self.first)}
        return [results[0], results[1]]

    def run(self, side: int, name: str, cell: Cell, folders: list[Path], timeout_factor: int = 1) -> Any:
        """asv's result of one benchmark, all but the cell NaN; it may take `timeout_factor` times its timeout."""
        benchmark = self.suite.benchmarks[name]
        broken = self.broken[side] or self.setup_cache_error(side, benchmark)
        if broken:
            return runner.fail_benchmark(benchmark, broken)
        timeout = benchmark.get("timeout") or self.suite.environment(side)._default_benchmark_timeout
        benchmark = benchmark | {"timeout": timeout_factor * timeout}
        try:
            return runner.run_benchmark(
                benchmark, self.spawners[side], False, selected_idx={cell.index}, cwd=str(folders[side])
            )
        except (util.UserError, OSError) as error:  # the server has died
            if str(error) == INTERRUPTED:
                raise
            self.broken[side] = f"asv's server process ended: {error}"
            return runner.fail_benchmark(benchmark, self.broken[side])

    def folders_for(self, cell: Cell) -> list[Path]:
        """A new working directory for each side: a copy of what setup_cache left, where there is one."""
        folders = [Path(tempfile.mkdtemp(dir=self.folder)) for _ in SIDES]
        for side, folder in enumerate(folders):
            self.trial.outputs.link(side, folder)
        benchmark = self.suite.benchmarks[cell.names[0]]
        key = benchmark.get("setup_cache_key")
        if key is not None:
            if key not in self.trial.caches:
                self.trial.caches[key] = self.set_up(cell.names[0], benchmark)
            for cache, folder in zip(self.trial.caches[key], folders, strict=True):
                if isinstance(cache, Path):
                    shutil.copytree(cache, folder, dirs_exist_ok=True)
        return folders

    def set_up(self, name: str, benchmark: dict[str, Any]) -> list[Path | str]:
        """Where asv has run setup_cache for each side, or what that said when it failed."""
        timeout = benchmark.get("setup_cache_timeout") or self.suite.conf.default_benchmark_timeout

        def create(side: int) -> Path | str:
            if self.broken[side]:
                return self.broken[side]
            made, said = self.spawners[side].create_setup_cache(name, timeout, "{}")
            return said if made is None else Path(made)

        return self.on_both(create)

    def setup_cache_error(self, side: int, benchmark: dict[str, Any]) -> str:
        """What a side's setup_cache said when it failed; nothing where it did not."""
        caches = self.trial.caches.get(str(benchmark.get("setup_cache_key")))
        cache = caches[side] if caches else ""
        return cache if isinstance(cache, str) else ""

    def pair(self, name: str, cell: Cell, results: list[Any], in_turn: bool) -> Pair:
        """What two results say; of blocks that were timed in turn the ratio is that of neighbours."""
        base, head = (self.outcome(name, cell, result) for result in results)
        samples = [result.samples[cell.index] or [] for result in results]
        if in_turn and len(samples[0]) == len(samples[1]) > 1 and min(map(min, samples)) > 0:
            return Pair.of_blocks(*samples)
        return Pair(base, head)

    def outcome(self, name: str, cell: Cell, result: Any) -> Reading:
        """The value as asv makes it of samples, or why there is none."""
        benchmark = self.suite.benchmarks[name]
        kept = Results.unnamed()
        kept.add_result(benchmark, result)
        value = kept.get_result_value(name, benchmark["params"])[cell.index]
        if isinstance(value, (int, float)) and math.isfinite(value):
            return Reading(float(value))
        found = notes.notes_of(benchmark, result)
        note = found.get(notes.key(name, cell.parameters)) or found.get(name) or {}
        if "skipped" in note:
            return Reading(reason=note["skipped"], skipped=True)
        return Reading(reason=note.get("failed") or "it gave no finite number")
