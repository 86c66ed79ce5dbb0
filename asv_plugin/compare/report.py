"""A comparison as a table for the terminal."""

from collections import defaultdict
from collections.abc import Sequence

from tabulate import tabulate

from asv_plugin.compare.verdict import VERDICTS, Comparison
from asv_plugin.outputs import Difference
from asv_plugin.untrusted import each_text, for_terminal

LEGEND = (
    "Change: HEAD over BASE, or HEAD - BASE where it has a sign. The interval is over pairs of processes; {}. "
    "In parentheses: another view of the measurement above, not counted."
)


def render(
    comparisons: Sequence[Comparison],
    commits: tuple[str, str],
    factor: float | None = None,
    embeddings: Sequence[Difference] = (),
) -> str:
    """The comparisons as a table, why values are missing, and counts; `factor` as for `Trial.comparisons`.

    `embeddings`: how far those of both sides are apart.
    """
    comparisons = [each_text(each, for_terminal) for each in comparisons]
    rows = [row(each) for each in comparisons if each.verdict != "not measured"]
    base, head = (commit[:8] for commit in commits)
    headers = ["Verdict", "Change", "95 % interval", f"BASE {base}", f"HEAD {head}", "Pairs", "Cell"]
    parts = [tabulate(rows, headers, disable_numparse=True)] if rows else []
    for verdict in VERDICTS:
        said = defaultdict(list)
        for each in comparisons:
            if each.verdict == verdict and each.reason:
                said[each.reason].append(each.cell)
        lines = [f"- {reason} ({names_or_count(cells)})" for reason, cells in said.items()]
        parts += ["\n".join([f"{verdict.capitalize()}:", *lines])] if lines else []
    same = [f"- {each.of}: {each}" for each in embeddings if not each.is_change]
    parts += ["\n".join(["Embeddings that did not change:", *same])] if same else []
    more = advice_on_rounds(comparisons)
    parts += [more] if more else []
    counted = [each.verdict for each in comparisons if each.judged_as is None]
    counts = ", ".join(f"{counted.count(verdict)} {verdict}" for verdict in VERDICTS)
    threshold = f"a change is a factor of {factor:g}" if factor else "a change is each benchmark's own threshold"
    return "\n\n".join([*parts, f"{LEGEND.format(threshold)}\n{counts}"])


def row(comparison: Comparison) -> list[str | int]:
    """A line of the table."""
    verdict = comparison.verdict
    return [
        f"({verdict})" if comparison.judged_as else verdict,
        change(comparison, comparison.estimate),
        f"{change(comparison, comparison.low)} to {change(comparison, comparison.high)}"
        if comparison.low is not None
        else "n/a",
        *("n/a" if value is None else f"{value:.6g}" for value in (comparison.base, comparison.head)),
        comparison.pairs,
        comparison.cell,
    ]


def change(comparison: Comparison, value: float | None) -> str:
    """A ratio, or a difference with its sign."""
    if value is None:
        return "n/a"
    return f"{value:.3f}" if comparison.scale == "ratio" else f"{value:+.3g}"


def advice_on_rounds(comparisons: Sequence[Comparison]) -> str:
    """How many more rounds would probably decide what is inconclusive; nothing where nothing is."""
    open_cells = [each for each in comparisons if each.verdict == "inconclusive" and each.judged_as is None]
    if not open_cells:
        return ""
    lines = [
        f"- {each.cell}: "
        + (
            f"about {each.more_rounds} more round{'s' if each.more_rounds > 1 else ''} would probably decide"
            if each.more_rounds
            else "so close to the threshold that more rounds would not decide"
            if each.estimate is not None
            else "more rounds would not decide"
        )
        for each in open_cells
    ]
    return "\n".join(["Inconclusive, the interval is too wide:", *lines])


def names_or_count(cells: Sequence[str]) -> str:
    """Cells by name, or how many where they are more than three."""
    return "; ".join(cells) if len(cells) <= 3 else f"{len(cells)} cells"
