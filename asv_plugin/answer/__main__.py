"""Print which precision to use, and the numbers: FP32 beside the others, for each model and workload.

python -m asv_plugin.answer [--machine NAME] [--commit COMMIT] [--bench REGEX] [--all] [--markdown]
                            [--results results]
"""

import argparse
import re
import sys
from pathlib import Path

from asv_plugin.answer.records import Record, machines, records
from asv_plugin.answer.summary import summarize
from asv_plugin.answer.terminal import columns, render
from asv_plugin.hooks import log
from asv_plugin.hooks.broken_files import skip_broken_files
from asv_plugin.repository import commit_hash
from asv_plugin.untrusted import for_terminal


def choose(arguments: argparse.Namespace) -> Record:
    """The record that was asked for; ends the program with the reason where there is none."""
    known = machines(arguments.results)
    if not known:
        sys.exit(f"error: no results in {arguments.results}: run make bench")
    if arguments.machine and arguments.machine not in known:
        sys.exit(f"error: --machine: choose one of {', '.join(map(for_terminal, known))}")
    everywhere = {
        name: records(arguments.results, name) for name in known if arguments.machine in (None, "", name)
    }

    def last_run(machine: str) -> float:
        return max((record.measured for record in everywhere[machine]), default=0)

    machine = max(everywhere, key=last_run)
    found = everywhere[machine]
    if arguments.commit:
        commit = commit_hash(arguments.commit)
        found = [record for record in found if record.commit == commit]
        if not found:
            sys.exit(f"error: commit {commit[:8]} has no results on {for_terminal(machine)}; run make bench")
    if not found:
        sys.exit(f"error: no results on {for_terminal(machine)}; run make bench")
    return found[0]


def pattern(text: str) -> str:
    """A regular expression; argparse says what is none."""
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from None
    return text


def main() -> None:
    """Command line; ends with exit code 1 where there is nothing to show."""
    parser = argparse.ArgumentParser(
        prog="python -m asv_plugin.answer", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--machine", help="as in results/; default: the one that ran last")
    parser.add_argument("--commit", help="default: the newest with results")
    parser.add_argument("--bench", type=pattern, default=".", help="tables of these cells, as for asv")
    parser.add_argument("--all", action="store_true", help="all tables")
    parser.add_argument("--markdown", action="store_true", help="for a pull request")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    arguments = parser.parse_args()
    skip_broken_files()
    log.install()
    summary = summarize(choose(arguments))
    print(render(summary, arguments.markdown, bench=arguments.bench, all_tables=arguments.all, width=columns()))
    if not summary.tables:
        sys.exit(f"error: no cell of commit {summary.commit[:8]} on {for_terminal(summary.machine)} has a value")


if __name__ == "__main__":
    main()
