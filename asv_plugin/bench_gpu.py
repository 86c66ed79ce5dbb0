"""Record commits with the Python and the PyTorch that run this: for GPU machines without a package registry.

    python -m asv_plugin.bench_gpu COMMIT ... [--only throughput precision ...] [--machine NAME]

Each commit's virnucpro is taken from git into a folder of its own and measured by the newest benchmarks through
asv's ``-E existing``; a cell that finds another virnucpro imported fails. asv saves a file of benchmarks at a
time, and what is saved is skipped when this is started again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from asv import util
from asv.config import Config
from asv.environment import get_env_name
from asv.results import iter_results_for_machine

from asv_plugin import notes
from asv_plugin.repository import commit_hash, git
from benchmarks._esm2 import SOURCE
from benchmarks._protocol import VERSION

CELLS_FAILED = 2
"""asv's exit code where it recorded what there was."""

FILES = ("throughput", "precision", "engine", "pipeline", "scaling")
"""The files of benchmarks, what most want to know first."""


def check_out(commit: str, folder: Path) -> Path:
    """The measured program of a commit, without anything of asv's or git's beside it."""
    target = folder.resolve() / commit
    archive = target.with_suffix(".zip")
    if git("archive", "--output", str(archive), commit, "virnucpro") is None:
        sys.exit(f"error: commit {commit[:8]} has no folder virnucpro")
    shutil.unpack_archive(archive, target)
    return target


def recorded(results: Path, name: str) -> dict[str, dict[str, float]]:
    """Commit to file of benchmarks to the seconds that it took, where this Python recorded it on this machine."""
    found: dict[str, dict[str, float]] = {}
    if not (results / name).is_dir():
        return found
    for result in iter_results_for_machine(str(results), name):
        if result.env_name != environment():
            continue
        seconds = found.setdefault(result.commit_hash, {})
        failed = set()
        for benchmark in result.get_all_result_keys():
            file = benchmark.partition(".")[0]
            seconds[file] = seconds.get(file, 0.0) + (result.duration.get(benchmark) or 0.0)
            values = result.get_result_value(benchmark, result.get_result_params(benchmark))
            if None in (values or [None]) or result.benchmark_version.get(benchmark) != VERSION:
                failed.add(file)  # or is of an older protocol
        for file in failed:
            del seconds[file]
    return found


def require_the_same_pytorch(results: Path, name: str) -> None:
    """End the program where this Python's results are of another PyTorch: asv has one file for both."""
    for path in (results / name).glob(f"*-{environment()}.notes"):
        for note in notes.read(path).values():
            recorded = note.get("versions", {}).get("torch", torch.__version__)
            if recorded != torch.__version__:
                sys.exit(
                    f"error: {path} was recorded with PyTorch {recorded}, and {sys.executable} has "
                    f"{torch.__version__}: give this machine another name (MACHINE=...), or remove {path.parent}"
                )


def environment() -> str:
    """What asv calls this Python."""
    path = os.path.abspath(sys.executable)  # noqa: PTH100 -- as asv, which takes .. out and follows no link
    return get_env_name("existing", path.replace(os.sep, "_"), {}, {})


def expected_seconds(file: str, known: dict[str, dict[str, float]]) -> float | None:
    """The longest that a file of benchmarks took for any commit; None where none was recorded."""
    return max((seconds[file] for seconds in known.values() if file in seconds), default=None)


def registered(name: str | None) -> str:
    """Let asv know this machine; its name. In a process of its own: this one must not hold a part of the GPU."""
    command = [sys.executable, "-m", "asv_plugin.machine", *(["--name", name] if name else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout.strip().splitlines()[-1]


def plan(commits: list[str], files: list[str], known: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    """What is to be measured: commit and file of benchmarks."""
    return [(commit, file) for commit in commits for file in files if file not in known.get(commit, {})]


def announce(todo: list[tuple[str, str]], done: int, name: str, known: dict[str, dict[str, float]]) -> None:
    """Say what will be measured, and how long that will take."""
    times = [expected_seconds(file, known) for _, file in todo]
    unknown = sorted({file for (_, file), seconds in zip(todo, times, strict=True) if seconds is None})
    about = f"about {util.human_time(sum(filter(None, times)))} by what is recorded"
    if unknown:
        about += f", and as long as {', '.join(unknown)} may take, of which nothing is"
    skipped = f"; {done} recorded before, skipped" if done else ""
    print(f"{name}: {len(todo)} files of benchmarks to measure{skipped}; {about}", flush=True)


def measure(commit: str, file: str, source: Path, name: str) -> int:
    """Let asv measure one file of benchmarks; its exit code."""
    paths = filter(None, (str(source), os.environ.get("PYTHONPATH")))
    env = os.environ | {"ASV_PYTHONPATH": os.pathsep.join(paths), SOURCE: str(source)}
    asv_run = [sys.executable, "-m", "asv", "run", "--environment", f"existing:{sys.executable}"]
    what = ["--machine", name, "--set-commit-hash", commit, "--bench", rf"^{file}\."]
    return subprocess.run([*asv_run, *what], env=env, check=False).returncode


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", metavar="COMMIT", help="as git names them")
    parser.add_argument("--only", nargs="+", choices=FILES, default=list(FILES), help="these files of benchmarks")
    parser.add_argument("--machine", help="its name in results/ (default: after its GPU or CPU)")
    arguments = parser.parse_args()
    if git("rev-parse", "--show-toplevel") is None:
        sys.exit("error: this folder is not a git repository: clone the project, or a bundle of it, with git")
    commits = list(dict.fromkeys(commit_hash(name) for name in arguments.commits))
    name = registered(arguments.machine)
    try:
        results = Path(Config.load().results_dir)
        require_the_same_pytorch(results, name)
        known = recorded(results, name)
    except util.UserError as error:
        sys.exit(f"error: {error}")
    todo = plan(commits, arguments.only, known)
    announce(todo, len(commits) * len(arguments.only) - len(todo), name, known)
    failed = []
    with tempfile.TemporaryDirectory(prefix="virnucpro-") as folder:
        sources = {commit: check_out(commit, Path(folder)) for commit in dict.fromkeys(each for each, _ in todo)}
        for commit, file in todo:
            code = measure(commit, file, sources[commit], name)
            if code not in (0, CELLS_FAILED):
                sys.exit(f"error: asv recorded nothing of {file} at {commit[:8]} (exit code {code})")
            if code:
                failed.append(f"{file} at {commit[:8]}")
    if failed:
        sys.exit(f"error: cells failed in {', '.join(failed)}; they are measured again next time")


if __name__ == "__main__":
    main()
