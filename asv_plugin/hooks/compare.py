"""`asv compare` and `asv continuous`: judge each benchmark in its own direction and by its own threshold.

What asv_plugin.rules says holds; `--factor` on the command line wins over a benchmark's compare_factor. Below the
table stands what the commits' fingerprints say: models and precisions whose embeddings changed.
"""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch  # replaces an attribute and restores it, which is as good outside tests

from asv.benchmarks import Benchmarks
from asv.commands import common_args, compare
from tabulate import tabulate

from asv_plugin import notes
from asv_plugin.hooks.places import check_places
from asv_plugin.outputs import changes, fingerprints
from asv_plugin.rules import Rule, rule_of, rules_of, with_rule
from asv_plugin.untrusted import for_markdown

PLACES = {
    "asv.commands.common_args:add_compare": "(parser, ",
    "asv.commands.compare:Compare.print_table": "(conf, hash_1, hash_2, factor, split, ",
    "asv.commands.compare:unroll_result": "(benchmark_name, params, *values)",
    "asv.commands.compare:_is_result_better": "(a, b, a_ss, b_ss, factor, use_stats=True)",
    "asv.commands.compare:tabulate.tabulate": "(tabular_data, headers=",
}
"""What of asv is hooked or called below, and how its parameters begin."""


def install() -> None:
    """Make asv judge by the benchmarks' attributes.

    Raises asv's UserError, which it prints, where the installed asv is not one this module knows.
    """
    check_places(PLACES, __name__)
    # Where both compare and continuous judge and print. What it calls is replaced only while it runs.
    compare.Compare.print_table = staticmethod(in_the_right_direction(compare.Compare.print_table))


def in_the_right_direction(print_table: Any) -> Any:
    """asv's Compare.print_table, judging by the benchmarks' rules."""
    is_better, unroll = compare._is_result_better, compare.unroll_result

    @wraps(print_table)
    def print_judged(conf: Any, hash_1: str, hash_2: str, factor: float, split: bool, **options: Any) -> Any:
        rules = rules_of(Benchmarks.load(conf))
        names = options.pop("commit_names", None) or {}
        typed = was_typed(factor)

        # The last place that knows which benchmark a value belongs to
        def unroll_judged(name: str, params: Any, values: Any, *others: Any) -> Iterator[tuple[Any, ...]]:
            rule = rules.get(name, Rule())
            for cell, value, *rest in unroll(name, params, values, *others):
                yield for_markdown(cell), with_rule(value, rule), *rest

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

        # asv has a name in angle brackets, which may make an HTML tag of it
        def with_name(header: str, commit: str) -> str:
            return f"{header.strip()} ({for_markdown(names[commit])})" if names.get(commit) else header

        # Where rows can still be sorted and get a column
        def table(rows: list[list[str]], headers: list[str], **kw: Any) -> str:
            rows = [[*row[:-1], with_safe_machine(row[-1])] for row in rows]
            headers = [headers[0], *map(with_name, headers[1:3], (hash_1, hash_2)), *headers[3:]]
            if any(rule.higher_is_better for rule in rules.values()):
                rows, headers = with_direction(rows, headers, rules, options.get("sort") == "ratio")
            return tabulate(rows, headers=headers, **kw)

        with patch.multiple(
            compare,
            unroll_result=unroll_judged,
            _is_result_better=is_judged_better,
            tabulate=SimpleNamespace(tabulate=table),
        ):
            status = print_table(conf, hash_1, hash_2, factor, split, **options)
        machine, environments = options.get("machine"), options.get("env_names")
        for line in changed_embeddings(Path(conf.results_dir), (hash_1, hash_2), machine, environments):
            print(line)
        return status

    return print_judged


def changed_embeddings(
    results_dir: Path, commits: tuple[str, str], machine: str | None, environments: Sequence[str] | None = None
) -> Iterator[str]:
    """A line for each model and precision whose recorded embeddings differ by more than rounding.

    `machine`: None for all that have recorded both; `environments`: None for all.
    """
    for folder in [results_dir / machine] if machine else sorted(results_dir.glob("*")):
        found = []
        for commit in commits:
            kept: notes.Notes = {}
            for path in sorted(folder.glob(f"{commit[:8]}-*.notes")):
                if environments is None or path.stem.partition("-")[2] in environments:
                    kept |= notes.read(path)
            found.append(fingerprints(kept))
        for each in changes(*found):
            yield f"Changed embeddings on {folder.name}: {each.of}, {each}"


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


def with_safe_machine(row: str) -> str:
    """A row's ``name(parameters) [machine/environment]``, in which the name is as Markdown already."""
    name, bracket, where = row.partition(" [")
    return f"{name} [{for_markdown(where.removesuffix(']'))}]" if bracket else row


def benchmark_of(row: str) -> str:
    """The benchmark's name in ``name(parameters) [machine/environment]``, which may be Markdown."""
    return re.split(r"\(| \[", row)[0].replace("\\", "")
