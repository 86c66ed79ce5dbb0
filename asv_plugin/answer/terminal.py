"""A summary as text for the terminal, or as Markdown for a pull request: the answer, then what was asked for."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from asv_plugin.answer.records import BENCHMARKS, MASSIVE
from asv_plugin.answer.summary import LEGEND, Column, Summary, Table
from asv_plugin.untrusted import each_text, for_markdown, for_terminal

WIDEST = 100
"""Columns of text, where the terminal has as many."""

NARROWEST_HEADING = 12
"""A heading is broken between words into lines of so many columns, or as many as the values below it have."""

USUAL = "mixed"
"""The workload that the advice is for where another was not asked for."""

EVERYTHING = "."
"""BENCH where nothing was asked for."""

GAP = "  "
CAPTION = "The fastest precision that is faithful enough, and its speed over FP32's:"
SHORT = re.compile(r"esm2_t\d+_(\w+)_UR50D")


def columns() -> int:
    """How wide the text may be, by the terminal or the variable COLUMNS; `WIDEST` where neither says it."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)


def render(
    summary: Summary,
    markdown: bool = False,
    *,
    bench: str = EVERYTHING,
    all_tables: bool = False,
    width: int = WIDEST,
) -> str:
    """A matrix of all models and workloads, one advice, and the tables of what `bench` (asv's --bench) matches.

    Where nothing was asked for, the table of the advice; with `all_tables` all. What others wrote is shown as it
    is, and obeyed by nothing. No line is longer than `width` but one that has no blank, and Markdown's.
    """
    asked = summary.tables if bench == EVERYTHING else matching(summary.tables, bench)
    best = advised(asked) or advised(summary.tables)
    shown = summary.tables if all_tables else asked if bench != EVERYTHING else [best] if best else asked[-1:]
    safe = for_markdown if markdown else for_terminal
    summary, best, shown = each_text(summary, safe), each_text(best, safe), each_text(shown, safe)
    parts = [heading(summary, markdown, width)]
    if best:
        parts.append(f"{short(best.model)}, {best.workload}: {best.advice}")
    parts += [*without_advice(summary.tables), summary.how]
    if summary.tables and not shown:
        parts.append(f"Nothing in the tables matches BENCH={safe(bench)}")
    parts += [render_table(table, markdown, width) for table in shown]
    if shown:
        parts.append(LEGEND)
    hidden = [table for table in summary.tables if table not in shown]
    if hidden:
        one = f"BENCH='{short(hidden[0].model)}.*{hidden[0].workload}'"
        parts.append(f"More tables: {len(hidden)}. ALL=1 prints them, {one} one.")
    parts += listed(summary, markdown)
    text = "\n\n".join(filter(None, parts))
    return text if markdown else "\n".join(wrapped(line, width) for line in text.split("\n"))


def heading(summary: Summary, markdown: bool, width: int) -> str:
    """What was measured, and the matrix."""
    title = f"ESM-2 on {summary.device}, commit {summary.commit[:8]}"
    if not summary.tables:
        return f"## {title}" if markdown else title
    if markdown:
        return f"## {title}\n\n{CAPTION}\n\n{in_markdown(*matrix(summary.tables))}"
    return f"{title}\n{CAPTION}\n{in_blocks(*matrix(summary.tables), width)}"


def listed(summary: Summary, markdown: bool) -> Iterator[str]:
    """What failed, changed, is doubtful or was not run, as lists."""
    for name, lines in (
        ("FAILED", summary.failed),
        ("Embeddings that changed since the last commit before", summary.changed),
        ("Measured while the GPU was busy", summary.doubtful),
        ("Not run (n/a)", summary.skipped),
    ):
        if lines:
            yield "\n".join([f"{name}:", *("", "") * markdown, *(f"- {line}" for line in lines)])


def wrapped(line: str, width: int) -> str:
    """A line in as many as it needs; words, and names with dashes, stay whole."""
    if len(line) <= width:
        return line
    indent = GAP if line.startswith("- ") else ""
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def matching(tables: Sequence[Table], bench: str) -> list[Table]:
    """The tables of which asv's --bench selects a cell."""
    asked = re.compile(bench)
    return [table for table in tables if any(map(asked.search, names(table)))]


def names(table: Table) -> Iterator[str]:
    """The cells of a table as asv writes them for --bench."""
    for benchmark in BENCHMARKS.values():
        for column in table.columns:
            yield f"{benchmark}({table.model!r}, {column.precision!r}, {table.workload!r})"


def advised(tables: Sequence[Table]) -> Table | None:
    """The table of the one advice: the largest model's that has one, which comes last, on `USUAL` if it can."""
    having = [table for table in tables if table.best]
    return min(
        (table for table in having if table.model == having[-1].model),
        key=lambda table: table.workload != USUAL,
        default=None,
    )


def short(model: str) -> str:
    """A model's size where its name is one of ESM-2's."""
    found = SHORT.fullmatch(model)
    return found[1] if found else model


def matrix(tables: Sequence[Table]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, models by workloads: the precision of each advice and its speed over FP32's."""
    cells = {(table.model, table.workload): answer(table) for table in tables}
    models, workloads = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    rows = [[short(model), *(cells.get((model, each), "") for each in workloads)] for model in models]
    return ["", *workloads], rows


def answer(table: Table) -> str:
    """A table's precision and its speed over FP32's; a dash where there is no advice."""
    if table.best is None or table.gain is None:
        return table.best or "-"
    return f"{table.best.upper()} {table.gain:.{1 if table.gain >= 10 else 2}f}x"


def without_advice(tables: Sequence[Table]) -> Iterator[str]:
    """Why tables have no advice: each reason once, with its models."""
    reasons: dict[str, list[str]] = {}
    for table in tables:
        if table.best is None:
            reasons.setdefault(table.advice, []).append(short(table.model))
    for reason, models in reasons.items():
        yield f"{', '.join(dict.fromkeys(models))}: {reason}"


def render_table(table: Table, markdown: bool, width: int) -> str:
    """One model and workload, with the improvement over FP32 beside each value.

    In Markdown a row is a metric, on the terminal a precision, and metrics that do not fit into the width follow.
    """
    name = f"{table.model}, {table.workload}" + (f" ({table.size})" if table.size else "")
    headings = [metric.partition(",")[0] if metric == MASSIVE else metric for metric in table.metrics]
    precisions = [column.precision.upper() for column in table.columns]
    metrics = [beside([pair(column, at) for column in table.columns], markdown) for at in range(len(headings))]
    if markdown:
        rows = [[heading, *cells] for heading, cells in zip(headings, metrics, strict=True)]
        return f"### {name}\n\n{in_markdown(['Metric', *precisions], rows)}"
    rows = [list(row) for row in zip(precisions, *metrics, strict=True)]
    return f"{name}\n{in_blocks(['', *headings], rows, width)}"


def pair(column: Column, at: int) -> tuple[str, str]:
    """A value and its improvement over FP32, if it has one; what is an improvement itself is the value."""
    value, better = column.cells[at], column.improvements[at] if column.improvements else ""
    return (value, "" if better == "n/a" else better) if value else (better, "")


def beside(pairs: Sequence[tuple[str, str]], markdown: bool) -> list[str]:
    """Values with their improvements; on the terminal one below the other."""
    if markdown:
        return [" ".join(filter(None, each)) for each in pairs]
    most = max(len(better) for _, better in pairs)
    return [f"{value} {better:>{most}}" if most else value for value, better in pairs]


def in_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    return tabulate(rows, headings, tablefmt="github", disable_numparse=True, stralign="right", colalign=("left",))


def in_blocks(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """A table of text whose columns, where they do not fit, follow below, each time with the first one."""
    filled = [column(heading, cells) for heading, cells in zip(headings, zip(*rows, strict=True), strict=True)]
    first, *others = filled
    blocks: list[list[list[str]]] = []
    for each in others:
        used = sum(len(cells[0]) + len(GAP) for cells in blocks[-1]) if blocks else width
        if not blocks or used + len(each[0]) > width:
            blocks.append([first])
        blocks[-1].append(each)
    return "\n\n".join("\n".join(lines(block)) for block in blocks)


def column(heading: str, cells: Sequence[str]) -> list[str]:
    """A column's lines, all as wide: the heading's, then the cells; the first column stands at the left."""
    widest = max(map(len, cells))
    broken = textwrap.wrap(heading, max(widest, NARROWEST_HEADING), break_on_hyphens=False) or [""]
    widest = max(widest, *map(len, broken))
    return [f"{text:>{widest}}" if heading else f"{text:<{widest}}" for text in (*broken, *cells)]


def lines(block: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of columns, of which those with a shorter heading begin lower; no row without any value."""
    height = max(map(len, block))
    filled = [[" " * len(each[0])] * (height - len(each)) + [*each] for each in block]
    for label, *texts in zip(*filled, strict=True):
        if any(map(str.strip, texts)):
            yield GAP.join([label, *texts]).rstrip()
