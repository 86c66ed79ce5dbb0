"""What is compared: both commits, each built in an environment of its own, and the cells to run against them."""

import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from asv import environment, util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.plugin_manager import plugin_manager
from asv.repo import get_repo

from asv_plugin import notes
from asv_plugin.hooks import selection
from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.environment:get_environments": "(conf, env_specifiers, ",
    "asv.environment:Environment.create": "(self)",
    "asv.environment:Environment.install_project": "(self, conf, repo, commit_hash)",
    "asv.benchmarks:Benchmarks.discover": "(conf, repo, environments, commit_hash, regex=None, ",
}
"""What of asv is called below, and how its parameters begin."""

SIDES = ("BASE", "HEAD")


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
        check_places(PLACES, __name__)
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
            print_progress(f"building {SIDES[side]} {commits[side][:8]} in {env_dir}")
            found[0].create()
            found[0].install_project(self.conf, repo, commits[side])
            self.environments += found
        self.benchmarks = Benchmarks.discover(self.conf, repo, [self.environments[1]], [commits[1]], regex=bench)
        os.environ.pop(
            selection.VARIABLE, None
        )  # here each cell has a folder of its own, where others are of no use
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


def print_progress(text: str) -> None:
    """Progress, beside what is printed."""
    print(text, file=sys.stderr, flush=True)
