"""What is compared: both commits, each built in an environment of its own, and the cells to run against them."""

import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asv import environment, util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.plugin_manager import plugin_manager
from asv.repo import get_repo

from asv_plugin import notes
from asv_plugin.compare.packages import Packages, differences, packages
from asv_plugin.floor import too_old
from asv_plugin.hooks import selection
from asv_plugin.hooks.places import check_places
from asv_plugin.untrusted import for_terminal

PLACES = {
    "asv.environment:get_environments": "(conf, env_specifiers, ",
    "asv.environment:Environment.create": "(self)",
    "asv.environment:Environment.install_project": "(self, conf, repo, commit_hash)",
    "asv.benchmarks:Benchmarks.discover": "(conf, repo, environments, commit_hash, regex=None, ",
}
"""What of asv is called below, and how its parameters begin."""

SIDES = ("BASE", "HEAD")

INTERRUPTED = "Interrupted."
"""The words of the error that asv makes of Ctrl-C."""


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


class UsageError(Exception):
    """What was asked for cannot be compared; the message says what to change."""


class BuildError(Exception):
    """A commit that cannot be built, or not installed; `side` is 0 for BASE and 1 for HEAD."""

    def __init__(self, side: int, reason: str):
        super().__init__(f"{SIDES[side]} does not build: {reason}")
        self.side = side


class Suite:
    """Both commits, each built in an environment of its own, and the benchmarks to run against them.

    Which of the two environments holds BASE can be swapped: they differ in what an installation leaves to chance,
    and none is to be always HEAD's. `packages` of both sides are known by `swapped`.
    """

    def __init__(self, config: Path, commits: tuple[str, str], bench: str):
        check_places(PLACES, __name__)
        self.commits = commits
        self.conf = load_config(config)
        reason = too_old(getattr(self.conf, "oldest_commit", None), commits)
        if reason:
            raise UsageError(reason)
        for plugin in self.conf.plugins:
            plugin_manager.import_plugin(plugin)
        self.repo = get_repo(self.conf)
        # The second is kept beside the one that `asv run` uses, so that another comparison need not install again
        folders = (self.conf.env_dir, f"{self.conf.env_dir}-head")
        self.environments = [self._environment(config, folder) for folder in folders]
        for each in self.environments:
            each.create()
        self.swapped = False
        self.packages: dict[bool, list[Packages]] = {}
        self._build()
        self.benchmarks = self._discover(bench)
        self.install(swapped=False)  # asv has tried BASE, too, if it could not discover benchmarks with HEAD
        if not self.benchmarks:
            raise UsageError(f"no benchmark has a cell that matches {bench!r}")

    def _environment(self, config: Path, folder: str) -> Any:
        self.conf.env_dir = folder
        found = list(environment.get_environments(self.conf, None))
        if len(found) != 1 or not found[0].can_install_project():
            raise UsageError(
                f"{config} describes {len(found)} environments, and commits are compared in one that they can "
                "be installed in: write another configuration and name it with --config"
            )
        return found[0]

    def _build(self) -> None:
        """Build and install both commits. Raises BuildError, HEAD's where neither builds."""
        failed = {}
        for side, commit in enumerate(self.commits):
            print_progress(f"building {SIDES[side]} {commit[:8]}")
            try:
                self.environments[side].install_project(self.conf, self.repo, commit)
            except (util.ProcessError, util.UserError) as error:
                if str(error) == INTERRUPTED:
                    raise
                failed[side] = str(error)
        if failed:
            raise BuildError(*max(failed.items()))

    def _discover(self, bench: str) -> Benchmarks:
        found = Benchmarks.discover(self.conf, self.repo, self.environments[::-1], self.commits[::-1], regex=bench)
        # Here each cell has a folder of its own, where the others that asv was asked for are of no use
        os.environ.pop(selection.VARIABLE, None)
        return found

    def install(self, swapped: bool) -> None:
        """Let each environment hold its commit: BASE in the first, or in the second one where `swapped`."""
        self.swapped = swapped
        for side, commit in enumerate(self.commits):
            self.environment(side).install_project(self.conf, self.repo, commit)
        if swapped not in self.packages:
            self.packages[swapped] = [packages(self.environment(side), self.conf.project) for side in (0, 1)]
            self._say_what_differs()

    def _say_what_differs(self) -> None:
        """Before the first round, which packages differ between the sides; later, between the environments."""
        base, head = self.packages[False]
        if not self.swapped:
            between_sides = differences(base, head, SIDES)
            if between_sides:
                print_progress(f"packages differ: {between_sides}")
            return
        folders = [Path(each._env_dir).name for each in self.environments]
        between_environments = differences(base, self.packages[True][0], folders)
        if between_environments:
            print_progress(f"warning: with one commit the environments differ: {between_environments}")

    def environment(self, side: int) -> Any:
        """The environment that holds BASE (0) or HEAD (1)."""
        return self.environments[side ^ self.swapped]

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


def load_config(path: Path) -> Config:
    """asv's configuration, from a file in the current directory."""
    try:
        return Config.load(path.name)
    except util.UserError as error:
        raise UsageError(f"{path}: {error}") from None


def print_progress(text: str) -> None:
    """Progress, beside what is printed."""
    print(for_terminal(text, lines=True), file=sys.stderr, flush=True)
