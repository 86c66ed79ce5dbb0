"""The Chromium in which published pages are tested; `conftest.chromium` starts it."""

import os
import shutil
from urllib.parse import urlencode

import pytest

from asv_plugin.answer.picture import CHROMIUM

# .ci/run sets it: there, what these tests need is a failure to miss
REQUIRED = bool(os.environ.get("VIRNUCPRO_REQUIRE_BROWSER"))
WITH_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED,
    reason="needs Chromium: install the chromium package, or set CHROMIUM to its path",
)
WITH_NPM = pytest.mark.skipif(
    shutil.which("npm") is None and not REQUIRED, reason="needs npm, from which the dashboard's libraries come"
)


def go_to(page, **chosen: str) -> None:
    """Change the address of the Precision page, which must differ; returns when what it names is shown."""
    page.evaluate(
        """hash => new Promise(done => {
            addEventListener("hashchange", () => setTimeout(done), {once: true});
            location.hash = hash;
        })""",
        urlencode(chosen),
    )


def words(locator) -> str:
    """The text of an element as people read it."""
    return " ".join(locator.inner_text().split())
