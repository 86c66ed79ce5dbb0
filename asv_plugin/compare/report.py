"""A comparison as a table for the terminal."""

from collections import defaultdict

from tabulate import tabulate

from asv_plugin.compare.verdict import VERDICTS, Comparison

LEGEND = "Ratio: HEAD over BASE. The interval is over pairs of processes; {}."


def render(
    found: list[Comparison], reasons: dict[str, str], commits: tuple[str, str], factor: float | None = None
) -> str:
    """The comparisons as a table, and why others are missing; `factor` as for `Trial.judged`."""
    rows = [
        [
            each.verdict,
            f"{each.ratio:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
            f"{each.base:.6g}",
            f"{each.head:.6g}",
            each.pairs,
            each.cell,
        ]
        for each in found
        if each.ratio is not None
    ]
    base, head = (commit[:8] for commit in commits)
    headers = ["Verdict", "Ratio", "95 % interval", f"BASE {base}", f"HEAD {head}", "Pairs", "Cell"]
    parts = [tabulate(rows, headers, disable_numparse=True)] if rows else []
    missing = defaultdict(list)
    for each in found:
        if each.ratio is None:
            missing[reasons.get(each.cell, "fewer than two pairs")].append(each.cell)
    if missing:
        lines = [f"- {reason} ({names_or_count(cells)})" for reason, cells in missing.items()]
        parts.append("\n".join(["Not measured:", *lines]))
    counts = ", ".join(f"{sum(each.verdict == verdict for each in found)} {verdict}" for verdict in VERDICTS)
    threshold = f"a change is a factor of {factor:g}" if factor else "a change is each benchmark's own factor"
    return "\n\n".join([*parts, f"{LEGEND.format(threshold)}\n{counts}"])


def names_or_count(cells: list[str]) -> str:
    """Cells by name, or how many where they are more than three."""
    return "; ".join(cells) if len(cells) <= 3 else f"{len(cells)} cells"
