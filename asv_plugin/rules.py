"""How each benchmark is judged: the better direction and the threshold, read from the benchmark's attributes.

asv takes lower as better and 10 % as a change, for every benchmark (asv issue 1617). Attributes of a benchmark
function, which asv records in benchmarks.json, say otherwise:

    track_speed.higher_is_better = True
    track_speed.compare_factor = 1.05           # a change: above 1.05 times, or below 1 / 1.05
    track_fidelity.compare_difference = 0.0005  # instead of a factor: more than this, in the benchmark's unit
    track_speed.regression_factor_without_gpu = 1.3  # a step on the Regressions page, for machines without a GPU

A benchmark without any of them is left to asv.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Rule:
    """How a benchmark is judged; None leaves the threshold to asv."""

    higher_is_better: bool = False
    factor: float | None = None
    difference: float | None = None
    factor_without_gpu: float | None = None


def rules_of(benchmarks: dict[str, dict[str, Any]]) -> dict[str, Rule]:
    """The rules of a suite, by the benchmarks' names."""
    return {
        name: Rule(
            bool(entry.get("higher_is_better")),
            entry.get("compare_factor"),
            entry.get("compare_difference"),
            entry.get("regression_factor_without_gpu"),
        )
        for name, entry in benchmarks.items()
    }


def with_factor(rule: Rule, factor: float) -> Rule:
    """The rule with a threshold of the command line; one with an absolute threshold keeps that, too."""
    return rule if rule.difference is not None else replace(rule, factor=factor)


def with_rule(value: Any, rule: Rule) -> Any:
    """`value`, where a number, with its rule: asv hands on the number alone to what judges it."""
    if rule == Rule() or type(value) not in (int, float):
        return value
    return type("NumberWithRule", (type(value),), {"rule": rule})(value)


def rule_of(value: Any) -> Rule:
    """The rule that a number carries; asv's own for a plain one."""
    return getattr(value, "rule", Rule())
