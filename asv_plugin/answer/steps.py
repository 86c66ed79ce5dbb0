"""Which commits made a cell slower, or need more memory, than the last commit before that recorded it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from asv_plugin.answer.numbers import ratio
from asv_plugin.answer.records import BENCHMARKS, Record
from asv_plugin.rules import Rule

JUDGED = ("tokens/s", "peak memory")


@dataclass(frozen=True)
class Step:
    """A change for the worse: how many times the value is that of `since`, the commit before."""

    metric: str
    precision: str
    times: float
    since: str


def steps(
    newest_first: Iterable[Record], rules: Mapping[str, Rule], has_gpu: bool
) -> list[dict[tuple[str, str], list[Step]]]:
    """For each record the steps of each model and workload: by more than the benchmark's rule counts as a change.

    Without a GPU, where two runs of one program differ by more, by what the Regressions page takes there.
    """
    last: dict[tuple[str, ...], tuple[float, str]] = {}
    found = []
    for record in reversed(list(newest_first)):
        worse: dict[tuple[str, str], list[Step]] = {}
        for metric in JUDGED:
            rule = rules.get(BENCHMARKS[metric], Rule())
            factor = (None if has_gpu else rule.factor_without_gpu) or rule.factor
            for cell, value in record.values.get(metric, {}).items():
                before, since = last.get((metric, *cell), (value.median, ""))
                last[metric, *cell] = value.median, record.commit
                pair = (before, value.median) if rule.higher_is_better else (value.median, before)
                worsening, times = ratio(*pair), ratio(value.median, before)
                if factor and worsening and times and worsening > factor:
                    model, precision, workload = cell
                    worse.setdefault((model, workload), []).append(Step(metric, precision, times, since))
        found.append(worse)
    return found[::-1]
