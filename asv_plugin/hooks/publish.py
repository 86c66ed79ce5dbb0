"""`asv publish`: all or nothing. Where it fails, the site stays as it was, and asv says what was wrong.

asv empties its html folder first, with the tracked Precision page in it, and shows most errors as a traceback.
"""

import contextlib
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch  # replaces an attribute and restores it, which is as good outside tests

from asv import util
from asv.commands import publish
from asv.console import log

from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.commands.publish:Publish.run": "(conf, range_spec=None, pull=True)",
    "asv.util:get_multiprocessing_pool": "(parallel=None)",
}
"""What of asv is hooked below, and how its parameters begin."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def install() -> None:
    """Replace the command's work; UserError as in `check_places`."""
    check_places(PLACES, __name__)
    publish.Publish.run = staticmethod(all_or_nothing(publish.Publish.run))


def all_or_nothing(run: Any) -> Any:
    """asv's Publish.run, into a folder beside the site's, which it replaces when it is complete."""

    @wraps(run)
    def run_beside(conf: Any, *args: Any, **kw: Any) -> Any:
        site = Path(conf.html_dir).absolute()
        site.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".asv-publish-", dir=site.parent) as folder:
            conf.html_dir = str(Path(folder, "new"))
            try:
                with patch.object(util, "get_multiprocessing_pool", deaf_to_ctrl_c(util.get_multiprocessing_pool)):
                    result = run(conf, *args, **kw)
            except KeyboardInterrupt:
                log.error(f"Interrupted: {site} is as it was")
                sys.exit(INTERRUPTED)
            except Exception as error:
                log.debug(traceback.format_exc())
                raise util.UserError(f"Nothing was published, {site} is as it was: {describe(error)}") from error
            finally:
                conf.html_dir = str(site)
            with without_ctrl_c():
                replace(site, Path(folder))
        return result

    return run_beside


def replace(site: Path, folder: Path) -> None:
    """Put `folder`/new in the site's place; what was there goes to `folder`/old."""
    target = site.resolve()  # of a link, what it points to
    if target.exists():
        shutil.move(target, folder / "old")
    shutil.move(folder / "new", target)


def describe(error: Exception) -> str:
    """An error in words: of a command that failed, what it said."""
    if isinstance(error, util.ProcessError):
        said = [text.strip().splitlines()[-1] for text in (error.stderr, error.stdout) if (text or "").strip()]
        return f"{error}{': ' + said[0] if said else ''}"
    return str(error) if isinstance(error, util.UserError) else f"{type(error).__name__}: {error}"


def deaf_to_ctrl_c(make_pool: Any) -> Any:
    """asv's pool, whose processes leave Ctrl-C to this one: each would print a traceback."""

    @wraps(make_pool)
    def make_deaf_pool(*args: Any, **kw: Any) -> Any:
        with without_ctrl_c():
            return make_pool(*args, **kw)

    return make_deaf_pool


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C, as processes that are started meanwhile go on to do."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
