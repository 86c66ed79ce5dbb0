"""Compare two commits in paired rounds: is HEAD worse than BASE?

    python -m asv_plugin.compare BASE HEAD [--rounds 5] [--bench REGEX] [--factor 1.03] [--strict] [--json FILE]

In each round new processes measure every cell of both commits. Those of a benchmark that takes turns live at the
same time and time their blocks in turn; those of another run one right after the other, the first one in turn.
HEAD may be the word "worktree" for the uncommitted changes of tracked files. Nothing is written to results/.

Exit codes (1 is an error of the program itself):
{codes}
"""

import argparse
import json
import os
import re
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from asv import util

from asv_plugin.compare.exit_code import MEANINGS, Code, exit_code, in_words
from asv_plugin.compare.packages import Packages
from asv_plugin.compare.report import render
from asv_plugin.compare.rounds import INTERRUPTED, on_sigint, run_rounds
from asv_plugin.compare.suite import BuildError, Suite, UsageError, print_progress
from asv_plugin.compare.trial import Trial
from asv_plugin.compare.turns import SOCKET, VARIABLE
from asv_plugin.compare.verdict import Comparison
from asv_plugin.outputs import Difference
from asv_plugin.repository import find_commit, git, no_repository, unknown
from asv_plugin.untrusted import for_terminal


def resolve(name: str) -> str:
    """The full hash of a commit, "worktree" being one of the uncommitted changes; UsageError if there is none."""
    if name == "worktree":
        # git refuses to where nobody has said who they are
        who = ("-c", "user.name=make ab", "-c", "user.email=ab@localhost")
        commit = git(*who, "stash", "create")
        if not commit:
            raise UsageError(no_repository() or "worktree: there are no uncommitted changes of tracked files")
        return commit
    commit = find_commit(name)
    if commit is None:
        raise UsageError(unknown(name))
    return commit


def say_if_equal(commits: tuple[str, str]) -> None:
    """Say that a commit is compared with itself, which shows noise, and where uncommitted changes may be meant."""
    if commits[0] != commits[1]:
        return
    text = f"BASE and HEAD are the same commit, {commits[0][:8]}: this compares it with itself"
    if git("status", "--porcelain", "--untracked-files=no"):
        text += "; for the uncommitted changes use HEAD=worktree"
    print_progress(text)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    codes = "\n".join(f"{code:5d}  {words}" for code, words in MEANINGS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").format(codes=codes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m asv_plugin.compare",
        usage="%(prog)s BASE HEAD [options]",
    )
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("head", metavar="HEAD", help='the commit to judge, or "worktree"')
    parser.add_argument("--rounds", type=int, default=5, help="at least 2 (default: %(default)s)")
    parser.add_argument("--bench", default=".", help="regular expression of cells (default: all)")
    parser.add_argument(
        "--factor", type=float, help="what counts as a change (default: each benchmark's own, 1.05 for a speed)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 14 where a cell is inconclusive")
    parser.add_argument(
        "--allow-changed",
        action="store_true",
        help="changed embeddings, which are meant, pass",
    )
    parser.add_argument("--json", type=Path, help="also write the comparisons to this file")
    parser.add_argument("--config", type=Path, default=Path("asv.conf.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: an interval needs at least 2")
    if arguments.factor is not None and not arguments.factor >= 1:
        parser.error("--factor: a change is a ratio of at least 1, as 1.03")
    try:
        re.compile(arguments.bench)
    except re.error as error:
        parser.error(f"--bench: {arguments.bench!r} is no regular expression: {error}")
    if not arguments.config.is_file():
        parser.error(f"--config: there is no file {arguments.config}")
    return arguments


def run(arguments: argparse.Namespace) -> tuple[Code, dict[str, object]]:
    """Compare, print the table, and say with which code to end; what --json writes is returned, too."""
    comparisons: list[Comparison] = []
    versions: dict[str, Packages] = {}
    embeddings: list[Difference] = []
    commits = (resolve(arguments.base), resolve(arguments.head))
    say_if_equal(commits)
    try:
        trial = Trial(Suite(arguments.config, commits, arguments.bench))
    except BuildError as error:
        print_progress(f"error: {error}")
        code = (Code.NO_BASE, Code.FAILED)[error.side]
    else:
        versions = dict(zip(("base", "head"), trial.suite.packages[False], strict=True))
        finished = run_rounds(trial, arguments.rounds)
        comparisons = trial.comparisons(arguments.factor)
        embeddings = trial.outputs.differences
        print(render(comparisons, commits, arguments.factor, embeddings))
        code = exit_code(comparisons, arguments.strict, arguments.allow_changed) if finished else Code.INTERRUPTED
    return code, {
        "base": commits[0],
        "head": commits[1],
        "packages": versions,
        "rounds": arguments.rounds,
        "exit_code": code,
        "meaning": MEANINGS[code],
        "comparisons": [asdict(each) for each in comparisons],
        "embeddings": [asdict(each) for each in embeddings],
    }


def main() -> None:
    """Command line."""
    arguments = parse_arguments()
    arguments.config = arguments.config.absolute()
    output = arguments.json and arguments.json.absolute()
    os.chdir(arguments.config.parent)  # which asv takes for the project's folder
    os.environ[VARIABLE] = SOCKET
    signal.signal(signal.SIGINT, on_sigint)
    try:
        code, found = run(arguments)
        if output:
            output.write_text(json.dumps(found, indent=1) + "\n")
    except UsageError as error:
        print_progress(f"error: {error}")
        code = Code.WRONG_USE
    except KeyboardInterrupt:
        code = Code.INTERRUPTED
    except (util.UserError, util.ProcessError) as error:
        if not INTERRUPTED:
            sys.exit(f"error: {for_terminal(str(error), lines=True)}")
        code = Code.INTERRUPTED
    print(in_words(code), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
