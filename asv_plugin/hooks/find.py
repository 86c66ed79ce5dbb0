"""`asv find`: bisect in each benchmark's own direction.

asv looks for the commit whose value rises the most, or falls with ``--invert``. Here a regression is what
asv_plugin.rules calls worse, and ``--invert`` looks for an improvement.
"""

from functools import wraps
from typing import Any
from unittest.mock import patch  # replaces an attribute and restores it, which is as good outside tests

from asv.benchmarks import Benchmarks
from asv.commands import find
from asv.results import Results

from asv_plugin.hooks.places import check_places
from asv_plugin.rules import Rule, rules_of

PLACES = {
    "asv.commands.find:Find.run": "(conf, range_spec, bench, invert=False, ",
    "asv.commands.find:Results.get_result_value": "(self, key, params)",
    "asv.benchmarks:Benchmarks.discover": "(conf, repo, environments, commit_hash, regex=None, ",
}
"""What of asv is hooked below, and how its parameters begin."""


def install() -> None:
    """Replace the command's search; UserError as in `check_places`."""
    check_places(PLACES, __name__)
    find.Find.run = staticmethod(in_the_right_direction(find.Find.run))


def in_the_right_direction(run: Any) -> Any:
    """asv's Find.run, in which lower values are the better ones."""

    @wraps(run)
    def run_judged(*args: Any, **kw: Any) -> Any:
        rules: dict[str, Rule] = {}
        discover = Benchmarks.discover

        # The first place that knows the benchmarks
        def discover_with_rules(*args: Any, **kw: Any) -> Benchmarks:
            found = discover(*args, **kw)
            rules.update(rules_of(found))
            return found

        # What the search reads; what it saves is not read through this
        class Judged(Results):
            def get_result_value(self, key: str, params: Any) -> list[float | None]:
                sign = -1 if rules[key].higher_is_better else 1
                values = super().get_result_value(key, params)
                # NaN is a skipped cell, which says as little about a commit as one that failed
                return [sign * value if value is not None and value == value else None for value in values]

        with (
            patch.object(find.Benchmarks, "discover", discover_with_rules),
            patch.object(find, "Results", Judged),
        ):
            return run(*args, **kw)

    return run_judged
