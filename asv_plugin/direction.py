"""Judge each benchmark the right way round and by its own threshold.

asv takes lower as better and 10 % as a change, for every benchmark (asv issue 1617). Here attributes of the
benchmark function, which asv records in benchmarks.json, say otherwise:

    track_speed.higher_is_better = True
    track_speed.compare_factor = 1.05           # a change: above 1.05 times, or below 1 / 1.05
    track_fidelity.compare_difference = 0.0005  # instead of a factor: more than this, in the benchmark's unit
    track_speed.regression_factor_without_gpu = 1.3  # a step on the Regressions page, for machines without a GPU

They hold in `asv compare`, `asv continuous` and on the Regressions page and its feed; the direction also in the
List view. `--factor` on the command line wins over compare_factor, regressions_thresholds in asv.conf.json over
both on the Regressions page. A benchmark without any of them is left to asv.
"""

import argparse
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch  # replaces an attribute and restores it, which is as good outside tests

import asv
from asv import feed, util
from asv.benchmarks import Benchmarks
from asv.commands import common_args, compare
from asv.plugins import regressions
from tabulate import tabulate

SUPPORTED = "0.6.6"

PLACES = {
    "asv.commands.common_args:add_compare": "(parser, ",
    "asv.commands.compare:Compare.print_table": "(conf, hash_1, hash_2, factor, split, ",
    "asv.commands.compare:unroll_result": "(benchmark_name, params, *values)",
    "asv.commands.compare:_is_result_better": "(a, b, a_ss, b_ss, factor, use_stats=True)",
    "asv.commands.compare:tabulate.tabulate": "(tabular_data, headers=",
    "asv.plugins.regressions:Regressions.publish": "(conf, repo, benchmarks, graphs, revisions)",
    "asv.plugins.regressions:_GraphDataFilter._get_threshold": "(self, graph, benchmark, entry_name)",
    "asv.plugins.regressions:detect_regressions": "(steps, threshold=0, min_size=2)",
    "asv.plugins.regressions:feed.FeedEntry": "(title, updated, link=None, content=None, id_context=None, ",
}
"""What of asv is hooked or called below, and how its parameters begin."""

PAGES = {
    # the List view's colour and its order by "Recent change"; the text is made before
    "summarylist.js": (
        "if (change > 5) {",
        "if ($.asv.main_json.benchmarks[row.name].higher_is_better) { sort_value = change = -change; }"
        " if (change > 5) {",
    ),
    # the Regressions page's order by "Factor", its default
    "regressions.js": (
        ".text(factor.toFixed(2) + 'x')",
        ".text(factor.toFixed(2) + 'x')"
        ".attr(benchmark.higher_is_better ? {'data-sort-value': (1 / factor) + 'x'} : {})",
    ),
}
"""What of asv's JavaScript is replaced by what in the published copy. index.json has the attributes already."""


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


def judged(value: Any, rule: Rule) -> Any:
    """`value`, where a number, with its rule: asv hands on the number alone to what judges it."""
    if rule == Rule() or type(value) not in (int, float):
        return value
    return type("Judged", (type(value),), {"rule": rule})(value)


def rule_of(value: Any) -> Rule:
    """The rule that a number carries; asv's own for a plain one."""
    return getattr(value, "rule", Rule())


def install() -> None:
    """Make asv judge by the benchmarks' attributes.

    Raises asv's UserError, which it prints, where the installed asv is not one this module knows.
    """
    check()
    # Where both compare and continuous judge and print. What it calls is replaced only while it runs.
    compare.Compare.print_table = staticmethod(in_the_right_direction(compare.Compare.print_table))
    # Where the page's data and the feed are written; the last of asv's publishers, all pages are there already.
    pages = regressions.Regressions
    pages.publish = staticmethod(published_in_the_right_direction(pages.publish))


def check() -> None:
    """Stop with a clear error where asv lacks a place that is hooked."""
    check_places(PLACES, __name__)
    for page, (text, _) in PAGES.items():
        path = Path(inspect.getfile(asv)).parent / "www" / page
        require(path.exists() and text in path.read_text(encoding="utf-8"), f"www/{page}", __name__)


def check_places(places: dict[str, str], who: str) -> None:
    """Stop with a clear error unless each place of asv that `who` knows has parameters that begin as written."""
    for place, parameters in places.items():
        try:
            found = str(inspect.signature(pkgutil.resolve_name(place)))
        except (ImportError, AttributeError, TypeError):
            found = ""
        require(found.startswith(parameters), place, who)


def require(found: bool, place: str, who: str) -> None:
    """Stop unless `place` was found as it is in the supported asv."""
    if not found:
        raise util.UserError(
            f"{who} knows {place} as it is in asv {SUPPORTED}, and in asv {asv.__version__} it is "
            f"another: install asv=={SUPPORTED}"
        )


def in_the_right_direction(print_table: Any) -> Any:
    """asv's Compare.print_table, judging by the benchmarks' rules."""
    is_better, unroll = compare._is_result_better, compare.unroll_result

    @wraps(print_table)
    def print_judged(conf: Any, hash_1: str, hash_2: str, factor: float, split: bool, **options: Any) -> Any:
        rules = rules_of(Benchmarks.load(conf))
        typed = was_typed(factor)

        # The last place that knows which benchmark a value belongs to
        def unroll_judged(name: str, params: Any, values: Any, *others: Any) -> Iterator[tuple[Any, ...]]:
            rule = rules.get(name, Rule())
            for cell, value, *rest in unroll(name, params, values, *others):
                yield cell, judged(value, rule), *rest

        # The one place that marks, colours, splits and the exit code follow
        def is_judged_better(
            a: Any, b: Any, a_stats: Any, b_stats: Any, factor: float, use_stats: bool = True
        ) -> bool:
            rule = rule_of(a)
            if rule.higher_is_better:
                a, b, a_stats, b_stats = b, a, b_stats, a_stats
            if rule.difference is not None:
                return b - a > rule.difference and is_better(a, b, a_stats, b_stats, 1, use_stats)
            return is_better(a, b, a_stats, b_stats, factor if typed else rule.factor or factor, use_stats)

        # Where rows can still be sorted and get a column
        def table(rows: list[list[str]], headers: list[str], **kw: Any) -> str:
            if any(rule.higher_is_better for rule in rules.values()):
                rows, headers = with_direction(rows, headers, rules, options.get("sort") == "ratio")
            return tabulate(rows, headers=headers, **kw)

        with patch.multiple(
            compare,
            unroll_result=unroll_judged,
            _is_result_better=is_judged_better,
            tabulate=SimpleNamespace(tabulate=table),
        ):
            return print_table(conf, hash_1, hash_2, factor, split, **options)

    return print_judged


def was_typed(factor: float) -> bool:
    """Whether --factor is from the command line.

    argparse hands on its default itself, the same object, so that even a 1.1 that was typed is another.
    """
    parser = argparse.ArgumentParser()
    common_args.add_compare(parser)
    return factor is not parser.get_default("factor")


def with_direction(
    rows: list[list[str]], headers: list[str], rules: dict[str, Rule], worst_first: bool
) -> tuple[list[list[str]], list[str]]:
    """asv's table with a column that says which way is better.

    Sorted by number where asv sorts by ratio: it takes ratios for text, and 10 for less than 9.
    """

    def higher(row: list[str]) -> bool:
        return rules.get(benchmark_of(row[-1]), Rule()).higher_is_better

    def times_worse(row: list[str]) -> float:
        ratio = row[-2].lstrip("~")
        if ratio == "n/a":
            return math.inf  # first, as in asv
        if higher(row):
            return 1 / float(ratio) if float(ratio) else math.inf
        return float(ratio)

    if worst_first:
        rows = sorted(rows, key=times_worse, reverse=True)
    return (
        [[*row[:-1], "higher" if higher(row) else "lower", row[-1]] for row in rows],
        [*headers[:-1], "Better", headers[-1]],
    )


def benchmark_of(row: str) -> str:
    """The benchmark's name in ``name(parameters) [machine/environment]``."""
    return re.split(r"\(| \[", row)[0]


def published_in_the_right_direction(publish: Any) -> Any:
    """asv's Regressions.publish, judging by the benchmarks' rules."""
    asv_threshold, make_entry = regressions._GraphDataFilter._get_threshold, feed.FeedEntry

    @wraps(publish)
    def publish_judged(conf: Any, repo: Any, benchmarks: Any, graphs: Any, revisions: Any) -> None:
        rules = rules_of(benchmarks)

        # The last place that knows which benchmark a series of values belongs to
        def get_threshold(self: Any, graph: Any, benchmark: dict[str, Any], entry: str) -> float:
            rule, threshold = rules[benchmark["name"]], asv_threshold(self, graph, benchmark, entry)
            if is_configured(conf, graph, entry):
                rule = replace(rule, difference=None)
            elif rule.factor_without_gpu and not graph.params.get("gpu"):
                threshold = rule.factor_without_gpu - 1
            elif rule.factor:
                threshold = rule.factor - 1
            return judged(threshold, rule)

        # The feed's sentences are made by its caller, from values as measured
        def feed_entry(title: str, updated: Any, link: str, content: str, id_context: list[str], date: Any) -> Any:
            if rules[benchmark_of(id_context[0])].higher_is_better:
                title, content = as_loss(title, content)
            return make_entry(title, updated, link, content, id_context, date)

        with (
            patch.object(regressions._GraphDataFilter, "_get_threshold", get_threshold),
            patch.object(regressions, "detect_regressions", detect_by_rule(regressions.detect_regressions)),
            patch.object(feed, "FeedEntry", feed_entry),
        ):
            publish(conf, repo, benchmarks, graphs, revisions)
        for page, (text, better) in PAGES.items():
            path = Path(conf.html_dir) / page
            path.write_text(path.read_text(encoding="utf-8").replace(text, better), encoding="utf-8")

    return publish_judged


def is_configured(conf: Any, graph: Any, entry: str) -> bool:
    """Whether asv.conf.json has a threshold for this graph: asv's own answer hides that behind its default."""
    branch = graph.params.get("branch")
    name = f"{entry}@{branch}" if branch else entry
    return any(re.match(regex, name) for regex in conf.regressions_thresholds)


def detect_by_rule(detect: Any) -> Any:
    """asv's detect_regressions (steps up by more than a relative threshold) for a threshold with a rule.

    For higher values as better it sees them negated. Its relative threshold is then of no use, and an absolute one
    it has not: both are put into the steps' errors, as it ignores steps within an error.
    """

    @wraps(detect)
    def detect_judged(steps: Any, threshold: float = 0, min_size: int = 2) -> Any:
        rule = rule_of(threshold)
        if not rule.higher_is_better and rule.difference is None:
            return detect(steps, threshold, min_size)
        sign = -1 if rule.higher_is_better else 1

        def tolerance(value: float) -> float:
            # a loss of 1 - 1/factor is what a gain of factor - 1 undoes
            return abs(value) * threshold / (1 + threshold) if rule.difference is None else rule.difference

        seen = [
            (left, right, sign * value, sign * low, max(error, tolerance(value)))
            for left, right, value, low, error in steps
        ]
        last, best, jumps = detect(seen, 0, min_size)
        if jumps is None:
            return last, best, jumps
        return sign * last, sign * best, [(a, b, sign * before, sign * after) for a, b, before, after in jumps]

    return detect_judged


def as_loss(title: str, content: str) -> tuple[str, str]:
    """A feed entry of asv's in words that are right where higher is better: no "-22 % regression"."""
    amount = r"-?([\d.e+-]+(?:%| units))"
    content = re.sub(rf">{amount} regression<", r">\1 loss<", content)
    content = re.sub(rf"\({amount} worse", r"(\1 worse", content)
    return re.sub(rf"^{amount} ", r"\1 loss in ", title), content
