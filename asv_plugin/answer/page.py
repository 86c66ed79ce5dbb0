"""Publish the Precision page: html/precision.html, one self-contained file that opens from disk.

asv runs every `OutputPublisher` that it finds when it publishes. The page embeds the summaries of all machines
and commits as JSON; its script only shows the ones that are chosen.
"""

import base64
import datetime
import json
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from asv.config import Config
from asv.publishing import OutputPublisher

from asv_plugin import licenses
from asv_plugin.answer.advice import LARGEST_ERROR
from asv_plugin.answer.cards import card
from asv_plugin.answer.records import BENCHMARKS, ENERGY, FIDELITY, MASSIVE, Record, machines, read_suite, records
from asv_plugin.answer.steps import Step, steps
from asv_plugin.answer.summary import LEGEND, summarize
from asv_plugin.hooks import site
from asv_plugin.hooks.escaping import hash_of

PAGE = "precision.html"

TEMPLATES = Path(__file__).parent / "templates"

COMPRESS_ABOVE = 400_000
"""Bytes of data above which the page holds it compressed; below, the tracked file's diffs stay readable."""


class PrecisionPage(OutputPublisher):
    """asv's hook for a page."""

    name = "precision"
    button_label = "Precision"
    description = "Which precision to run ESM-2 in, for each machine"
    order = 4

    @classmethod
    def publish(cls, conf: Config, repo: Any, benchmarks: Any, graphs: Any, revisions: Any) -> None:
        """Write the page into html/, and fit asv's own front page to it."""
        found = collect(Path(conf.results_dir))
        Path(conf.html_dir, PAGE).write_text(render(conf.project, found), encoding="utf-8")
        index = Path(conf.html_dir, "index.html")
        last_runs = {
            f"{each['machine']} ({each['commits'][0]['device']})": max(
                commit["measured"] for commit in each["commits"]
            )
            for each in found
        }
        site.add_links(index, PAGE, last_runs)
        site.use_local_libraries(index)
        licenses.write(index.parent, site.WEB / "node_modules")


def render(project: str, found: list[dict[str, Any]]) -> str:
    """The page for what `collect` found; the same results give the same bytes (compressed: with the same zlib)."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    about = {
        "links": {metric: f"index.html#{quote(benchmark)}" for metric, benchmark in BENCHMARKS.items()},
        "limit": 100 * LARGEST_ERROR,
        "names": {
            "speed": "tokens/s",
            "memory": "peak memory",
            "energy": ENERGY,
            "error": FIDELITY,
            "massive": MASSIVE,
        },
    }
    data = json.dumps(about | {"machines": found}, separators=(",", ":"), sort_keys=True, allow_nan=False)
    packed = len(data) > COMPRESS_ABOVE
    if packed:
        data = base64.b64encode(zlib.compress(data.encode(), 9)).decode()
    script = Path(TEMPLATES, "precision.js").read_text(encoding="utf-8")
    return environment.get_template("precision.html.j2").render(
        project=project,
        kind="text/plain" if packed else "application/json",
        # "<" cannot end the script element that way, and JSON reads it the same
        data=data.replace("<", "\\u003c"),
        script=script,
        allowed=hash_of(script),
        legend=LEGEND,
    )


def collect(results_dir: Path) -> list[dict[str, Any]]:
    """Each machine's summaries for the page's script; the machine measured last and new commits come first."""
    rules = read_suite(results_dir).rules
    found = []
    for machine, about in machines(results_dir).items():
        measured = records(results_dir, machine)
        if measured:
            worse = steps(measured, rules, has_gpu=bool(about.get("gpu")))
            entry = {
                "machine": machine,
                "about": describe(about),
                "commits": [as_data(*each) for each in zip(measured, worse, strict=True)],
            }
            found.append((max(record.measured for record in measured), entry))
    return [entry for _, entry in sorted(found, key=lambda each: -each[0])]


def describe(about: dict[str, Any]) -> str:
    """asv's record of a machine, in a few words."""
    ram = str(about.get("ram", ""))
    is_number = ram.isdecimal() and len(ram) <= 18
    memory = f"{int(ram) / 2**30:.0f} GiB of memory" if is_number else ram
    return ", ".join(str(part) for part in (about.get("cpu"), memory, about.get("os")) if part)


def as_data(record: Record, worse: dict[tuple[str, str], list[Step]]) -> dict[str, Any]:
    """A record's summary with its dates, its cells as cards."""
    summary = summarize(record)
    data = {
        "commit": record.commit,
        "date": day(record.date),
        "measured": day(record.measured),
        "device": summary.device,
        "how": summary.how,
        "cards": [card(record, each, worse.get((each.model, each.workload), [])) for each in summary.tables],
    }
    lists = {
        "failed": summary.failed,
        "changed": summary.changed,
        "doubtful": summary.doubtful,
        "skipped": summary.skipped,
    }
    return data | {name: lines for name, lines in lists.items() if lines}


def day(milliseconds: float) -> str:
    """A day in UTC."""
    return f"{datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC):%Y-%m-%d}"
