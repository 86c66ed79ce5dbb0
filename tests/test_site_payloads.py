"""No script in a name, a note or a reason runs on the published pages: all of them are shown as text."""

import datetime
import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from asv_plugin import notes
from tests.browser import WITH_CHROMIUM, WITH_NPM, go_to
from tests.limits import PATIENCE
from tests.made_up import M8, ROOT, cells, machine, record
from tests.payloads import BROWSER, REFERENCES, TERMINAL

pytestmark = [pytest.mark.slow, WITH_CHROMIUM, WITH_NPM]

DAY = 86_400_000
NAMES = ("a-cpu", *[payload for payload in BROWSER if not set("/\\") & set(payload)][:4])
"""Of machines, which are folders'."""


def payload(number: int) -> str:
    return BROWSER[number % len(BROWSER)]


def benchmark(number: int) -> dict:
    """A benchmark of which all that may be text carries payloads."""
    return {
        "name": f"payload.Page.track_{number}",
        "pretty_name": payload(number),
        "code": f"def track():\n    return '{payload(number + 1)}'",
        "param_names": [payload(number + 2), "size"],
        "params": [[f"'{payload(number + 3)}'", payload(number + 4)], ["1", "2"]],
        "unit": payload(number + 5),
        "type": "track",
        "version": "1",
        "higher_is_better": bool(number % 2),
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A project of which branches, tags, authors, messages, results and notes carry payloads, published by asv."""
    project = tmp_path_factory.mktemp("payloads")
    for part in ("asv_plugin", "benchmarks"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    conf = {"version": 1, "project": "VirNucPro", "repo": ".", "branches": ["main", *REFERENCES[:2]]}
    conf |= {"project_url": "https://example.invalid", "show_commit_url": "https://example.invalid/commit/"}
    (project / "asv.conf.json").write_text(json.dumps(conf | {"plugins": [".asv_plugin"]}))

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "-qb", "main")
    commits = []
    for number in range(6):
        who = ("-c", f"user.name={payload(number)}", "-c", "user.email=t@localhost")
        run("git", *who, "commit", "-q", "--allow-empty", "-m", payload(number))
        commits.append(run("git", "rev-parse", "HEAD").strip())
    for number, name in enumerate(REFERENCES):
        run("git", "branch", name)
        run("git", "tag", f"tag{name}", commits[number])
    known = json.loads((ROOT / "results/benchmarks.json").read_text())
    known = {name: entry for name, entry in known.items() if name.startswith(("throughput.", "precision."))}
    ours = {each["name"]: each for each in map(benchmark, range(len(BROWSER)))}
    unusable = {name: ours["payload.Page.track_0"] | {"name": name} for name in BROWSER}
    results = project / "results"
    for number, name in enumerate(NAMES):
        about = {"cpu": payload(number), "os": payload(number + 1), NAMES[1]: payload(number + 2)}
        machine(results, name, known | ours | unusable, **about)
        for at, commit in enumerate(commits if number < 2 else commits[:1]):
            measured = cells(M8, "mixed", {"fp32": 5_000, "bf16": 2_500}, {"bf16": 0.0133})
            path = record(results, name, commit, (20_000 + at) * DAY, measured, known, payload(number))
            add_payloads(path, ours, at, number)
        recorded = results / name / "machine.json"
        recorded.write_text(json.dumps(json.loads(recorded.read_text()) | {text: text for text in BROWSER}))
    said = run(sys.executable, "-m", "asv", "publish")
    return SimpleNamespace(html=project / "html", said=said)


def add_payloads(path: Path, ours: dict[str, dict], commit: int, number: int) -> None:
    """Results of our benchmarks, each a regression in the third commit; and notes."""
    content = json.loads(path.read_text())
    started = int(datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC).timestamp() * 1000)
    for name, entry in ours.items():
        value = (2.0 if commit > 2 else 1.0) ** (-1 if entry["higher_is_better"] else 1)
        content["results"][name] = [[value] * 4, entry["params"], "1", started, 1.0]
    content["env_vars"] = {payload(number): payload(number + 1)}
    path.write_text(json.dumps(content))
    about = notes.read(notes.notes_path(path))
    for note in about.values():
        note |= {"weights": payload(number + 4), "versions": {payload(number + 5): payload(number + 6)}}
        note |= {"threads": 2, "cpus": payload(number + 7), "gpu": {"busy": payload(number + 8)}}
    for at, text in enumerate((*BROWSER, *TERMINAL)):
        about[f"throughput.Throughput.track_runtime({text}, x, y)"] = {("failed", "skipped")[at % 2]: text}
    notes.notes_path(path).write_text(json.dumps(about))


@pytest.fixture(scope="module")
def served(site):
    """The pages on a free port."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site.html))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def visit(chromium):
    """Open a page, without its policy, so that only what is escaped is safe; in the end nothing must have run."""
    ran, contexts = [], []

    def open_page(url: str, bypass_csp: bool = True):
        context = chromium.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=bypass_csp)
        contexts.append(context)
        context.expose_function("ran", lambda: ran.append(url))
        context.route(lambda address: "127.0.0.1" not in address, lambda route: route.abort())
        page = context.new_page()
        page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: ran.append(str(error)))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            page.wait_for_timeout(100)  # for what an element that was inserted last would run
        context.close()
    assert ran == []


INSERTED = """() => [...document.querySelectorAll('body *')].filter((element) =>
    [...element.attributes].some((each) =>
        /^on/.test(each.name) || each.name !== 'label' && /^\\s*javascript:/i.test(each.value))
    || element.matches('script:not(#data, #data + script), svg:not(#main svg), img:not([src="swallow.png"])')
    || element.matches('iframe, math, details, style, object, embed, input[autofocus]')
).map((element) => element.outerHTML)"""
"""Elements that asv's pages have none of, and the Precision page none but its own; an optgroup's label is text."""


def hover(page, selector: str) -> str:
    """Hover over each element that is shown; the text of all tooltips."""
    said = []
    for element in page.locator(selector).all():
        if element.is_visible():
            element.hover(force=True)
            page.wait_for_timeout(20)
            said += page.locator(".tooltip").all_inner_texts()
            assert page.evaluate(INSERTED) == []
    return "\n".join(said)


def plain(text: str) -> str:
    """Text without differences of blanks, which HTML does not keep."""
    return " ".join(text.split())


def assert_shown(texts, where: str) -> None:
    missing = [text for text in texts if plain(text) not in plain(where)]
    assert not missing


def test_what_cannot_be_a_benchmarks_name_is_named_and_left_out(site):
    index = json.loads((site.html / "index.json").read_text())
    assert not set(index["benchmarks"]) & set(BROWSER)
    for name in BROWSER:
        assert f"Skipping {name} in " in site.said


def test_the_grid(site, served, visit):
    page = visit(f"{served}/index.html")
    assert_shown(BROWSER, page.inner_text("#summarygrid-display"))
    assert_shown(NAMES, page.inner_text("#summarygrid-display"))
    said = hover(page, "#group-payload .benchmark-text") + hover(page, "#group-payload .benchmark-plot")
    assert_shown([f"return '{text}'" for text in BROWSER], said)
    page.locator("#group-payload .benchmark-container").nth(3).click()
    page.wait_for_selector("#main-graph canvas")
    assert page.evaluate(INSERTED) == []


def test_the_list(site, served, visit):
    page = visit(f"{served}/index.html#/summarylist")
    page.wait_for_selector("#summarylist-body table tbody tr")
    assert_shown(BROWSER, page.inner_text("#summarylist-body"))
    assert_shown([*NAMES, *REFERENCES[:2]], page.inner_text("#summarylist-navigation"))
    said = hover(page, "#summarylist-navigation .panel:first-child .btn")
    assert_shown([f"{text}: {text}" for text in BROWSER], said)
    hover(page, "#summarylist-body tbody tr:nth-child(-n+3) a")
    for selector in ("#summarylist-body thead th", "#summarylist-navigation .btn"):
        for at in range(min(page.locator(selector).count(), 3)):
            page.locator(selector).nth(at).click(force=True)
            assert page.evaluate(INSERTED) == []


@pytest.mark.parametrize("number", range(0, len(BROWSER), 7))
def test_a_graph(site, served, visit, number):
    page = visit(f"{served}/index.html#payload.Page.track_{number}?machine=a-cpu")
    page.wait_for_selector("#main-graph canvas", state="attached")
    navigation = page.inner_text("#graphdisplay-navigation")
    entry = benchmark(number)
    assert_shown([entry["param_names"][0], entry["params"][0][1], *NAMES, *REFERENCES[:2]], navigation)
    assert_shown([f"tag{name}" for name in REFERENCES], page.inner_text("#main-graph"))
    for at in range(page.locator("label.nav-header").count()):
        page.locator("label.nav-header").nth(at).click()
    page.wait_for_timeout(300)
    assert_shown(BROWSER, page.inner_text("#graphdisplay-navigation"))
    said = hover(page, "#graphdisplay-state-params .panel:first-child .btn")
    assert_shown([f"{text}: {text}" for text in BROWSER], said)
    if not number:
        said = hover(page, "#graphdisplay-navigation li a")
        assert_shown([f"return '{text}'" for text in BROWSER], said)
    # the tooltip of a point has the unit
    page.evaluate("$('#main-graph').trigger('plothover', [{}, {datapoint: [5, 1], pageX: 500, pageY: 500}])")
    page.wait_for_timeout(100)
    assert_shown([entry["unit"]], "\n".join(page.locator(".tooltip").all_inner_texts()))
    selector = "#graphdisplay-navigation-params .btn"
    for at in range(page.locator(selector).count()):
        page.locator(selector).nth(at).click(force=True)
        page.wait_for_timeout(50)
        assert page.evaluate(INSERTED) == []


def test_regressions(site, served, visit):
    page = visit(f"{served}/index.html#/regressions")
    page.wait_for_selector("#regressions-body tbody tr")
    assert page.locator(".dropdown-menu a").all_text_contents() == ["main", *REFERENCES[:2]]
    assert_shown([payload(number + 4) for number in range(len(BROWSER))], page.inner_text("#regressions-body"))
    hover(page, "#regressions-body tbody tr:nth-child(-n+3) a")
    for selector in (".dropdown-toggle", ".dropdown-menu a >> nth=1", "button:has-text('Group')"):
        page.locator(f"#regressions-body {selector}").first.click(force=True)
        page.wait_for_timeout(100)
        assert page.evaluate(INSERTED) == []


def test_the_precision_page(site, served, visit):
    page = visit(f"{served}/precision.html")
    shown = ""
    assert sorted(page.locator("#machine option").all_text_contents()) == sorted(NAMES)
    for name in NAMES:
        go_to(page, machine=name, beside="a-cpu@")
        shown += page.inner_text("body")
    assert_shown(BROWSER, shown)
    hover(page, "main a, main li, .point")
    assert page.evaluate(INSERTED) == []


def test_no_script_in_an_address_of_the_precision_page_runs(served, visit):
    page = visit(f"{served}/precision.html")
    for text in BROWSER:
        go_to(page, **dict.fromkeys(("machine", "commit", "model", "workload", "beside"), text))
        assert_shown([text.strip("'")], page.inner_text(".warn >> nth=0"))
        assert page.evaluate(INSERTED) == []


def test_the_policy_stops_what_would_be_inserted_nevertheless(served, visit):
    page = visit(f"{served}/index.html", bypass_csp=False)
    page.wait_for_selector("#summarygrid-display h1")
    for text in BROWSER:
        page.evaluate("text => $('body').append('<div>' + text + '</div>')", text)
    page.evaluate("$('body').append('<a id=link href=\"javascript:ran()\">link</a>')")
    page.evaluate("document.getElementById('link').click()")
    page.wait_for_timeout(300)


def test_the_feed_is_well_formed_and_has_names_as_text(site):
    from xml.etree import ElementTree

    text = (site.html / "regressions.xml").read_text(encoding="utf-8")
    titles = [each.text for each in ElementTree.fromstring(text).iter("{http://www.w3.org/2005/Atom}title")]
    assert any(payload(4) in str(title) for title in titles)
    contents = [each.text for each in ElementTree.fromstring(text).iter("{http://www.w3.org/2005/Atom}content")]
    assert len(contents) > 10 and not any("ran()" in str(content) for content in contents)
