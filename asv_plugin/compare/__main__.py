"""Compare two commits in paired rounds: is HEAD worse than BASE?

    python -m asv_plugin.compare BASE HEAD [--rounds 5] [--bench REGEX] [--factor 1.03] [--json FILE]

In each round new processes measure every cell of both commits. Those of a benchmark that takes turns live at the
same time and time their blocks in turn; those of another run one right after the other, the first one in turn.
HEAD may be the word "worktree" for the uncommitted changes of tracked files. Nothing is written to results/. The
exit code is 1 where a cell is worse, else 0.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from asv import util

from asv_plugin.compare.report import render
from asv_plugin.compare.rounds import on_sigint, run_rounds
from asv_plugin.compare.suite import Suite
from asv_plugin.compare.trial import Trial
from asv_plugin.compare.turns import SOCKET, VARIABLE
from asv_plugin.repository import commit_hash, git


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
    signal.signal(signal.SIGINT, on_sigint)
    commits = (resolve(arguments.base), resolve(arguments.head))
    try:
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
