"""Record commits with the Python and the PyTorch that run this: for GPU machines without a package registry.

    python -m asv_plugin.bench_gpu COMMIT ... [--only throughput precision ...] [--bench REGEX] [--machine NAME]

Each commit's virnucpro is taken from git into a folder of its own and measured by the newest benchmarks through
asv's ``-E existing``; a cell that finds another virnucpro imported fails. asv saves a commit at a time, and a file
of benchmarks whose cells (those that --bench selects) are all saved is skipped when this is started again. Which
cells there are is read from results/benchmarks.json; `asv run --bench just-discover` writes it anew.
"""

import argparse
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from asv import util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.environment import get_env_name
from asv.results import Results, iter_results_for_machine

from asv_plugin import asked, notes
from asv_plugin.machine import register
from asv_plugin.repository import commit_hash, git
from benchmarks import SOURCE, VERSION

CELLS_FAILED = 2
"""asv's exit code where it recorded what there was."""

FILES = ("throughput", "precision", "engine", "pipeline", "scaling")
"""The files of benchmarks, what most want to know first."""


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


Known = dict[str, dict[str, Recorded]]
"""Commit to file of benchmarks to what is recorded."""


def check_out(commit: str, folder: Path) -> Path:
    """The measured program of a commit, without anything of asv's or git's beside it."""
    target = folder.resolve() / commit
    archive = target.with_suffix(".zip")
    if git("archive", "--output", str(archive), commit, "virnucpro") is None:
        sys.exit(f"error: commit {commit[:8]} has no folder virnucpro")
    shutil.unpack_archive(archive, target)
    return target


def selector(file: str, bench: str) -> str:
    """A --bench of asv's for the cells of one file of benchmarks that `bench` selects.

    asv searches ``file.Class.track_metric('parameter', 'another')`` and takes what any of several --bench finds.
    """
    return rf"^(?={file}\.).*(?:{bench})"


def selected(config: Config, files: list[str], bench: str) -> dict[str, Cells | None]:
    """File of benchmarks to the cells that asv will measure; None where asv has no list of its benchmarks yet."""
    try:
        everything = Benchmarks.load(config)
    except util.UserError:
        return dict.fromkeys(files)
    listed = {name.partition(".")[0] for name in everything}
    cells: dict[str, Cells] = {file: set() for file in files if file in listed}
    found = Benchmarks.load(config, regex=[selector(file, bench) for file in files])
    for name, cell in asked.selected(found):
        cells[name.partition(".")[0]].add((name, cell))
    return {file: cells.get(file) for file in files}


def recorded(results: Path, name: str, wanted: dict[str, Cells | None]) -> Known:
    """What this Python recorded on this machine of the files of benchmarks that are asked for."""
    found: Known = {}
    if not (results / name).is_dir():
        return found
    for result in iter_results_for_machine(str(results), name):
        if result.env_name != environment():
            continue
        why = notes.read(notes.notes_path(results / result._filename))
        of_commit = found.setdefault(result.commit_hash, {})
        for file, cells in wanted.items():
            outcomes = outcomes_of(result, file, why)
            if outcomes:
                of_commit[file] = judge(outcomes, cells, result.duration)
    return found


def judge(outcomes: dict[Key, float], wanted: Cells | None, duration: dict[str, float]) -> Recorded:
    """What `outcomes_of` a file, and asv's seconds of each benchmark, say of the cells that are asked for."""
    seconds = sum(duration.get(benchmark) or 0.0 for benchmark in {benchmark for benchmark, _ in outcomes})
    measured = cell_count(key for key, value in outcomes.items() if not math.isnan(value))
    to_measure = cell_count(key for key in wanted or () if not math.isnan(outcomes.get(key, 0.0)))
    return Recorded(wanted is not None and wanted <= outcomes.keys(), seconds * to_measure / max(measured, 1))


def outcomes_of(result: Results, file: str, why: notes.Notes) -> dict[Key, float]:
    """The cells of a file that were measured at the present protocol, and with NaN those that were skipped.

    asv has NaN, too, for cells that it was not asked for; only those that were skipped have a reason.
    """
    found = {}
    for benchmark in result.get_all_result_keys():
        if benchmark.startswith(f"{file}.") and result.benchmark_version.get(benchmark) == VERSION:
            params = result.get_result_params(benchmark)
            values = result.get_result_value(benchmark, params) or []
            for cell, value in zip(notes.product(params), values, strict=False):
                skipped = not params or "skipped" in why.get(notes.key(benchmark, cell), {})
                if value is not None and (not math.isnan(value) or skipped):
                    found[benchmark, cell] = value
    return found


def cell_count(keys: Iterable[Key]) -> int:
    """How many measurements these are: one serves all metrics of a class."""
    return len({(benchmark.rpartition(".")[0], cell) for benchmark, cell in keys})


def require_the_same_pytorch(results: Path, name: str) -> None:
    """End the program where this Python's results are of another PyTorch: asv has one file for both."""
    for path in (results / name).glob(f"*-{environment()}.notes"):
        for recorded in {note["versions"]["torch"] for note in notes.read(path).values() if "versions" in note}:
            if recorded != pytorch():
                sys.exit(
                    f"error: {path} was recorded with PyTorch {recorded}, and {sys.executable} has "
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


def expected_seconds(file: str, known: Known) -> float | None:
    """The longest that a file of benchmarks takes by any commit's record; None where none has it.

    What is reckoned from a part counts only where no commit has all: of the rest some cells may be skipped. A
    commit of which all were does not count.
    """
    records = [files[file] for files in known.values() if file in files and files[file].seconds]
    complete = [record for record in records if record.complete]
    return max((record.seconds for record in complete or records), default=None)


def plan(commits: list[str], files: list[str], known: Known) -> dict[str, list[str]]:
    """What is to be measured: commit to files of benchmarks."""
    missing = Recorded(False, 0.0)
    todo = {
        commit: [file for file in files if not known.get(commit, {}).get(file, missing).complete]
        for commit in commits
    }
    return {commit: some for commit, some in todo.items() if some}


def announce(todo: list[str], done: int, name: str, known: Known) -> None:
    """Say which files of benchmarks will be measured, one for each commit, and how long that will take."""
    times = [expected_seconds(file, known) for file in todo]
    unknown = sorted({file for file, seconds in zip(todo, times, strict=True) if seconds is None})
    about = f"about {util.human_time(sum(filter(None, times)))} by what is recorded"
    if unknown:
        about += f", and as long as {', '.join(unknown)} may take, of which nothing is"
    skipped = f"; {done} recorded before, skipped" if done else ""
    print(f"{name}: {len(todo)} files of benchmarks to measure{skipped}; {about}", flush=True)


def measure(commit: str, files: list[str], bench: str, source: Path, name: str) -> int:
    """Let asv measure the cells of these files of benchmarks that `bench` selects; its exit code."""
    paths = filter(None, (str(source), os.environ.get("PYTHONPATH")))
    env = os.environ | {"ASV_PYTHONPATH": os.pathsep.join(paths), SOURCE: str(source)}
    asv_run = [sys.executable, "-m", "asv", "run", "--environment", f"existing:{sys.executable}"]
    what = ["--machine", name, "--set-commit-hash", commit]
    selectors = [word for file in files for word in ("--bench", selector(file, bench))]
    return subprocess.run([*asv_run, *what, *selectors], env=env, check=False).returncode


def regex(bench: str) -> str:
    """What --bench was given, if it is a regular expression that can stand in `selector`'s."""
    try:
        re.compile(bench)
        re.compile(selector("", bench))
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{bench!r} is no regular expression: {error}") from None
    return bench


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", metavar="COMMIT", help="as git names them")
    parser.add_argument("--only", nargs="+", choices=FILES, default=list(FILES), help="these files of benchmarks")
    parser.add_argument(
        "--bench", type=regex, default=".", metavar="REGEX", help="these cells (default: all), as asv's --bench"
    )
    parser.add_argument("--machine", help="its name in results/ (default: after its GPU or CPU)")
    arguments = parser.parse_args()
    if git("rev-parse", "--show-toplevel") is None:
        sys.exit("error: this folder is not a git repository: clone the project, or a bundle of it, with git")
    commits = list(dict.fromkeys(commit_hash(name) for name in arguments.commits))
    try:
        name = register(arguments.machine)
        config = Config.load()
        results = Path(config.results_dir)
        require_the_same_pytorch(results, name)
        wanted = selected(config, arguments.only, arguments.bench)
        known = recorded(results, name, wanted)
    except util.UserError as error:
        sys.exit(f"error: {error}")
    files = [file for file, cells in wanted.items() if cells != set()]  # asv fails where it finds no cell
    if not files:
        sys.exit(
            f"error: no cell of {', '.join(arguments.only)} matches {arguments.bench!r}; that is by "
            f"{results / 'benchmarks.json'}, which asv run --bench just-discover makes anew"
        )
    todo = plan(commits, files, known)
    each = [file for some in todo.values() for file in some]
    announce(each, len(commits) * len(files) - len(each), name, known)
    failed = []
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        sources = {commit: check_out(commit, Path(folder)) for commit in todo}
        for commit, some in todo.items():
            code = measure(commit, some, arguments.bench, sources[commit], name)
            if code not in (0, CELLS_FAILED):
                sys.exit(f"error: asv recorded nothing of {', '.join(some)} at {commit[:8]} (exit code {code})")
            if code:
                failed.append(f"{', '.join(some)} at {commit[:8]}")
    if failed:
        sys.exit(f"error: cells failed in {', '.join(failed)}; they are measured again next time")


if __name__ == "__main__":
    main()
