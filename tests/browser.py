"""The Chromium in which published pages are tested; `conftest.chromium` starts it."""

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
# .ci/run sets it: there, what these tests need is a failure to miss
REQUIRED = bool(os.environ.get("VIRNUCPRO_REQUIRE_BROWSER"))
WITH_CHROMIUM = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED,
    reason="needs Chromium: install the chromium package, or set CHROMIUM to its path",
)
WITH_NPM = pytest.mark.skipif(
    shutil.which("npm") is None and not REQUIRED, reason="needs npm, from which the dashboard's libraries come"
)
# Without --disable-background-networking Chromium itself asks for hosts outside
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
