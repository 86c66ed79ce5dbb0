"""Judge two commits from pairs of processes: the ratio of each cell, its confidence interval, and a verdict.

The two of a pair are measured in turn, or one right after the other, so a machine that drifts from pair to pair
drifts for both. The interval is Student's for the mean of the pairs' log ratios: it includes process-to-process
variation, which the spread inside one process does not.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asv_plugin.rules import Rule

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

DEFAULT_FACTOR = 1.1  # asv's own, for a benchmark that sets none

VERDICTS = ("worse", "better", "no change", "not measured")


class Pair(NamedTuple):
    """What two processes measured; `ratio` (HEAD over BASE) where more is known than the two values."""

    base: float | None
    head: float | None
    ratio: float | None = None

    @classmethod
    def of_blocks(cls, base: Sequence[float], head: Sequence[float]) -> "Pair":
        """Blocks that were measured in turn: the median of the ratios of neighbours.

        A machine that is disturbed for some seconds disturbs few of the ratios, and the median forgets them; both
        sides' medians would come from different moments.
        """
        ratios = [after / before for before, after in zip(base, head, strict=True)]
        return cls(statistics.median(base), statistics.median(head), statistics.median(ratios))


@dataclass(frozen=True)
class Comparison:
    """One cell of one benchmark; ratios are HEAD over BASE, as measured."""

    cell: str
    base: float | None
    head: float | None
    ratio: float | None
    low: float | None
    high: float | None
    pairs: int
    verdict: str


def compare(cell: str, pairs: Sequence[Pair], rule: Rule) -> Comparison:
    """Judge a cell by its pairs; one with a value missing does not count.

    A change is one whose interval leaves out 1 and that is larger than the benchmark's compare_factor (or, for one
    with a compare_difference, whose mean difference is larger). Two pairs are the least that have an interval.
    """
    complete = [(base, head) for base, head, _ in pairs if base is not None and head is not None]
    if len(complete) < 2:
        return Comparison(cell, None, None, None, None, None, len(complete), "not measured")
    base, head = (statistics.median(side) for side in zip(*complete, strict=True))
    if min(map(min, complete)) <= 0:  # no ratio; benchmarks of this suite have none such
        return Comparison(cell, base, head, None, None, None, len(complete), "not measured")
    ratios = [ratio or head / base for base, head, ratio in pairs if base is not None and head is not None]
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.mean(logs)
    half = student(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    ratio, low, high = (math.exp(value) for value in (mean, mean - half, mean + half))
    if rule.difference is not None:
        changed = abs(statistics.mean(after - before for before, after in complete)) > rule.difference
    else:
        changed = abs(mean) > math.log(rule.factor or DEFAULT_FACTOR)
    changed = changed and (low > 1 or high < 1)
    better = (ratio > 1) == rule.higher_is_better
    verdict = ("better" if better else "worse") if changed else "no change"
    return Comparison(cell, base, head, ratio, low, high, len(logs), verdict)


def student(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t; beyond the table, its last value, which is a little wide."""
    return STUDENT[min(degrees, len(STUDENT)) - 1]
