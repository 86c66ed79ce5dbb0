"""Print which precision to use, and the numbers: FP32 beside the others, for each model and workload.

python -m asv_plugin.terminal [--machine NAME] [--commit COMMIT] [--markdown] [--results results]
"""

import argparse
import sys
import textwrap
from pathlib import Path

from tabulate import tabulate

from asv_plugin.answer import LEGEND, Answer, Table, answer
from asv_plugin.recorded import Record, machines, name_broken_files, records
from asv_plugin.repository import commit_hash


def render(found: Answer, markdown: bool = False) -> str:
    """An answer as text, or as Markdown for a pull request."""
    title = f"ESM-2 on {found.device}, commit {found.commit[:8]}"
    parts = [f"## {title}\n\n{found.how}" if markdown else f"{title}\n{found.how}"]
    parts += [render_table(table, markdown) for table in found.tables]
    if found.tables:
        parts.append(LEGEND if markdown else textwrap.fill(LEGEND, 115))
    for heading, lines in (("FAILED", found.failed), ("Not run (n/a)", found.skipped)):
        if lines:
            parts.append("\n".join([f"{heading}:", *("", "") * markdown, *(f"- {line}" for line in lines)]))
    return "\n\n".join(parts)


def render_table(table: Table, markdown: bool) -> str:
    """One model and workload: a row a metric, a column a precision, then the improvements over FP32."""
    others = [column for column in table.columns if column.improvements]
    headers = ["Metric", *(column.precision.upper() for column in table.columns)]
    headers += [f"{column.precision.upper()} improvement" for column in others]
    rows = [
        [
            metric,
            *(column.cells[row] for column in table.columns),
            *(column.improvements[row] for column in others),
        ]
        for row, metric in enumerate(table.metrics)
    ]
    body = tabulate(
        rows,
        headers,
        tablefmt="github" if markdown else "simple",
        disable_numparse=True,
        stralign="right",
        colalign=("left",),
    )
    name = f"{table.model}, {table.workload}" + (f" ({table.size})" if table.size else "")
    return f"### {name}\n\n{table.advice}\n\n{body}" if markdown else f"{name}\n{table.advice}\n{body}"


def choose(arguments: argparse.Namespace) -> Record:
    """The record that was asked for; ends the program with the reason where there is none."""
    known = machines(arguments.results)
    if not known:
        sys.exit(f"error: no results in {arguments.results}: run make bench")
    if arguments.machine and arguments.machine not in known:
        sys.exit(f"error: --machine: choose one of {', '.join(known)}")
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
            sys.exit(f"error: commit {commit[:8]} has no results on {machine}; run make bench")
    if not found:
        sys.exit(f"error: no results on {machine}; run make bench")
    return found[0]


def main() -> None:
    """Command line; ends with exit code 1 where there is nothing to show."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--machine", help="as in results/; default: the one that ran last")
    parser.add_argument("--commit", help="default: the newest with results")
    parser.add_argument("--markdown", action="store_true", help="for a pull request")
    parser.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s")
    arguments = parser.parse_args()
    name_broken_files()
    found = answer(choose(arguments))
    print(render(found, arguments.markdown))
    if not found.tables:
        sys.exit(f"error: no cell of commit {found.commit[:8]} on {found.machine} has a value")


if __name__ == "__main__":
    main()
