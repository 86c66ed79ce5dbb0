"""`asv publish`: make asv's pages show as text what they insert as HTML; whoever sends a result names things.

The places that insert HTML are replaced in the published copy. index.json keeps names as they are, as other places
insert them as text. A content security policy is the second line: only the site's own scripts run.
"""

import base64
import hashlib
import math
import re
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch  # replaces an attribute and restores it, which is as good outside tests

from asv import util
from asv.commands import publish

from asv_plugin.hooks.places import check_page, check_places

PLACES = {
    "asv.commands.publish:Publish.run": "(conf, range_spec=None, pull=True)",
    "asv.util:write_json": "(path, data, ",
}
"""What of asv is hooked below, and how its parameters begin."""

ESCAPE = """'use strict';

function as_html(text) {
    return text == null ? text : String(text).replace(/[&<>"']/g, (char) => '&#' + char.charCodeAt(0) + ';');
}
"""
"""Put in front of asv.js, the first of asv's scripts."""

NO_JSONP = ('dataType: "json",', 'dataType: "json", jsonp: false,')
"""jQuery takes an address with ?? for one of a script."""

MACHINE = ("details.push(key + ': ' + val);", "details.push(as_html(key + ': ' + val));")
CODE = ("title: bm.code,", "title: as_html(bm.code),")

PAGES = {
    "asv.js": (("'use strict';\n", ESCAPE), NO_JSONP),
    "asv_ui.js": (
        ("'<div class=\"panel-heading\">' + heading +", "'<div class=\"panel-heading\">' + as_html(heading) +"),
    ),
    "graphdisplay.js": (
        ('<b class="caret-right"/> \' + parts[j] +', '<b class="caret-right"/> \' + as_html(parts[j]) +'),
        (
            "$('<li><a href=\"#' + bm_name + '\">' + name + '</li>')",
            "$('<li><a href=\"#' + as_html(bm_name) + '\">' + as_html(name) + '</li>')",
        ),
        (
            '$.asv.pretty_unit(y, unit) + " @ " + commit_hash)',
            'as_html($.asv.pretty_unit(y, unit) + " @ " + commit_hash))',
        ),
        ("font-size:smaller;'>\" + tag +", "font-size:smaller;'>\" + as_html(tag) +"),
        MACHINE,
        CODE,
    ),
    "summarygrid.js": (
        ("href=\"#' + bm.name +", "href=\"#' + as_html(bm.name) +"),
        ("id=\"summarygrid-' + bm.name +", "id=\"summarygrid-' + as_html(bm.name) +"),
        (
            "'<div class=\"benchmark-text\">' + display_name +",
            "'<div class=\"benchmark-text\">' + as_html(display_name) +",
        ),
        ("title: bm.name,", "title: as_html(bm.name),"),
        ("$('<h1>' + group + '</h1>')", "$('<h1>' + as_html(group) + '</h1>')"),
        CODE,
    ),
    "summarylist.js": (MACHINE,),
    "regressions.js": (NO_JSONP,),
    "jquery.flot.axislabels.js": (("' + opts.axisLabel + '", "' + as_html(opts.axisLabel) + '"),),
}
"""What of asv's JavaScript is replaced by what in the published copy, everywhere in a file."""

HEAD = "<head>\n"
SCRIPT = re.compile(r"<script\b(?P<attributes>[^>]*)>(?P<body>.*?)</script>", re.DOTALL)
SOURCE = re.compile(r'\bsrc="([^"]+)"')
HANDLER = re.compile(r'\bon\w+="([^"]*)"')


def install() -> None:
    """Make the command publish safe pages; before `hooks.publish.install`. UserError as in `check_places`."""
    check_places(PLACES, __name__)
    check_page("index.html", [HEAD], __name__)
    for page, replaced in PAGES.items():
        check_page(page, [text for text, _ in replaced], __name__)
    publish.Publish.run = staticmethod(escaped(publish.Publish.run))


def escaped(run: Any) -> Any:
    """asv's Publish.run, followed by the replacements in what it has written."""

    @wraps(run)
    def run_escaped(conf: Any, *args: Any, **kw: Any) -> Any:
        # What asv writes for its pages: NaN and Infinity are no JSON, and one of them would leave the site empty
        with patch.object(util, "write_json", finite(util.write_json)):
            result = run(conf, *args, **kw)
        for page, replaced in PAGES.items():
            path = Path(conf.html_dir, page)
            text = path.read_text(encoding="utf-8")
            for unsafe, safe in replaced:
                text = text.replace(unsafe, safe)
            path.write_text(text, encoding="utf-8")
        index = Path(conf.html_dir, "index.html")
        index.write_text(with_policy(index.read_text(encoding="utf-8")), encoding="utf-8")
        return result

    return run_escaped


def finite(write: Any) -> Any:
    """asv's write_json, with null for numbers that JSON does not have."""

    def only_json(data: Any) -> Any:
        if isinstance(data, float):
            return data if math.isfinite(data) else None
        if isinstance(data, dict):
            return {key: only_json(value) for key, value in data.items()}
        return [only_json(value) for value in data] if isinstance(data, (list, tuple)) else data

    @wraps(write)
    def write_finite(path: str, data: Any, *args: Any, **kw: Any) -> None:
        write(path, only_json(data), *args, **kw)

    return write_finite


def with_policy(page: str) -> str:
    """A page of asv's that allows its own scripts, those in it by their hashes, and no others."""
    scripts = list(SCRIPT.finditer(page))
    sources = {source[1] for each in scripts if (source := SOURCE.search(each["attributes"]))}
    inline = {each["body"] for each in scripts if not SOURCE.search(each["attributes"])}
    allowed = [
        "'self'",
        "'unsafe-hashes'",  # for attributes as onerror, of the texts whose hashes follow
        *sorted(map(hash_of, inline | set(HANDLER.findall(page)))),
        *sorted(source for source in sources if source.startswith("https://")),
    ]
    policy = f"script-src {' '.join(allowed)}; object-src 'none'; base-uri 'none'"
    return page.replace(HEAD, f'{HEAD}    <meta http-equiv="Content-Security-Policy" content="{policy}">\n', 1)


def hash_of(script: str) -> str:
    """A script's hash, as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
