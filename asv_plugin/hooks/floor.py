"""`asv find` and `asv continuous`: refuse commits that are older than what the suite measures, in one line."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from asv import util
from asv.commands.find import Find
from asv.commands.run import Run

from asv_plugin.floor import too_old
from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.commands.find:Find.run": "(conf, range_spec, bench, ",
    "asv.commands.run:Run.run": "(conf, range_spec=None, ",
}
"""What of asv is hooked below, and how its parameters begin."""


def install() -> None:
    """Check commits before a command builds them; UserError as in `check_places`."""
    check_places(PLACES, __name__)
    Find.run = staticmethod(checked(Find.run, lambda range_spec: [range_spec]))
    # `asv run` may be given a range with old ones, whose cells are n/a; `asv continuous` gives it a list
    Run.run = staticmethod(checked(Run.run, lambda commits: commits if isinstance(commits, list) else []))


def checked(run: Callable[..., Any], to_check: Callable[[Any], list[str]]) -> Callable[..., Any]:
    """A command's run that raises UserError for commits that are too old."""

    @wraps(run)
    def run_checked(conf: Any, range_spec: Any = None, *args: Any, **kw: Any) -> Any:
        reason = too_old(getattr(conf, "oldest_commit", None), to_check(range_spec))
        if reason:
            raise util.UserError(reason)
        return run(conf, range_spec, *args, **kw)

    return run_checked
