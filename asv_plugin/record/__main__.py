"""Record commits with the Python and the PyTorch that run this: for GPU machines without a package registry.

    python -m asv_plugin.record COMMIT ... [--only throughput precision ...] [--bench REGEX] [--machine NAME]

Each commit's virnucpro is taken from git into a folder of its own and measured by the newest benchmarks through
asv's ``-E existing``; a cell that finds another virnucpro imported fails. asv saves a commit at a time, and a file
of benchmarks whose cells (those that --bench selects) are all saved is skipped when this is started again.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from asv import util
from asv.config import Config

import benchmarks
from asv_plugin.floor import too_old
from asv_plugin.machine import register
from asv_plugin.record.cells import (
    benchmark_files,
    discover,
    recorded,
    require_the_same_pytorch,
    selected,
    selector,
)
from asv_plugin.record.plan import plan, print_plan
from asv_plugin.repository import commit_hash, git
from asv_plugin.untrusted import for_terminal

CELLS_FAILED = 2
"""asv's exit code where it recorded what there was."""


def check_out(commit: str, folder: Path) -> Path:
    """The measured program of a commit, without anything of asv's or git's beside it."""
    target = folder.resolve() / commit
    archive = target.with_suffix(".zip")
    if git("archive", "--output", str(archive), commit, "virnucpro") is None:
        sys.exit(f"error: commit {commit[:8]} has no folder virnucpro")
    shutil.unpack_archive(archive, target)
    return target


def keep_pythonpath() -> None:
    """Let asv's processes see PYTHONPATH, which asv drops: it has their imports where nothing can be installed."""
    if os.environ.get("PYTHONPATH"):
        os.environ.setdefault("ASV_PYTHONPATH", os.environ["PYTHONPATH"])


def measure(commit: str, files: list[str], bench: str, source: Path, name: str) -> int:
    """Let asv measure the cells of these files of benchmarks that `bench` selects; its exit code."""
    paths = filter(None, (str(source), os.environ.get("PYTHONPATH")))
    env = os.environ | {"ASV_PYTHONPATH": os.pathsep.join(paths), benchmarks.SOURCE: str(source)}
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
    files = benchmark_files(Path(str(benchmarks.__file__)).parent)
    parser = argparse.ArgumentParser(
        prog="python -m asv_plugin.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("commits", nargs="+", metavar="COMMIT", help="as git names them")
    parser.add_argument("--only", action="extend", nargs="+", choices=files, help="these files of benchmarks")
    parser.add_argument(
        "--bench", type=regex, default=".", metavar="REGEX", help="these cells (default: all), as asv's --bench"
    )
    parser.add_argument("--machine", help="its name in results/ (default: after its GPU or CPU)")
    arguments = parser.parse_args()
    only = arguments.only or files
    commits = list(dict.fromkeys(commit_hash(name) for name in arguments.commits))
    keep_pythonpath()
    try:
        config = Config.load()
        reason = too_old(getattr(config, "oldest_commit", None), commits)
        if reason:
            sys.exit(f"error: {reason}")
        name = register(arguments.machine)
        results = Path(config.results_dir)
        require_the_same_pytorch(results, name)
        suite = discover(config)
        wanted = selected(config, suite, only, arguments.bench)
        known = recorded(results, name, wanted, suite)
    except util.UserError as error:
        sys.exit(f"error: {for_terminal(str(error), lines=True)}")
    asked = [file for file, cells in wanted.items() if cells]  # asv fails where it finds no cell
    if not asked:
        sys.exit(f"error: no cell of {', '.join(only)} matches {arguments.bench!r}")
    todo = plan(commits, asked, known)
    each = [file for some in todo.values() for file in some]
    print_plan(each, len(commits) * len(asked) - len(each), name, known)
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
