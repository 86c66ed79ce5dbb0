"""The published site in a real browser, with the network blocked."""

import datetime
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from asv import util
from asv.results import Results

from asv_plugin import notes
from asv_plugin.answer import page
from asv_plugin.answer.numbers import format_error
from asv_plugin.answer.page import collect, render
from asv_plugin.answer.records import BENCHMARKS, FIDELITY, MASSIVE, MASSIVE_NOTE, records
from asv_plugin.hooks.broken_files import skip_broken_files
from tests.browser import WITH_CHROMIUM, WITH_NPM, go_to, words
from tests.conftest import sample_of
from tests.limits import PATIENCE
from tests.made_up import M8, M650, ROOT, benchmarks, cells, machine, record

# cut short, no object, other types, another encoding, a row without its columns
BROKEN_RESULTS = (
    b'{"version": 2, "commit',
    b"null",
    b'{"version": 2, "results": null}',
    b"\xff\xfe",
    b"""{"version": 2, "commit_hash": "0", "date": 0, "params": {"machine": "a-cpu"}, "python": "",
    "requirements": {}, "env_name": "e", "env_vars": {}, "result_columns": ["result"], "durations": {},
    "results": {"throughput.Throughput.track_runtime": [[1.0]]}}""",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def known():
    return benchmarks()


@pytest.fixture(scope="module")
def published(tmp_path_factory, known):
    """A repository with two machines' results, one of them with a broken file, published by the real asv."""
    project = tmp_path_factory.mktemp("site")
    for part in ("asv_plugin", "benchmarks"):
        shutil.copytree(ROOT / part, project / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "asv.conf.json", project)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("git", "init", "-qb", "main")
    commits = []
    for number in range(3):
        (project / "number").write_text(str(number))
        run("git", "add", "number")
        run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", str(number))
        commits.append(run("git", "rev-parse", "HEAD").strip())
    results, day = project / "results", 86_400_000
    machine(results, "a-cpu", known)
    machine(results, "an-NVIDIA-H100", known, gpu="NVIDIA H100")
    for number, commit in enumerate(commits):
        slow = cells(M8, "mixed", {"fp32": 5_000, "bf16": 2_500, "fp16": 900}, {"bf16": 0.0133, "fp16": 0.001})
        record(results, "a-cpu", commit, (20_000 + number) * day, slow, known, "a CPU, 2 cores")
        fast = cells(
            M650,
            "mixed",
            {"fp32": 25_200, "tf32": 60_000, "bf16": 99_000, "fp16": 84_400 + 10_000 * number},
            {"tf32": 0.001, "bf16": 0.0801, "fp16": 0.002},
        )
        fast |= cells(M8, "short", {"fp32": 900_000, "fp16": 1_234_567}, {"fp16": 0.001})
        record(results, "an-NVIDIA-H100", commit, (20_000 + number) * day, fast, known, "NVIDIA H100")
    for number, body in enumerate(BROKEN_RESULTS):
        (results / "a-cpu" / f"{number:08d}-broken.json").write_bytes(body)
    for number, body in enumerate((b"{ not json", b"[]", b"null", b"{}", b"\xff")):
        (results / f"broken-machine{number}").mkdir()
        (results / f"broken-machine{number}" / "machine.json").write_bytes(body)
    said = run(sys.executable, "-m", "asv", "publish")
    return SimpleNamespace(project=project, html=project / "html", commits=commits, said=said, results=results)


@pytest.fixture(scope="module")
def served(published):
    """`asv preview` on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "asv", "preview", "--port", str(port)]
    server = subprocess.Popen(command, cwd=published.project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


@pytest.fixture
def visit(chromium):
    """Open a page at a width; complain at the end about errors, failed requests, and any from outside."""
    wrong: list[str] = []
    contexts = []

    def open_page(url: str, width: int = 1280, **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)

        def only_local(route):
            if re.match(r"(http://127\.0\.0\.1[:/]|file:|data:)", route.request.url):
                route.continue_()
            else:
                wrong.append(f"asked for {route.request.url}")
                route.abort()

        context.route("**/*", only_local)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
        page.on("response", lambda answer: answer.status >= 400 and wrong.append(f"{answer.status} {answer.url}"))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


GRAPH = "#throughput.Throughput.track_tokens_per_second"


@WITH_CHROMIUM
@WITH_NPM
@pytest.mark.parametrize("width", sample_of([1280, 390], 1280))
@pytest.mark.parametrize(
    "fragment, selector",
    [
        ("#/", ".benchmark-container .benchmark-text"),
        ("#/summarylist", "#summarylist-body table tbody tr"),
        (GRAPH, "#main-graph canvas"),
        ("#/regressions", "#regressions-body .feed-div, #regressions-body a"),
    ],
)
def test_asvs_pages_render_without_the_internet(served, visit, fragment, selector, width):
    shown = visit(f"{served}/index.html{fragment}", width)
    shown.wait_for_selector(selector, timeout=1000 * PATIENCE)


@WITH_NPM
def test_the_licences_of_all_that_is_published_are_published(published):
    text = (published.html / "licenses.txt").read_text()
    folders = [folder.name for folder in (published.html / "vendor").iterdir()]
    assert len(folders) == 6
    named = re.findall(r"^(\S+) [\d.]+\n=+\n\n\S", text, re.MULTILINE)
    assert named == ["asv", *sorted(folders)]
    assert text.count("Permission is hereby granted") == 5  # flot-orderbars comes without the text
    assert 'href="licenses.txt"' in (published.html / "index.html").read_text()


@WITH_CHROMIUM
@WITH_NPM
def test_the_front_page_names_the_project_the_machines_and_the_answer(served, visit):
    shown = visit(f"{served}/index.html")
    assert shown.inner_text("#project-name") == "VirNucPro"
    front = shown.inner_text("#summarygrid-display")
    assert "a-cpu (a CPU, 2 cores), 2026-11-23" in front
    assert "an-NVIDIA-H100 (NVIDIA H100), 2026-11-23" in front
    shown.click("#nav-li-precision a")
    shown.wait_for_selector("text=Which precision should I run ESM-2 in?")


@WITH_CHROMIUM
def test_the_precision_page_opens_from_disk_with_the_numbers_of_the_result_files(published, visit):
    shown = visit(published.html.joinpath("precision.html").as_uri())
    go_to(shown, machine="an-NVIDIA-H100")
    text = words(shown.locator("main"))
    assert "Fastest: FP16, 4.14 times FP32, " in text
    assert "Not faithful enough: BF16 (8.1 %) of the distance between proteins, at most 5.0 %." in text
    assert "Random weights: speed and memory are right, fidelity is not ESM-2's own" in text
    rows = [each.split("\t") for each in shown.locator(".numbers tbody tr").all_inner_texts()]
    assert rows[0] == ["tokens/s ±2% at most", "25.2k", "60.0k", "99.0k", "104k"]
    assert ["peak memory, GiB", "2.73", "2.73", "1.37", "1.37"] in rows
    assert words(shown.locator("th.best")) == "✓ FP16"
    assert "FP16 104k 4.14x" in words(shown.locator(".bars > div").first)


@WITH_CHROMIUM
def test_the_error_with_a_massive_channel_is_a_row_without_a_graph(tmp_path, known, visit):
    machine(tmp_path, "gpu", known)
    found = cells(M8, "mixed", {"fp32": 5_000, "bf16": 9_000}, {"bf16": 0.0133})
    path = notes.notes_path(record(tmp_path, "gpu", "a" * 40, 0, found, known))
    about = json.loads(path.read_text())
    noted = {"device": "a chip", "versions": {}, "weights": "random", MASSIVE_NOTE: {"error_over_distance": 0.085}}
    about[notes.key(BENCHMARKS[FIDELITY], (M8, "bf16", "mixed"))] = noted | {"proteins": 5, "residues": 1_050}
    path.write_text(json.dumps(about))
    page_path = tmp_path / "precision.html"
    page_path.write_text(render("VirNucPro", collect(tmp_path)), encoding="utf-8")
    shown = visit(page_path.as_uri())
    row = shown.locator(".numbers tbody tr", has_text=MASSIVE)
    assert row.inner_text().split("\t")[-1] == "8.5"
    assert row.locator("a").count() == 0
    assert "Over 5.0 % with a massive channel, as ESM-2 3B's: BF16 (8.5 %); not" in shown.inner_text("main")
    assert shown.locator(".point.out").get_attribute("aria-label").startswith("BF16: 9.00k tokens/s; 1.4 % of the")


@WITH_CHROMIUM
def test_a_recorded_gpus_errors_with_a_massive_channel_are_shown(tmp_path, visit):
    results = ROOT / "results"
    found = collect(results)
    newest = (records(results, each["machine"])[0] for each in found)
    gpu = next(each for each in newest if each.value(MASSIVE, M650, "int8", "mixed"))
    page_path = tmp_path / "precision.html"
    page_path.write_text(render("VirNucPro", found), encoding="utf-8")
    shown = visit(page_path.as_uri())
    go_to(shown, machine=gpu.machine, model=M650, workload="mixed")
    errors = [gpu.value(MASSIVE, M650, precision, "mixed") for precision in gpu.precisions]
    row = shown.locator(".numbers tbody tr", has_text=MASSIVE)
    written = [format_error(each.median).removesuffix(" %") if each else "" for each in errors]
    assert row.inner_text().split("\t")[1:] == written


@WITH_CHROMIUM
def test_older_commits_models_and_workloads_can_be_chosen_by_keyboard(published, visit):
    shown = visit(published.html.joinpath("precision.html").as_uri())
    go_to(shown, machine="an-NVIDIA-H100")
    shown.focus("#commit")
    shown.keyboard.press("ArrowDown")
    shown.keyboard.press("ArrowDown")
    oldest = f"commit {published.commits[0][:8]} of "
    shown.wait_for_function("text => document.querySelector('.how').innerText.includes(text)", arg=oldest)
    assert "FP16 84.4k" in words(shown.locator(".bars"))
    shown.get_by_role("link", name="8M, short: FP16").focus()
    shown.keyboard.press("Enter")
    shown.wait_for_function("document.querySelector('h2').textContent.startsWith('8M, short')")
    assert "8M, short: FP16" in words(shown.locator(":focus")), "the focus stays where it was"
    assert "650M" not in words(shown.locator("h2"))


@WITH_CHROMIUM
@WITH_NPM
def test_each_metric_links_to_its_asv_graph_and_that_to_the_same_cell(published, served, visit):
    shown = visit(f"{served}/precision.html#machine=an-NVIDIA-H100&model={M8}&workload=short")
    before = words(shown.locator("h2"))
    shown.click(".numbers tbody th a >> nth=0")
    shown.wait_for_selector("#main-graph canvas", state="attached")
    assert f"index.html{GRAPH}?machine=an-NVIDIA-H100&" in shown.url
    shown.click("#nav-li-precision a")
    shown.wait_for_selector("h2")
    assert words(shown.locator("h2")) == before
    assert before.startswith("8M, short on ")


@WITH_CHROMIUM
def test_the_history_has_a_text_alternative_and_breaks_where_a_commit_has_no_value(tmp_path, known, visit):
    machine(tmp_path, "gpu", known, gpu="NVIDIA H100")
    for number, speed in enumerate((9_000, 10_000, None, 8_000, 8_100)):
        speeds = {"fp32": 5_000} | ({"fp16": speed} if speed else {})
        found = cells(M8, "mixed", speeds, {"fp16": 0.001})
        record(tmp_path, "gpu", f"{number:08x}" + 32 * "0", number * 86_400_000, found, known)
    path = tmp_path / "precision.html"
    path.write_text(render("VirNucPro", collect(tmp_path)), encoding="utf-8")
    line = visit(path.as_uri()).locator(".trend", has_text="FP16 8.10k")
    assert line.locator("svg").get_attribute("aria-label") == "FP16 by commit: from 9.00k to 8.10k"
    assert line.locator("line").count() == 2
    assert line.locator("circle").count() == 3
    assert line.locator("path title").text_content() == "00000003, 1970-01-04: 8.00k"
    assert line.locator("path").count() == 1, "the one that was slower than the commit before"


@WITH_CHROMIUM
def test_a_commit_that_changed_embeddings_is_marked_and_listed(published, visit, tmp_path, tolerant):
    found = collect(published.results)
    found[0]["commits"][0]["changed"] = ["8M in INT8: moved by 0.5 of the distance"]
    path = tmp_path / "precision.html"
    path.write_text(render("VirNucPro", found), encoding="utf-8")
    shown = visit(path.as_uri())
    assert shown.locator("#commit option").first.text_content().endswith(", changed")
    assert "Listed below: embeddings that changed." in words(shown.locator("main"))
    assert "8M in INT8: moved by 0.5 of the distance" in shown.locator("main li").all_inner_texts()


@WITH_CHROMIUM
def test_the_policy_of_the_precision_page_runs_its_own_script_only(published, chromium, tmp_path):
    path = tmp_path / "precision.html"
    text = published.html.joinpath("precision.html").read_text()
    path.write_text(text.replace("</body>", "<script>document.title = 'ran'</script></body>"), encoding="utf-8")
    with chromium.new_page() as shown:
        shown.goto(path.as_uri())
        shown.wait_for_selector("h2")
        assert shown.title() == "Which precision? VirNucPro"


@WITH_CHROMIUM
def test_a_site_with_nothing_recorded_says_so(tmp_path, visit):
    path = tmp_path / "precision.html"
    path.write_text(render("VirNucPro", []), encoding="utf-8")
    assert "Nothing is recorded yet: run make bench." in visit(path.as_uri()).inner_text("main")


@WITH_CHROMIUM
def test_when_everything_failed_there_is_no_recommendation_but_the_reason(tmp_path, known, visit):
    machine(tmp_path, "gpu", known)
    result = record(tmp_path, "gpu", "a" * 40, 0, {}, known)
    failed = {f"throughput.Throughput.track_runtime({M8}, fp32, short)": {"failed": "OutOfMemoryError: boo"}}
    result.with_suffix(".notes").write_text(json.dumps(failed))
    path = tmp_path / "precision.html"
    path.write_text(render("VirNucPro", collect(tmp_path)), encoding="utf-8")
    text = visit(path.as_uri()).inner_text("main")
    assert "No recommendation: nothing was measured" in text
    assert f"OutOfMemoryError: boo ({M8}, fp32, short)" in text


@pytest.fixture
def tolerant(monkeypatch):
    """Skip broken files in this process too, as asv does with the plugin."""
    monkeypatch.setattr(util, "load_json", util.load_json)
    monkeypatch.setattr(Results, "load", Results.load)
    skip_broken_files()


def test_broken_files_are_named_and_skipped(published, tolerant):
    for number in range(len(BROKEN_RESULTS)):
        assert f"{number:08d}-broken.json" in published.said
    for number in range(5):
        assert re.search(rf"Skipping .*broken-machine{number}/machine\.json", published.said)
    assert {each["machine"] for each in collect(published.results)} == {"a-cpu", "an-NVIDIA-H100"}


def test_the_machine_that_was_measured_last_is_shown_first(tmp_path, known):
    for day, name in enumerate(("first", "third", "second"), start=1):
        machine(tmp_path, name, known)
        started = datetime.datetime(2026, 1, {"first": 9, "second": 5, "third": 1}[name], tzinfo=datetime.UTC)
        measured = cells(M8, "mixed", {"fp32": 5_000}, {})
        record(tmp_path, name, f"{day:040x}", day, measured, known, started=started)
    assert [each["machine"] for each in collect(tmp_path)] == ["first", "second", "third"]


def test_the_same_results_give_the_same_bytes(published, tolerant):
    again = render("VirNucPro", collect(published.results))
    assert published.html.joinpath("precision.html").read_text() == again


def test_a_range_that_git_does_not_know_leaves_the_site_and_the_repository_as_they_were(published):
    def state() -> tuple[str, dict[str, bytes]]:
        git = subprocess.run(
            ["git", "status", "--porcelain"], cwd=published.project, capture_output=True, text=True
        )
        return git.stdout, {str(path): path.read_bytes() for path in published.html.rglob("*") if path.is_file()}

    before = state()
    command = [sys.executable, "-m", "asv", "publish", "no-such-commit..main"]
    done = subprocess.run(command, cwd=published.project, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "no-such-commit..main" in done.stdout + done.stderr
    assert state() == before


def test_the_precision_page_names_no_other_host(published):
    text = published.html.joinpath("precision.html").read_text()
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
    }


def test_published_json_can_be_parsed_by_browsers(published):
    def refuse(name: str) -> None:
        raise ValueError(name)

    for path in published.html.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


@WITH_CHROMIUM
def test_a_long_history_stays_small_and_is_unpacked(tmp_path, known, visit, monkeypatch):
    monkeypatch.setattr(page, "COMPRESS_ABOVE", 100_000)
    machine(tmp_path, "many", known)
    speeds = {"fp32": 25_200.0, "tf32": 60_000.0, "bf16": 99_000.0, "fp16": 100_000.0}
    path = tmp_path / "precision.html"
    for number in range(40):
        many = {}
        for model in (M8, M650):
            for workload in ("short", "medium", "long", "mixed", "full"):
                faster = {name: speed * (1 + number / 7.3) for name, speed in speeds.items()}
                many |= cells(model, workload, faster, {"fp16": 0.001})
        record(tmp_path, "many", f"{number:08x}" + 32 * "0", number * 86_400_000, many, known)
    path.write_text(render("VirNucPro", collect(tmp_path)), encoding="utf-8")
    assert '<script type="text/plain" id="data">' in path.read_text()
    assert path.stat().st_size < 100_000
    shown = visit(path.as_uri())
    assert shown.locator("#commit option").count() == 40
    assert "Fastest: FP16, 3.97 times" in shown.inner_text("main")
