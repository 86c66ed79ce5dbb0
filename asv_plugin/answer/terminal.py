"""A summary as text for the terminal, or as Markdown for a pull request."""

import textwrap

from tabulate import tabulate

from asv_plugin.answer.summary import LEGEND, Summary, Table
from asv_plugin.untrusted import each_text, for_markdown, for_terminal


def render(summary: Summary, markdown: bool = False) -> str:
    """The whole summary; what others wrote of it is shown as it is, and obeyed by nothing."""
    summary = each_text(summary, for_markdown if markdown else for_terminal)
    title = f"ESM-2 on {summary.device}, commit {summary.commit[:8]}"
    parts = [f"## {title}\n\n{summary.how}" if markdown else f"{title}\n{summary.how}"]
    parts += [render_table(table, markdown) for table in summary.tables]
    if summary.tables:
        parts.append(LEGEND if markdown else textwrap.fill(LEGEND, 115))
    for heading, lines in (
        ("FAILED", summary.failed),
        ("Embeddings that changed since the last commit before", summary.changed),
        ("Measured while the GPU was busy", summary.doubtful),
        ("Not run (n/a)", summary.skipped),
    ):
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
