"""What a comparison has found so far."""

import itertools
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asv_plugin.compare.outputs import Outputs
from asv_plugin.compare.suite import Cell, Suite
from asv_plugin.compare.verdict import VERDICTS, Comparison, Pair, compare, is_decided
from asv_plugin.rules import rules_of, with_factor

PAIRS_IN_A_ROUND = 4
"""How often a round starts new processes for what takes turns. On two shared cores two processes of one program,
and all that are forked from them, differ by several per cent for as long as they live: many short-lived pairs say
more than a few long ones."""

BY_VALUE = {"better", "worse", "unchanged", "inconclusive"}
"""The verdicts from values, which views of one measurement share."""


@dataclass
class Trial:
    """What one comparison has found.

    `pairs` by `Cell.key`; the cells that fail where both sides run at the same time (`sequential`), and their pair
    that did (`suspects`, by key); for each key of setup_cache both sides' folders, or why there is none.
    `outputs`: the embeddings that both leave.
    """

    suite: Suite
    pairs: dict[str, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    sequential: set[Cell] = field(default_factory=set)
    suspects: dict[str, Pair] = field(default_factory=dict)
    caches: dict[str, list[Path | str]] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)

    def close(self) -> None:
        """Remove what setup_cache has left, and judge and remove embeddings."""
        self.outputs.close()
        for folder in itertools.chain.from_iterable(self.caches.values()):
            if isinstance(folder, Path):
                shutil.rmtree(folder, ignore_errors=True)

    def evidence(self, key: str) -> list[Pair]:
        """The pairs that count.

        HEAD that failed beside BASE and not alone may have lacked memory for two; once it has failed alone, too,
        the first failure counts as well.
        """
        pairs = self.pairs[key]
        suspect = self.suspects.get(key)
        return [suspect, *pairs] if suspect and any(pair.head_failed for pair in pairs) else pairs

    def is_done(self, cell: Cell, name: str) -> bool:
        """Whether more pairs of this benchmark would not change its verdict."""
        return is_decided(self.evidence(cell.key(name)))

    def takes_turns(self, cell: Cell) -> bool:
        """Whether the cell is measured in every pair of a round: it is cheap enough to run in turn."""
        return any(self.suite.benchmarks[name].get("takes_turns") for name in cell.names)

    def comparisons(self, factor: float | None = None) -> list[Comparison]:
        """All cells that were tried, worst verdicts first; `factor` replaces each benchmark's own, as for asv.

        Views of one measurement follow the one that judges it.
        """
        rules = rules_of(self.suite.benchmarks)
        if factor is not None:
            rules = {name: with_factor(rule, factor) for name, rule in rules.items()}
        groups: list[Sequence[Comparison]] = [[each] for each in self.outputs.comparisons]
        for cell in self.suite.cells():
            rate = PAIRS_IN_A_ROUND if self.takes_turns(cell) else 1
            found = {
                name: compare(cell.key(name), self.evidence(cell.key(name)), rules[name], rate)
                for name in cell.names
                if cell.key(name) in self.pairs
            }
            groups += one_measurement_each(found, self.suite.benchmarks)
        groups.sort(key=lambda group: VERDICTS.index(group[0].verdict))
        return list(itertools.chain.from_iterable(groups))


def one_measurement_each(
    found: dict[str, Comparison], benchmarks: dict[str, dict[str, Any]]
) -> list[Sequence[Comparison]]:
    """The comparisons of one cell in groups: one that is judged, and the other views of its measurement.

    A benchmark whose function has `judged_as`, the name of another function of its class, takes over that one's
    verdict. One that has no value stands for itself: a failure is never hidden behind another's verdict.
    """
    groups: dict[str, list[Comparison]] = {}
    views: list[tuple[str, Comparison]] = []
    for name, comparison in found.items():
        judge = name.rpartition(".")[0] + "." + str(benchmarks[name].get("judged_as"))
        judge = judge.removeprefix(".")
        if judge != name and judge in found and {comparison.verdict, found[judge].verdict} <= BY_VALUE:
            views.append((judge, comparison))
        else:
            groups[name] = [comparison]
    for judge, comparison in views:
        judged = found[judge]
        groups[judge].append(replace(comparison, verdict=judged.verdict, more_rounds=None, judged_as=judged.cell))
    return list(groups.values())
