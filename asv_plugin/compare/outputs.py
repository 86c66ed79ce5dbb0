"""The embeddings that both sides of a comparison leave: a folder for each, and what they say in the end."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from asv_plugin.compare.suite import SIDES
from asv_plugin.compare.verdict import CHANGED, Comparison, Pair, Reading, compare
from asv_plugin.outputs import Difference, Output, difference
from asv_plugin.rules import Rule

FOLDER = "outputs"
"""What the folder is called in the working directory of a process, as in benchmarks/measure/outputs.py.

A process that finds it leaves a JSON file there for each model and precision, unless there is one: an `Output`, or
``{"of": name, "failed": reason}``, or the same with ``skipped``.
"""


class Outputs:
    """What BASE and HEAD leave in the course of a comparison, in folders beside each other."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="virnucpro-outputs-"))
        for side in SIDES:
            (self.root / side).mkdir()
        self.differences: list[Difference] = []
        self.comparisons: list[Comparison] = []

    def link(self, side: int, directory: Path) -> None:
        """Let processes in a working directory find the folder of their side."""
        (directory / FOLDER).symlink_to(self.root / SIDES[side])

    def close(self) -> None:
        """Compare what both sides left, and remove it."""
        base, head = (self.root / side for side in SIDES)
        for path in sorted(base.glob("*.json")):
            if (head / path.name).exists():
                self.compare(*(json.loads((folder / path.name).read_text()) for folder in (base, head)))
        shutil.rmtree(self.root, ignore_errors=True)

    def compare(self, base: dict[str, Any], head: dict[str, Any]) -> None:
        """Keep the difference of two outputs, and a comparison where they changed or one is missing."""
        cell = f"embeddings of {base['of']}"
        outputs = Output.read(base), Output.read(head)
        if outputs[0] and outputs[1]:
            found = difference(outputs[0], outputs[1])
            self.differences.append(found)
            if found.is_change:
                self.comparisons.append(
                    Comparison(cell, CHANGED, str(found), scale="difference", estimate=found.moved, pairs=1)
                )
        else:
            self.comparisons.append(compare(cell, [Pair(reading(base), reading(head))], Rule()))


def reading(content: dict[str, Any]) -> Reading:
    """Whether there is an output, which has no value of its own, or why not."""
    if "skipped" in content:
        return Reading(reason=str(content["skipped"]), skipped=True)
    return Reading(reason=str(content["failed"])) if "failed" in content else Reading(value=1.0)
