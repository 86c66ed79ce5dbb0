"""Make asv's own site link to the Precision page, name the machines, and load nothing from elsewhere."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asv import util
from asv.console import log

from asv_plugin import licenses
from asv_plugin.hooks.places import SUPPORTED, check_page
from asv_plugin.untrusted import for_terminal

WEB = Path(__file__).parents[1] / "web"
"""package.json and package-lock.json of the libraries; npm installs them beside these."""

LIBRARIES = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    # npm's flot is not minified, so asv's integrity attributes, of another host's minified files, do not apply.
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    # asv names 1.0.1, which is not on npm; 1.1.3 is the only one there.
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
"""The file that asv's index.html names to the same library's file in node_modules."""

UNCHECKED = {name for name in LIBRARIES if ".flot." in name and "orderBars" not in name} | {"stupidtable.min.js"}
"""Files that cannot be checked against asv's integrity attributes, for the reasons above."""

ELSEWHERE = re.compile(
    r'<(?P<tag>script|link)\b[^>]*\b(?:src|href)="(?P<url>https://[^"]+)"[^>]*>(?P<end></script>)?'
)
INTEGRITY = re.compile(r'integrity="(sha\d+)-([^"]+)"')

END_OF_HEAD = "</head>"
NAVIGATION = '<li id="nav-li-summarylist">'
FRONT_PAGE = (
    'id="summarygrid-display" style="position: absolute; left: 0; top: 55px; width: 100%; height: 100%">\n'
)
"""Where index.html gets its links."""

SAME_CELL = """<script>
function sameCell() { document.querySelector("#nav-li-precision a").hash = location.hash.replace(/^[^?]*/, ""); }
addEventListener("DOMContentLoaded", sameCell);
addEventListener("hashchange", sameCell);
</script>
"""
"""Lets the link to the Precision page name the machine, model and workload that asv's address does."""


def check() -> None:
    """Stop with a clear error where asv's front page lacks what is replaced in it."""
    check_page("index.html", (NAVIGATION, FRONT_PAGE, END_OF_HEAD), __name__)


def add_links(index: Path, page: str, last_runs: Mapping[str, str]) -> None:
    """Put the Precision page into asv's navigation, and the machines with their last run onto its front page."""
    text = index.read_text(encoding="utf-8")
    entry = f'<li id="nav-li-precision"><a href="{page}">Precision</a></li>\n\t'
    runs = (
        "; ".join(f"{html.escape(for_terminal(name))}, {date}" for name, date in last_runs.items())
        or "nothing yet"
    )
    front = (
        f'<p style="padding: 10px 20px 0">Which precision should I run ESM-2 in? <a href="{page}">The answer</a>. '
        f"Recorded machines, with the date of their last run: {runs}. "
        f'<a href="{licenses.FILE}">Licences</a>.</p>\n'
    )
    text = insert(text, NAVIGATION, entry, before=True)
    text = insert(text, FRONT_PAGE, front, before=False)
    text = insert(text, END_OF_HEAD, SAME_CELL, before=True)
    index.write_text(text, encoding="utf-8")


def insert(text: str, anchor: str, new: str, before: bool) -> str:
    """`text` with `new` beside `anchor`; UserError where this asv's page is another one than expected."""
    if text.count(anchor) != 1:
        raise util.UserError(f"asv's index.html has no {anchor!r}: asv_plugin is written for asv {SUPPORTED}")
    return text.replace(anchor, new + anchor if before else anchor + new)


def use_local_libraries(index: Path) -> None:
    """Copy the libraries that asv's page names into html/vendor and point the page there.

    They come from npm, in the versions of package-lock.json. Without npm, the page stays as asv made it.
    """
    if not shutil.which("npm"):
        log.warning("npm was not found: the dashboard's plots will load their libraries from the internet")
        return
    modules = WEB / "node_modules"
    if installed(modules / ".package-lock.json") != installed(WEB / "package-lock.json"):
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
            log.warning(f"npm could not install the dashboard's libraries, which stay on the internet: {why[0]}")
            return

    def localise(tag: re.Match[str]) -> str:
        name = tag["url"].rsplit("/", 1)[-1]
        if name not in LIBRARIES:
            raise util.UserError(
                f"asv's index.html names {tag['url']}, which asv_plugin/hooks/site.py does not know"
            )
        source = modules / LIBRARIES[name]
        if name not in UNCHECKED and not is_intact(source, tag[0]):
            log.warning(f"{source} is not the file that asv names, and is left on the internet: remove {modules}")
            return tag[0]
        target = index.parent / "vendor" / LIBRARIES[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        path = target.relative_to(index.parent).as_posix()
        if tag["tag"] == "link":
            return f'<link rel="stylesheet" href="{path}">'
        return f'<script src="{path}" onerror="js_load_failure()"></script>'

    index.write_text(ELSEWHERE.sub(localise, index.read_text(encoding="utf-8")), encoding="utf-8")
    # Bootstrap's stylesheet names its fonts beside its folder
    fonts = modules / "bootstrap/dist/fonts"
    shutil.copytree(fonts, index.parent / "vendor/bootstrap/dist/fonts", dirs_exist_ok=True)


def installed(lock: Path) -> dict[str, Any]:
    """The packages in a lock file, without the project itself; none where there is no such file."""
    if not lock.exists():
        return {}
    return {name: about for name, about in json.loads(lock.read_text())["packages"].items() if name}


def is_intact(path: Path, tag: str) -> bool:
    """Whether the file is the one whose hash asv's tag holds; a tag without a hash takes any."""
    expected = INTEGRITY.search(tag)
    if expected is None:
        return True
    return base64.b64encode(hashlib.new(expected[1], path.read_bytes()).digest()).decode() == expected[2]
