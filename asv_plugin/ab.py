"""Compare two commits in paired rounds: is HEAD worse than BASE?

    python -m asv_plugin.ab BASE HEAD [--rounds 5] [--bench REGEX] [--machine NAME] [--json FILE]

Each round measures both commits one right after the other, the first one in turn, so that drift cancels. HEAD may
be the word "worktree" for the uncommitted changes of tracked files. Nothing is written to results/. The exit code
is 1 where a cell is worse, else 0.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asv import util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.results import iter_results_for_machine
from tabulate import tabulate

from asv_plugin import notes
from asv_plugin.direction import Rule, benchmark_of, rules_of
from asv_plugin.paired import VERDICTS, Comparison, compare
from asv_plugin.repository import commit_hash, git

Values = dict[str, float]
"""``benchmark(parameters)`` to its value."""


class Trial:
    """The rounds of one comparison, in a folder of their own."""

    def __init__(self, folder: Path, config: Path, commits: tuple[str, str], machine: str | None, bench: str):
        self.folder, self.config, self.commits, self.machine, self.bench = folder, config, commits, machine, bench
        self.values: dict[int, dict[int, Values]] = defaultdict(dict)
        self.rules: dict[str, Rule] = {}

    def measure(self, number: int, side: int) -> None:
        """Let asv measure one side (0: BASE, 1: HEAD) of a round."""
        results = self.folder / f"{number}-{side}"
        conf = Config.load(str(self.config))
        conf.results_dir = str(results)
        # asv takes the folder of its configuration for the project's
        with tempfile.NamedTemporaryFile(prefix=".asv-ab-", suffix=".json", dir=self.config.parent) as config:
            util.write_json(config.name, vars(conf), Config.api_version)
            command = [sys.executable, "-m", "asv", "run", "--config", config.name, "--bench", self.bench]
            command += ["--machine", self.machine] if self.machine else []
            command += [f"{self.commits[side]}^!"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 2) or not results.exists():  # 2: a cell failed; the others count
            raise SystemExit(
                f"error: asv could not measure {self.commits[side][:8]}:\n{(done.stdout + done.stderr)[-2000:]}"
            )
        benchmarks = Benchmarks.load(conf)
        self.rules = rules_of(benchmarks)
        self.values[number][side] = read_values(results, benchmarks)

    def judged(self) -> list[Comparison]:
        """All cells that either side has measured, worst verdicts first."""
        rounds = list(self.values.values())
        cells = sorted({cell for each in rounds for side in each.values() for cell in side})
        found = []
        for cell in cells:
            pairs = [(each.get(0, {}).get(cell), each.get(1, {}).get(cell)) for each in rounds if len(each) == 2]
            found.append(compare(cell, pairs, self.rules.get(benchmark_of(cell), Rule())))
        return sorted(found, key=lambda each: VERDICTS.index(each.verdict))


def read_values(results: Path, benchmarks: dict[str, Any]) -> Values:
    """What one asv run recorded."""
    values: Values = {}
    for machine in results.iterdir():
        if machine.is_dir():
            for result in iter_results_for_machine(str(results), machine.name):
                for name in result.get_result_keys(benchmarks):
                    params = benchmarks[name]["params"]
                    cells = notes.product(params)
                    for cell, value in zip(cells, result.get_result_value(name, params), strict=True):
                        if isinstance(value, (int, float)) and math.isfinite(value):
                            values[notes.key(name, cell) if params else name] = float(value)
    return values


def render(found: list[Comparison], commits: tuple[str, str]) -> str:
    """The comparisons as a table."""
    rows = [
        [
            each.verdict,
            "n/a" if each.ratio is None else f"{each.ratio:.3f}",
            "n/a" if each.ratio is None else f"{each.low:.3f} to {each.high:.3f}",
            "n/a" if each.base is None else f"{each.base:.6g}",
            "n/a" if each.head is None else f"{each.head:.6g}",
            each.rounds,
            each.cell,
        ]
        for each in found
    ]
    headers = [
        "Verdict",
        "Ratio",
        "95 % interval",
        f"BASE {commits[0][:8]}",
        f"HEAD {commits[1][:8]}",
        "Rounds",
        "Cell",
    ]
    counts = ", ".join(f"{sum(each.verdict == verdict for each in found)} {verdict}" for verdict in VERDICTS)
    legend = "Ratio: HEAD over BASE. The interval is over rounds, each with new processes."
    return f"{tabulate(rows, headers, disable_numparse=True)}\n\n{legend}\n{counts}"


def resolve(name: str) -> str:
    """The full hash of a commit; "worktree" makes one of the uncommitted changes. Ends with the reason."""
    if name == "worktree":
        commit = git("stash", "create")
        if not commit:
            sys.exit("error: worktree: there are no uncommitted changes of tracked files")
        return commit
    return commit_hash(name)


def run_rounds(trial: Trial, rounds: int) -> bool:
    """Measure all rounds, saying how far it is and how long it will take; False where Ctrl-C cut it short."""
    start = time.monotonic()
    try:
        for number in range(rounds):
            for done, side in enumerate((0, 1) if number % 2 == 0 else (1, 0), start=2 * number):
                spent = time.monotonic() - start
                left = f", about {spent / done * (2 * rounds - done) / 60:.0f} min left" if done else ""
                which = f"{('BASE', 'HEAD')[side]} {trial.commits[side][:8]}"
                print(f"round {number + 1} of {rounds}: {which}{left}", file=sys.stderr, flush=True)
                trial.measure(number, side)
    except KeyboardInterrupt:
        print("\ninterrupted: this is what the complete rounds say", file=sys.stderr)
        return False
    return True


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
    parser.add_argument("--machine", help="as asv knows it (default: asv's own choice)")
    parser.add_argument("--json", type=Path, help="also write the comparisons to this file")
    parser.add_argument("--config", type=Path, default=Path("asv.conf.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: an interval needs at least 2")
    commits = (resolve(arguments.base), resolve(arguments.head))
    with tempfile.TemporaryDirectory(prefix="virnucpro-ab-") as folder:
        trial = Trial(Path(folder), arguments.config, commits, arguments.machine, arguments.bench)
        finished = run_rounds(trial, arguments.rounds)
        found = trial.judged()
    print(render(found, commits))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    if not finished:
        sys.exit(130)
    sys.exit(1 if any(each.verdict == "worse" for each in found) else 0)


if __name__ == "__main__":
    main()
