"""Judge two commits from pairs of processes: HEAD against BASE, a confidence interval, and a verdict.

The two of a pair are measured in turn, or one right after the other, so a machine that drifts from pair to pair
drifts for both. The interval is Student's for the mean over the pairs: it includes process-to-process variation,
which the spread inside one process does not.
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from asv_plugin.rules import Rule

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

DEFAULT_FACTOR = 1.1  # asv's own, for a benchmark that sets none

CHANGED = "changed embeddings"
"""HEAD computes something else than BASE, by more than rounding; of a model and precision, not of a cell."""

VERDICTS = ("failed", CHANGED, "worse", "inconclusive", "better", "unchanged", "new", "not measured")
"""In the order in which they are shown."""

MOST_PAIRS = 1000
"""Where so many pairs would not decide, the value is at the threshold and more rounds are no remedy."""


@dataclass(frozen=True)
class Reading:
    """What a process found of a cell: a finite value, or the reason why there is none."""

    value: float | None = None
    reason: str = ""
    skipped: bool = False

    @property
    def failed(self) -> bool:
        """Whether it has no value and did not skip the cell either: an exception, a crash, NaN."""
        return self.value is None and not self.skipped


class Pair(NamedTuple):
    """What two processes found; `ratio` (HEAD over BASE) where more is known than the two values."""

    base: Reading
    head: Reading
    ratio: float | None = None

    @classmethod
    def of_blocks(cls, base: Sequence[float], head: Sequence[float]) -> "Pair":
        """Blocks that were measured in turn: the median of the ratios of neighbours.

        A machine that is disturbed for some seconds disturbs few of the ratios, and the median forgets them; both
        sides' medians would come from different moments.
        """
        ratios = [after / before for before, after in zip(base, head, strict=True)]
        values = (Reading(statistics.median(base)), Reading(statistics.median(head)))
        return cls(*values, statistics.median(ratios))

    @property
    def complete(self) -> bool:
        """Whether both have a value."""
        return self.base.value is not None and self.head.value is not None

    @property
    def head_failed(self) -> bool:
        """Whether HEAD failed, or lacks, for whatever reason, a value that BASE has."""
        return self.head.failed or (self.head.value is None and self.base.value is not None)

    @property
    def is_new(self) -> bool:
        """Whether only HEAD has a value."""
        return self.head.value is not None and self.base.value is None


@dataclass(frozen=True)
class Comparison:
    """One cell of one benchmark.

    `base` and `head` are medians over the pairs that have the value. `estimate` with its interval from `low` to
    `high` is HEAD over BASE, or HEAD - BASE in the benchmark's unit where `scale` is "difference"; `deviation` is
    the pairs' standard deviation, of the ratio's logarithm or of the difference. `pairs` are those with both
    values. `more_rounds` would probably decide what is inconclusive (None: no number would). A comparison that is
    `judged_as` another one belongs to the same measurement and is not counted.
    """

    cell: str
    verdict: str
    reason: str = ""
    base: float | None = None
    head: float | None = None
    scale: str = "ratio"
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    deviation: float | None = None
    pairs: int = 0
    more_rounds: int | None = None
    judged_as: str | None = field(default=None)


def is_decided(pairs: Sequence[Pair]) -> bool:
    """Whether further pairs are not worth their time: HEAD has failed, or there is nothing to compare.

    A skip is taken for what it says at once, and what BASE cannot measure at the second time.
    """
    if sum(pair.head_failed for pair in pairs) >= 2:
        return True
    if any(pair.complete for pair in pairs):
        return False
    both_skip = any(pair.base.skipped and pair.head.skipped for pair in pairs)
    return both_skip or sum(not pair.head_failed for pair in pairs) >= 2


def compare(cell: str, pairs: Sequence[Pair], rule: Rule, pairs_in_a_round: int = 1) -> Comparison:
    """Judge a cell by its pairs; where values are missing, by what that says of HEAD.

    failed: `Pair.head_failed` in two or more pairs, or in all that there are. Else, with two or more complete
    pairs, as `judge` has it. Of what is left, new: only HEAD has values; not measured: neither has; inconclusive:
    a single complete pair, which has no interval.
    """
    bases = [pair.base.value for pair in pairs if pair.base.value is not None]
    heads = [pair.head.value for pair in pairs if pair.head.value is not None]
    base, head = (statistics.median(values) if values else None for values in (bases, heads))
    complete = [pair for pair in pairs if pair.complete]
    scale = "ratio" if rule.difference is None else "difference"

    def without_interval(verdict: str, reason: str, more_rounds: int | None = None) -> Comparison:
        return Comparison(cell, verdict, reason, base, head, scale, pairs=len(complete), more_rounds=more_rounds)

    failures = [pair for pair in pairs if pair.head_failed]
    if len(failures) >= min(2, len(pairs)) and failures:
        return without_interval("failed", f"{reasons(failures)}, in {len(failures)} of {len(pairs)} pairs")
    if len(complete) >= 2:
        return judge(cell, complete, rule, pairs_in_a_round)
    if complete:
        return without_interval("inconclusive", "fewer than two pairs have both values", more_rounds=1)
    if heads:
        return without_interval("new", reasons([pair for pair in pairs if pair.is_new]))
    return without_interval("not measured", reasons(pairs) or "no pair was completed")


def reasons(pairs: Sequence[Pair]) -> str:
    """The commonest reason why values are missing, and whose."""
    said = Counter((pair.base.reason, pair.head.reason) for pair in pairs)
    if not said:
        return ""
    (base, head), _ = said.most_common(1)[0]
    if base == head:
        return base
    return "; ".join(f"{side}: {reason}" for side, reason in (("BASE", base), ("HEAD", head)) if reason)


def judge(cell: str, pairs: Sequence[Pair], rule: Rule, pairs_in_a_round: int) -> Comparison:
    """The verdict from two or more pairs, all complete.

    Ratios are averaged as logarithms and differences as they are, so that 1 and 0 are "no change" and a threshold
    reaches as far up as down. With the mean m, the half-width h of its interval and the threshold t (the logarithm
    of the factor, or the absolute difference): better or worse where |m| > t and |m| > h; unchanged where
    |m| + h <= t; else inconclusive.
    """
    base, head = (statistics.median(values) for values in zip(*map(values_of, pairs), strict=True))
    scale = "ratio" if rule.difference is None else "difference"
    changes = [change(pair, rule) for pair in pairs]
    known = [each for each in changes if each is not None]
    if len(known) < len(changes):
        verdict = without_ratio(pairs, rule)
        reason = "a value of 0 or less has no ratio: such a benchmark needs a compare_difference"
        return Comparison(cell, verdict, reason, base, head, scale, pairs=len(pairs))
    threshold = math.log(rule.factor or DEFAULT_FACTOR) if rule.difference is None else rule.difference
    mean, deviation = statistics.mean(known), statistics.stdev(known)
    half = half_width(deviation, len(known))
    verdict, more_rounds = "inconclusive", None
    if abs(mean) > max(threshold, half):
        verdict = "better" if (mean > 0) == rule.higher_is_better else "worse"
    elif abs(mean) + half <= threshold:
        verdict = "unchanged"
    else:
        needed = pairs_to_decide(mean, deviation, threshold)
        more_rounds = needed and max(1, math.ceil((needed - len(known)) / pairs_in_a_round))
    interval = (mean, mean - half, mean + half)
    estimate, low, high = map(math.exp, interval) if rule.difference is None else interval
    return Comparison(
        cell, verdict, "", base, head, scale, estimate, low, high, deviation, len(known), more_rounds
    )


def values_of(pair: Pair) -> tuple[float, float]:
    """The values of a complete pair."""
    assert pair.base.value is not None and pair.head.value is not None
    return pair.base.value, pair.head.value


def change(pair: Pair, rule: Rule) -> float | None:
    """HEAD - BASE, or the logarithm of HEAD over BASE; None where a value of 0 or less has no ratio."""
    base, head = values_of(pair)
    if rule.difference is not None:
        return head - base
    if base == head and pair.ratio is None:
        return 0.0
    return math.log(pair.ratio or head / base) if min(base, head) > 0 else None


def without_ratio(pairs: Sequence[Pair], rule: Rule) -> str:
    """The verdict where a value of 0 or less has no ratio: it is clear if all pairs cross 0 in one direction."""
    crossings = {(base > 0) - (head > 0) for base, head in map(values_of, pairs)}
    if crossings == {1}:
        return "worse" if rule.higher_is_better else "better"
    if crossings == {-1}:
        return "better" if rule.higher_is_better else "worse"
    return "inconclusive"


def half_width(deviation: float, pairs: int) -> float:
    """Half the width of the mean's 95 % interval."""
    return student(pairs - 1) * deviation / math.sqrt(pairs)


def pairs_to_decide(mean: float, deviation: float, threshold: float) -> int | None:
    """How many pairs would decide, if mean m and deviation s stay as measured; None where `MOST_PAIRS` would not.

    The smallest n whose half-width h(n) = t(n - 1) s / sqrt(n) is narrow enough: h(n) < |m| beyond the threshold,
    where the interval must exclude no change, and h(n) <= threshold - |m| within it, where the interval must fit
    in. As m moves with every pair, n decides about as often as not; that is what "probably" means.
    """
    room = abs(mean) if abs(mean) > threshold else threshold - abs(mean)
    return next((n for n in range(2, MOST_PAIRS + 1) if half_width(deviation, n) < room), None)


def student(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t; beyond the table, its last value, which is a little wide."""
    return STUDENT[min(degrees, len(STUDENT)) - 1]
