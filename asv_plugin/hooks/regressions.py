"""The Regressions page, its feed and the List view: judge each benchmark in its own direction and threshold.

What asv_plugin.rules says holds; regressions_thresholds in asv.conf.json wins over it.
"""

import re
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch  # replaces an attribute and restores it, which is as good outside tests

from asv import feed
from asv.plugins import regressions

from asv_plugin.hooks.compare import benchmark_of
from asv_plugin.hooks.places import check_page, check_places
from asv_plugin.rules import rule_of, rules_of, with_rule
from asv_plugin.untrusted import for_terminal

PLACES = {
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


def install() -> None:
    """Make asv's pages judge by the benchmarks' attributes; UserError as in `check_places`."""
    check_places(PLACES, __name__)
    for page, (text, _) in PAGES.items():
        check_page(page, [text], __name__)
    # Where the page's data and the feed are written; the last of asv's publishers, all pages are there already.
    pages = regressions.Regressions
    pages.publish = staticmethod(published_in_the_right_direction(pages.publish))


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
            return with_rule(threshold, rule)

        # The feed's sentences are made by its caller, from values as measured. XML holds no control characters
        def feed_entry(title: str, updated: Any, link: str, content: str, id_context: list[str], date: Any) -> Any:
            if rules[benchmark_of(id_context[0])].higher_is_better:
                title, content = as_loss(title, content)
            return make_entry(for_terminal(title), updated, link, content, id_context, date)

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
