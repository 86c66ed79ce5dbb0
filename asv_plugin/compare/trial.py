"""What a comparison has found so far."""

import itertools
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from asv_plugin.compare.suite import Cell, Suite
from asv_plugin.compare.verdict import VERDICTS, Comparison, Pair, compare
from asv_plugin.rules import rules_of, with_factor


@dataclass
class Trial:
    """What one comparison has found.

    `pairs` and the reason why there is none, by `Cell.key`; the cells that fail where both sides run at the same
    time; and both sides' folders that setup_cache has left, by its key.
    """

    suite: Suite
    pairs: dict[str, list[Pair]] = field(default_factory=lambda: defaultdict(list))
    reasons: dict[str, str] = field(default_factory=dict)
    sequential: set[Cell] = field(default_factory=set)
    caches: dict[str, list[Path]] = field(default_factory=dict)

    def close(self) -> None:
        """Remove what setup_cache has left."""
        for folder in itertools.chain.from_iterable(self.caches.values()):
            shutil.rmtree(folder, ignore_errors=True)

    def is_exhausted(self, cell: Cell) -> bool:
        """Whether all of the cell has failed or is skipped: it would be in the next round, too."""
        return all(cell.key(name) in self.reasons for name in cell.names)

    def takes_turns(self, cell: Cell) -> bool:
        """Whether the cell can be measured by two processes at the same time."""
        benchmarks = self.suite.benchmarks
        return cell not in self.sequential and any(benchmarks[name].get("takes_turns") for name in cell.names)

    def judged(self, factor: float | None = None) -> list[Comparison]:
        """All cells that were tried, worst verdicts first; `factor` replaces each benchmark's own, as for asv."""
        rules = rules_of(self.suite.benchmarks)
        if factor is not None:
            rules = {name: with_factor(rule, factor) for name, rule in rules.items()}
        found = [
            compare(cell.key(name), self.pairs[cell.key(name)], rules[name])
            for cell in self.suite.cells()
            for name in cell.names
            if cell.key(name) in self.pairs
        ]
        return sorted(found, key=lambda each: VERDICTS.index(each.verdict))
