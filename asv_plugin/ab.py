"""Compare two commits in paired rounds: is HEAD worse than BASE?

    python -m asv_plugin.ab BASE HEAD [--rounds 5] [--bench REGEX] [--factor 1.03] [--json FILE]

In each round new processes measure every cell of both commits. Those of a benchmark that takes turns live at the
same time and time their blocks in turn; those of another run one right after the other, the first one in turn.
HEAD may be the word "worktree" for the uncommitted changes of tracked files. Nothing is written to results/. The
exit code is 1 where a cell is worse, else 0.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asv import environment, runner, util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.plugin_manager import plugin_manager
from asv.repo import get_repo
from asv.results import Results
from tabulate import tabulate

from asv_plugin import asked, notes
from asv_plugin.direction import check_places, rules_of, with_factor
from asv_plugin.paired import VERDICTS, Comparison, Pair, compare
from asv_plugin.repository import commit_hash, git
from asv_plugin.turns import SOCKET, VARIABLE, Turns

PLACES = {
    "asv.environment:get_environments": "(conf, env_specifiers, ",
    "asv.environment:Environment.create": "(self)",
    "asv.environment:Environment.install_project": "(self, conf, repo, commit_hash)",
    "asv.benchmarks:Benchmarks.discover": "(conf, repo, environments, commit_hash, regex=None, ",
    "asv.runner:get_spawner": "(env, benchmark_dir, launch_method)",
    "asv.runner:Spawner.create_setup_cache": "(self, benchmark_id, timeout, params_str)",
    "asv.runner:run_benchmark": "(benchmark, spawner, profile, selected_idx=None, extra_params=None, cwd=None, ",
    "asv.results:Results.add_result": "(self, benchmark, result, ",
}
"""What of asv is called below, and how its parameters begin."""

SIDES = ("BASE", "HEAD")

PAIRS_IN_A_ROUND = 4
"""How often a round starts new processes for what takes turns. On two shared cores two processes of one program,
and all that are forked from them, differ by several per cent for as long as they live: many short-lived pairs say
more than a few long ones."""

LEGEND = "Ratio: HEAD over BASE. The interval is over pairs of processes; {}."

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One combination of parameters, which `names` (benchmarks that share a setup_cache) measure."""

    names: tuple[str, ...]
    index: int
    parameters: tuple[str, ...]

    def key(self, name: str) -> str:
        """The cell of one benchmark, as asv writes it."""
        return notes.key(name, self.parameters) if self.parameters else name

    def __str__(self) -> str:
        return ", ".join(self.parameters) or ", ".join(self.names)


class Suite:
    """Both commits, each built in an environment of its own, and the benchmarks to run against them."""

    def __init__(self, config: Path, commits: tuple[str, str], bench: str):
        self.conf = Config.load(config.name)
        for plugin in self.conf.plugins:
            plugin_manager.import_plugin(plugin)
        repo = get_repo(self.conf)
        self.environments = []
        # HEAD's is kept beside the one that `asv run` uses, so that a second comparison need not install again
        for side, env_dir in enumerate((self.conf.env_dir, f"{self.conf.env_dir}-head")):
            self.conf.env_dir = env_dir
            found = list(environment.get_environments(self.conf, None))
            if len(found) != 1 or not found[0].can_install_project():
                raise util.UserError(
                    f"{config} describes {len(found)} environments, and commits are compared in one that they can "
                    "be installed in: write another configuration and name it with --config"
                )
            say(f"building {SIDES[side]} {commits[side][:8]} in {env_dir}")
            found[0].create()
            found[0].install_project(self.conf, repo, commits[side])
            self.environments += found
        self.benchmarks = Benchmarks.discover(self.conf, repo, [self.environments[1]], [commits[1]], regex=bench)
        os.environ.pop(asked.VARIABLE, None)  # here each cell has a folder of its own, where others are of no use
        if not self.benchmarks:
            raise util.UserError(f"no benchmark has a cell that matches {bench!r}")

    def cells(self) -> list[Cell]:
        """The selected cells, all benchmarks of one together."""
        groups = defaultdict(list)
        for name, benchmark in sorted(self.benchmarks.items()):
            groups[benchmark.get("setup_cache_key"), json.dumps(benchmark["params"])].append(name)
        found = []
        for names in groups.values():
            selected = {name: self.benchmarks.benchmark_selection.get(name) for name in names}
            for index, parameters in enumerate(notes.product(self.benchmarks[names[0]]["params"])):
                these = tuple(name for name in names if selected[name] is None or index in selected[name])
                if these:
                    found.append(Cell(these, index, parameters))
        return found


@dataclass
class Trial:
    """What one comparison has found.

    `pairs` and the reason why there is none, by `Cell.key`; the cells that fail where both sides run at the same
    time; and both sides' folders that setup_cache has left, by its key.
    """

    suite: Suite
    pairs: dict[str, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[str, str] = field(default_factory=dict)
    alone: set[Cell] = field(default_factory=set)
    caches: dict[str, list[Path]] = field(default_factory=dict)

    def close(self) -> None:
        """Remove what setup_cache has left."""
        for folder in itertools.chain.from_iterable(self.caches.values()):
            shutil.rmtree(folder, ignore_errors=True)

    def given_up(self, cell: Cell) -> bool:
        """Whether all of the cell has failed or is skipped: it would be in the next round, too."""
        return all(cell.key(name) in self.reasons for name in cell.names)

    def takes_turns(self, cell: Cell) -> bool:
        """Whether the cell can be measured by two processes at the same time."""
        benchmarks = self.suite.benchmarks
        return cell not in self.alone and any(benchmarks[name].get("takes_turns") for name in cell.names)

    def judged(self, factor: float | None = None) -> list[Comparison]:
        """All cells that were tried, worst verdicts first; `factor` replaces each benchmark's own, as for asv."""
        rules = rules_of(self.suite.benchmarks)
        if factor is not None:
            rules = {name: with_factor(rule, factor) for name, rule in rules.items()}
        found = [
            compare(cell.key(name), self.pairs[cell.key(name)], rules[name])
            for cell in self.suite.cells()
            for name in cell.names
            if cell.key(name) in self.pairs
        ]
        return sorted(found, key=lambda each: VERDICTS.index(each.verdict))


class Servers:
    """A new process for each side, from which asv forks those that measure; or what starts them one by one."""

    def __init__(self, trial: Trial, first: int, resources: contextlib.ExitStack):
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
            in_turn = bool(self.suite.benchmarks[name].get("takes_turns")) and cell not in self.trial.alone
            if in_turn:
                results = self.in_turn(name, cell, folders)
                if any(result.errcode for result in results):
                    say(f"{key} failed where BASE and HEAD ran at the same time: now one after the other")
                    self.trial.alone.add(cell)
                    folders, in_turn = self.folders_for(cell), False
            if not in_turn:
                results = self.one_after_the_other(name, cell, folders)
            self.trial.pairs[key].append(self.read(name, cell, results, in_turn))

    def in_turn(self, name: str, cell: Cell, folders: list[Path]) -> list[Any]:
        """Both sides' results, from processes that live at the same time."""
        with Turns((folders[0], folders[1])) as turns:
            running = [self.pool.submit(self.run, side, name, cell, folders, 2) for side in (0, 1)]
            turns.play(self.first, lambda side: not running[side].done())
        return [each.result() for each in running]

    def one_after_the_other(self, name: str, cell: Cell, folders: list[Path]) -> list[Any]:
        """Both sides' results."""
        results = {side: self.run(side, name, cell, folders) for side in (self.first, 1 - self.first)}
        return [results[0], results[1]]

    def run(self, side: int, name: str, cell: Cell, folders: list[Path], patience: int = 1) -> Any:
        """asv's result of one benchmark, all but the cell NaN; it may take `patience` times its timeout."""
        benchmark = self.suite.benchmarks[name]
        timeout = benchmark.get("timeout") or self.suite.environments[side]._default_benchmark_timeout
        benchmark = benchmark | {"timeout": patience * timeout}
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
        """The two values as asv makes them of samples; why there is none goes to the trial's reasons."""
        values: list[float | None] = []
        whys: list[str | None] = []
        benchmark, key = self.suite.benchmarks[name], cell.key(name)
        for result in results:
            kept = Results.unnamed()
            kept.add_result(benchmark, result)
            value = kept.get_result_value(name, benchmark["params"])[cell.index]
            measured = isinstance(value, (int, float)) and math.isfinite(value)
            values.append(float(value) if measured else None)
            note = notes.notes_of(benchmark, result).get(key, {})
            whys.append(None if measured else note.get("skipped") or note.get("failed") or "it gave no number")
        if whys[0] == whys[1] and whys[0]:
            self.trial.reasons[key] = whys[0]
        elif any(whys):
            self.trial.reasons[key] = "; ".join(
                f"{side}: {why}" for side, why in zip(SIDES, whys, strict=True) if why
            )
        samples = [result.samples[cell.index] or [] for result in results]
        if in_turn and len(samples[0]) == len(samples[1]) > 1 and min(map(min, samples)) > 0:
            return Pair.of_blocks(*samples)
        return Pair(*values)


def run_rounds(trial: Trial, rounds: int) -> bool:
    """Measure all rounds, saying how far it is and how long it will take; False where Ctrl-C cut it short."""
    start, cells = time.monotonic(), trial.suite.cells()
    pairs = rounds * PAIRS_IN_A_ROUND
    try:
        for pair in range(pairs):
            number, again = divmod(pair, PAIRS_IN_A_ROUND)
            these = [cell for cell in cells if not trial.given_up(cell) and (not again or trial.takes_turns(cell))]
            left = (time.monotonic() - start) / pair * (pairs - pair) / 60 if pair else 0
            about = f" (about {left:.0f} min left)" if pair else ""
            with contextlib.ExitStack() as resources:
                servers = Servers(trial, (number + again) % 2, resources)
                for at, cell in enumerate(these, start=1):
                    part = f"pair {again + 1} of {PAIRS_IN_A_ROUND}, cell {at} of {len(these)}"
                    say(f"round {number + 1} of {rounds}, {part}: {cell}{about}")
                    with interrupting(servers):
                        servers.measure(cell)
    except KeyboardInterrupt:
        say("\ninterrupted: this is what the complete pairs say")
        return False
    finally:
        trial.close()
    return True


@contextlib.contextmanager
def interrupting(servers: Servers) -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt, of which asv makes an error of its own; its servers then say nothing."""
    try:
        yield
        if PRESSED:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, util.UserError) as error:
        if isinstance(error, util.UserError) and str(error) != "Interrupted.":
            raise
        for spawner in servers.spawners:
            spawner.interrupt()
        raise KeyboardInterrupt from None


PRESSED: list[bool] = []
"""Not empty after Ctrl-C. Python loses a KeyboardInterrupt that it raises where a destructor runs.

No threading.Event: a second Ctrl-C inside its `set` would wait for the lock that the first one holds.
"""


def press(*_: object) -> None:
    """The handler of Ctrl-C."""
    PRESSED.append(True)
    raise KeyboardInterrupt


def say(text: str) -> None:
    """Progress, beside what is printed."""
    print(text, file=sys.stderr, flush=True)


def render(
    found: list[Comparison], reasons: dict[str, str], commits: tuple[str, str], factor: float | None = None
) -> str:
    """The comparisons as a table, and why others are missing; `factor` as for `Trial.judged`."""
    rows = [
        [
            each.verdict,
            f"{each.ratio:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
            f"{each.base:.6g}",
            f"{each.head:.6g}",
            each.pairs,
            each.cell,
        ]
        for each in found
        if each.ratio is not None
    ]
    base, head = (commit[:8] for commit in commits)
    headers = ["Verdict", "Ratio", "95 % interval", f"BASE {base}", f"HEAD {head}", "Pairs", "Cell"]
    parts = [tabulate(rows, headers, disable_numparse=True)] if rows else []
    missing = defaultdict(list)
    for each in found:
        if each.ratio is None:
            missing[reasons.get(each.cell, "fewer than two pairs")].append(each.cell)
    if missing:
        lines = [f"- {why} ({some(cells)})" for why, cells in missing.items()]
        parts.append("\n".join(["Not measured:", *lines]))
    counts = ", ".join(f"{sum(each.verdict == verdict for each in found)} {verdict}" for verdict in VERDICTS)
    threshold = f"a change is a factor of {factor:g}" if factor else "a change is each benchmark's own factor"
    return "\n\n".join([*parts, f"{LEGEND.format(threshold)}\n{counts}"])


def some(cells: list[str]) -> str:
    """Cells by name, or how many where they are more than three."""
    return "; ".join(cells) if len(cells) <= 3 else f"{len(cells)} cells"


def resolve(name: str) -> str:
    """The full hash of a commit; "worktree" makes one of the uncommitted changes. Ends with the reason."""
    if name == "worktree":
        commit = git("stash", "create")
        if not commit:
            sys.exit("error: worktree: there are no uncommitted changes of tracked files")
        return commit
    return commit_hash(name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s BASE HEAD [options]",
    )
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("head", metavar="HEAD", help='the commit to judge, or "worktree"')
    parser.add_argument("--rounds", type=int, default=5, help="at least 2 (default: %(default)s)")
    parser.add_argument("--bench", default=".", help="regular expression of cells (default: all)")
    parser.add_argument(
        "--factor", type=float, help="what counts as a change (default: each benchmark's own, 1.05 for a speed)"
    )
    parser.add_argument("--json", type=Path, help="also write the comparisons to this file")
    parser.add_argument("--config", type=Path, default=Path("asv.conf.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: an interval needs at least 2")
    if arguments.factor is not None and not arguments.factor >= 1:
        parser.error("--factor: a change is a ratio of at least 1, as 1.03")
    output = arguments.json and arguments.json.absolute()
    config = arguments.config.absolute()
    os.chdir(config.parent)  # which asv takes for the project's folder
    os.environ[VARIABLE] = SOCKET
    signal.signal(signal.SIGINT, press)
    commits = (resolve(arguments.base), resolve(arguments.head))
    try:
        check_places(PLACES, "asv_plugin.ab")
        trial = Trial(Suite(config, commits, arguments.bench))
        finished = run_rounds(trial, arguments.rounds)
    except (util.UserError, util.ProcessError) as error:
        sys.exit(f"error: {error}")
    found = trial.judged(arguments.factor)
    print(render(found, trial.reasons, commits, arguments.factor))
    if output:
        output.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    if not finished:
        sys.exit(130)
    sys.exit(1 if any(each.verdict == "worse" for each in found) else 0)


if __name__ == "__main__":
    main()
