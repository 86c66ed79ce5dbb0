"""The verdicts of the real asv, with and without the plugin, on a repository whose commits carry their numbers."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from asv.util import UserError
from hypothesis import assume, given
from hypothesis import strategies as st

from asv_plugin.hooks import compare, regressions
from asv_plugin.rules import Rule, with_rule
from tests.conftest import sample_of
from tests.limits import PATIENCE

ROOT = Path(__file__).parents[3]
JUDGE = """
from asv_plugin.hooks import compare, find, regressions

def setup():
    compare.install()
    find.install()
    regressions.install()
"""
ATOM = "{http://www.w3.org/2005/Atom}"

BENCHMARKS = """
import numbers_of_this_commit as it

def track_speed(model):
    return {"samples": [it.speed + k / 10 for k in range(-4, 5)], "number": 1}

track_speed.params = ["a", "b"]
track_speed.higher_is_better = True
track_speed.compare_factor = 1.05

def track_memory():
    return it.memory

track_memory.unit = "bytes"

def track_runtime():
    return it.runtime

track_runtime.compare_factor = 1.03

def track_fidelity():
    return it.fidelity

track_fidelity.higher_is_better = True
track_fidelity.compare_difference = 0.0005
"""

NUMBERS = {
    "before": {"speed": 1000, "memory": 1000, "runtime": 1.0, "fidelity": 0.9999},
    "down": {"speed": 800, "memory": 800, "runtime": 1.04, "fidelity": 0.99},
    "up": {"speed": 1200, "memory": 1200, "runtime": 1.0, "fidelity": 0.9996},
}
SPEEDS = {"track_speed('a')", "track_speed('b')"}
INSTALL = "import shutil, site; shutil.copy('numbers_of_this_commit.py', site.getsitepackages()[0])"
CONF = {
    "version": 1,
    "project": "toy",
    "project_url": "toy",
    "repo": ".",
    "branches": ["down", "up"],
    "environment_type": "virtualenv",
    "build_command": [],
    "install_command": [f'in-dir={{build_dir}} python -c "{INSTALL}"'],
    "uninstall_command": [],
    "env_dir": ".asv/env",
    "launch_method": "forkserver",
    "plugins": [".judge"],
}

# A page of asv's dashboard in Node, with a jQuery that only notes what the page makes.
SHOW = """
const [script, data, index] = process.argv.slice(1, 4).map(path => require("fs").readFileSync(path, "utf8"));
const made = [];
function $(html) {
  const note = {html, text: "", classes: [], sort: null};
  made.push(note);
  const node = new Proxy({}, {get: (_, method) => (...args) => {
    if (method === "ready") args[0]();
    if (method === "text") note.text = args[0];
    if (method === "addClass") note.classes.push(args[0]);
    const given = args.length === 2 ? {[args[0]]: args[1]} : args[0];
    if (method === "attr") note.sort = given["data-sort-value"] ?? note.sort;
    return node;
  }});
  return node;
}
const nothing = new Proxy({}, {get: () => () => "", set: () => true});
const loaded = () => ({done: show => show(JSON.parse(data))});
$.each = (all, visit) => Object.entries(all ?? {}).forEach(([k, v]) => visit(Array.isArray(all) ? +k : k, v));
$.ajax = loaded;
$.asv = {
  main_json: JSON.parse(index), ui: nothing, load_graph_data: loaded, graph_to_path: () => "", time_units: [],
  param_selection_from_flat_idx: (params, i) => [null, [i]], parse_hash_string: () => ({params: {}}),
  format_hash_string: () => "", pretty_unit: String, get_commit_hash: String, format_date_yyyymmdd: String,
  format_date_yyyymmdd_hhmm: String, register_page: (name, show) => show({branch: [process.argv[4]]}),
};
const window = {location: {hash: ""}};
new Function("$", "document", "window", "Storage", "md5", script)($, null, window, undefined, String);
console.log(JSON.stringify(made));
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The repository: four commits of `before`, then four each on the branches `down` and `up`."""
    project = tmp_path_factory.mktemp("direction") / "project"
    (project / "benchmarks").mkdir(parents=True)
    (project / "benchmarks/__init__.py").write_text(BENCHMARKS)
    (project / "judge.py").write_text(JUDGE)
    (project / ".gitignore").write_text("*\n!numbers_of_this_commit.py\n")
    confs = {
        "judged": CONF,
        "plain": CONF | {"plugins": []},
        "thresholds": CONF | {"regressions_thresholds": {".*runtime@down": 0.1, ".*fidelity": 0.05}},
        "lower": CONF | {"results_dir": "results-lower"},
        "lower-plain": CONF | {"results_dir": "results-lower", "plugins": []},
    }
    for name, conf in confs.items():
        (project / f"{name}.json").write_text(json.dumps(conf | {"html_dir": f"html-{name}"}))
    env = os.environ | {"HOME": str(project.parent), "PYTHONPATH": str(ROOT)}
    env["PYTHONHASHSEED"] = "0"  # asv lists graphs in the order of a set
    # Two commits' numbers have one size and may be installed within a second: bytecode would pass for the other's
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    env |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost"}
    env |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*command: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def asv(conf: str, command: str, *arguments: str, code: int = 0) -> str:
        return run(sys.executable, "-m", "asv", command, "--config", f"{conf}.json", *arguments, code=code)

    def commit(numbers: dict[str, float]) -> str:
        lines = [f"{name} = {value}\n" for name, value in numbers.items()]
        (project / "numbers_of_this_commit.py").write_text("".join(lines))
        run("git", "add", "-A")
        run("git", "commit", "-q", "--allow-empty", "-m", "numbers")
        return run("git", "rev-parse", "HEAD").strip()

    run("git", "init", "-qb", "before")
    commits = {"before": [commit(NUMBERS["before"]) for _ in range(4)]}
    for branch in ("down", "up"):
        run("git", "checkout", "-qb", branch, "before")
        commits[branch] = [commit(NUMBERS[branch]) for _ in range(4)]

    asv("judged", "machine", "--yes")
    asv("judged", "continuous", "before", commits["down"][0], code=1)

    # The other commits' results are written in the form that asv has written this one's
    (measured,) = project.glob(f"results/*/{commits['down'][0][:8]}-*.json")
    result = json.loads(measured.read_text())
    for name, hashes in commits.items():
        for number, commit_hash in enumerate(hashes):
            path = measured.with_name(measured.name.replace(commits["down"][0][:8], commit_hash[:8]))
            if not path.exists():
                result["commit_hash"], result["date"] = commit_hash, 1_700_000_000_000 + 86_400_000 * number
                for benchmark, columns in result["results"].items():
                    value = NUMBERS[name][benchmark.removeprefix("track_")]
                    result["results"][benchmark] = [[value] * len(columns[0]), *columns[1:5]]
                path.write_text(json.dumps(result))

    # The same numbers as those of a suite in which lower is better throughout
    shutil.copytree(project / "results", project / "results-lower")
    path = project / "results-lower/benchmarks.json"
    path.write_text(re.sub(r' *"(higher_is_better|compare_\w+)": .*\n', "", path.read_text()))
    return SimpleNamespace(asv=asv, project=project, commits=commits)


@pytest.fixture(scope="module")
def published(toy):
    """Publish by a configuration, once; its html folder."""

    def publish(conf: str) -> Path:
        html = toy.project / f"html-{conf}"
        if not html.exists():
            toy.asv(conf, "publish", "--no-pull")
        return html

    return publish


def rows_of(table: str) -> list[list[str]]:
    """The cells of the rows that asv prints."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "Benchmark (" not in line]


def marks(table: str) -> dict[str, str]:
    """Benchmark to asv's mark: + worse, - better."""
    return {row[-1]: row[0] for row in rows_of(table)}


def listed(html: Path) -> set[tuple[str, str]]:
    """(branch, benchmark) of what the Regressions page lists."""
    found = json.loads((html / "regressions.json").read_text())["regressions"]
    return {(params["branch"], name) for name, _, params, *_ in found}


def feed(html: Path) -> list[tuple[str, str]]:
    """Title and text of the feed's entries."""
    entries = ET.parse(html / "regressions.xml").getroot().iter(f"{ATOM}entry")
    return [(entry.findtext(f"{ATOM}title"), entry.findtext(f"{ATOM}content")) for entry in entries]


def made_by(html: Path, page: str, data: Path, branch: str) -> list[dict[str, object]]:
    """What a page of the dashboard makes of its data."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    files = [str(path) for path in (html / page, data, html / "index.json")]
    done = subprocess.run([node, "-e", SHOW, *files, branch], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def changes(html: Path, branch: str) -> dict[str, tuple[list[str], float]]:
    """Benchmark to the colour and sort value of its change in the List view."""
    (data,) = html.glob(f"graphs/**/branch-{branch}/**/summary.json")
    cells = [made for made in made_by(html, "summarylist.js", data, branch) if made["html"] == CHANGE]
    names = [row["pretty_name"] for row in json.loads(data.read_text())]
    return {name: (cell["classes"], cell["sort"]) for name, cell in zip(names, cells, strict=True)}


WORSE, BETTER = ["positive-change"], ["negative-change"]
CHANGE = '<td class="change"/>'


@pytest.mark.parametrize(
    ("conf", "branch", "speed", "memory", "runtime", "fidelity"),
    [
        ("judged", "down", "+", "-", "+", "+"),
        ("judged", "up", "-", "+", "", ""),
        ("plain", "down", "-", "-", "", ""),
        pytest.param(*("plain", "up", "+", "+", "", ""), marks=pytest.mark.exhaustive),
    ],
)
def test_compare_marks_losses_and_without_the_plugin_is_wrong(toy, conf, branch, speed, memory, runtime, fidelity):
    assert marks(toy.asv(conf, "compare", "before", toy.commits[branch][0])) == {
        **dict.fromkeys(SPEEDS, speed),
        "track_memory": memory,
        "track_runtime": runtime,
        "track_fidelity": fidelity,
    }


def test_ratios_are_as_measured_and_the_table_says_which_way_is_better(toy):
    table = toy.asv("judged", "compare", "before", toy.commits["down"][0])
    assert {row[-1]: row[-3:-1] for row in rows_of(table)} == {
        "track_speed('a')": ["0.8", "higher"],
        "track_speed('b')": ["0.8", "higher"],
        "track_memory": ["0.8", "lower"],
        "track_runtime": ["1.04", "lower"],
        "track_fidelity": ["0.99", "higher"],
    }
    assert "Better" in table


def test_sorting_by_ratio_puts_the_worst_first(toy):
    down = toy.asv("judged", "compare", "before", toy.commits["down"][0], "--sort", "ratio")
    order = [row[-1] for row in rows_of(down)]
    assert set(order[:2]) == SPEEDS
    assert order[2:] == ["track_runtime", "track_fidelity", "track_memory"]
    up = toy.asv("judged", "compare", "before", "up", "--sort", "ratio")
    order = [row[-1] for row in rows_of(up)]
    assert order[0] == "track_memory"
    assert set(order[-2:]) == SPEEDS


def test_only_changed_and_split_follow_the_verdict(toy):
    changed = toy.asv("judged", "compare", "before", "up", "--only-changed")
    assert marks(changed) == {**dict.fromkeys(SPEEDS, "-"), "track_memory": "+"}
    split = toy.asv("judged", "compare", "before", "up", "--split")
    sections = re.split(r"Benchmarks that have (improved|stayed the same|got worse):", split)
    found = {title: set(marks(table)) for title, table in zip(sections[1::2], sections[2::2], strict=True)}
    assert found == {
        "improved": SPEEDS,
        "stayed the same": {"track_runtime", "track_fidelity"},
        "got worse": {"track_memory"},
    }


@pytest.mark.parametrize("typed", [["--factor", "1.1"], ["-f1.1"]])
def test_a_factor_on_the_command_line_wins_over_the_benchmarks_even_if_it_is_asvs_default(toy, typed):
    found = marks(toy.asv("judged", "compare", "before", toy.commits["down"][0], *typed))
    assert found["track_runtime"] == ""
    assert found["track_fidelity"] == "+"  # a factor says nothing about a difference
    assert {found[name] for name in SPEEDS} == {"+"}


@pytest.mark.parametrize(
    ("conf", "branch", "benchmarks", "code"),
    [
        ("judged", "down", "speed|memory", 1),
        pytest.param(*("judged", "up", "speed", 0), marks=pytest.mark.exhaustive),
        pytest.param(*("plain", "down", "speed|memory", 0), marks=pytest.mark.exhaustive),
        pytest.param(*("plain", "up", "speed", 1), marks=pytest.mark.exhaustive),
    ],
)
def test_continuous_fails_for_a_loss_of_speed_and_without_the_plugin_for_a_gain(
    toy, conf, branch, benchmarks, code
):
    said = toy.asv(conf, "continuous", "before", toy.commits[branch][0], "--bench", benchmarks, code=code)
    found = marks(said)
    assert {found.pop(name) for name in SPEEDS} == {"+" if code else "-"}
    assert found == ({"track_memory": "-"} if branch == "down" else {})
    assert ("PERFORMANCE DECREASED" in said) == (code == 1)


@pytest.mark.parametrize(
    ("conf", "branch", "benchmark", "options", "said"),
    [
        ("judged", "down", "track_speed", [], "regression"),
        *(
            pytest.param(*each, marks=pytest.mark.exhaustive)
            for each in (
                ("judged", "up", "track_memory", [], "regression"),
                ("judged", "up", "track_speed", ["--invert"], "improvement"),
                ("judged", "down", "track_memory", ["--invert"], "improvement"),
            )
        ),
    ],
)
def test_find_names_the_commit_that_made_a_difference_in_the_benchmarks_direction(
    toy, conf, branch, benchmark, options, said
):
    changed = toy.commits[branch][0]
    found = toy.asv(conf, "find", f"before~3..{changed}", benchmark, "--skip-save", *options)
    assert re.search(rf"Greatest {said} found: {changed[:8]}", found), found


@pytest.mark.exhaustive
def test_find_without_the_plugin_names_an_innocent_commit_for_a_loss_of_speed(toy):
    changed = toy.commits["down"][0]
    found = toy.asv("plain", "find", f"before~3..{changed}", "track_speed", "--skip-save")
    assert changed[:8] not in found.partition("Greatest regression found:")[2]


def test_the_regressions_page_lists_losses_of_speed_and_gains_of_memory(published):
    lost = {*SPEEDS, "track_runtime", "track_fidelity"}
    assert listed(published("judged")) == {("down", name) for name in lost} | {("up", "track_memory")}
    assert listed(published("plain")) == {("up", name) for name in (*SPEEDS, "track_memory")}


def test_the_regressions_page_has_values_as_measured(published):
    found = json.loads((published("judged") / "regressions.json").read_text())["regressions"]
    (entry,) = [entry for entry in found if entry[0] == "track_speed('a')"]
    *_, last, best, [(_, _, before, after)] = entry
    assert (before, best, after, last) == (1000, 1000, 800, 800)


def test_asvs_configuration_decides_the_regressions_pages_thresholds(published):
    assert listed(published("thresholds")) == {
        *(("down", name) for name in SPEEDS),
        ("up", "track_memory"),
    }


def test_the_feed_calls_a_loss_a_loss(published):
    entries = dict(feed(published("judged")))
    assert len(entries) == 5
    losses = {title: text for title, text in entries.items() if "speed" in title}
    for title, text in losses.items():
        assert re.fullmatch(r"20\.00% loss in track_speed\('[ab]'\)", title)
        assert re.search(r">20\.00% loss</a> on .*New value: 800.*, old value: 1000", text, re.DOTALL)
        assert re.search(r"Latest value: 800.*\(20\.00% worse\s+than best value 1000", text, re.DOTALL)
    assert len(losses) == 2
    assert "regression</a>" in entries["20.00% track_memory"]
    assert "-2" not in " ".join(entries)


def test_the_list_view_colours_a_loss_of_speed_red_and_sorts_it_with_the_worse(published):
    down, up = (changes(published("judged"), branch) for branch in ("down", "up"))
    assert {down[name][0] == WORSE and down[name][1] > 19 for name in SPEEDS} == {True}
    assert {up[name][0] == BETTER and up[name][1] < -19 for name in SPEEDS} == {True}
    assert (down["track_memory"][0], up["track_memory"][0]) == (BETTER, WORSE)
    plain = changes(published("plain"), "down")
    assert plain["track_speed('a')"][0] == BETTER
    assert plain["track_memory"] == down["track_memory"]


def test_the_regressions_page_sorts_by_how_much_worse(published):
    html = published("judged")
    made = made_by(html, "regressions.js", html / "regressions.json", "down")
    factors = {cell["text"]: cell["sort"] for cell in made if re.fullmatch(r"[\d.]+x", cell["text"])}
    assert float(factors.pop("0.80x").rstrip("x")) == pytest.approx(1.25, rel=0.001)
    assert factors.pop("1.04x") is None


@pytest.mark.parametrize(
    "options", sample_of([[], ["--split"], ["--sort", "ratio", "--only-changed", "-f1.01"], ["--no-stats"]], [])
)
def test_where_lower_is_better_compare_prints_what_it_prints_without_the_plugin(toy, options):
    with_plugin, without = (
        toy.asv(conf, "compare", "before", "up", *options) for conf in ("lower", "lower-plain")
    )
    assert with_plugin == re.sub(r"<([\w~]+)>", r"(\1)", without)  # asv's `<name>` may be a tag of HTML
    assert set(marks(without)) >= SPEEDS


def test_where_lower_is_better_the_pages_have_what_they_have_without_the_plugin(published):
    for data in ("regressions.json", "regressions.xml"):
        assert (published("lower") / data).read_text() == (published("lower-plain") / data).read_text()


@given(st.floats(1e-3, 1e6), st.floats(0.5, 2), st.floats(1.001, 1.5))
def test_page_and_compare_call_the_same_loss_a_loss(before, ratio, factor):
    after = before * ratio
    assume(abs(ratio * factor - 1) > 1e-9)
    threshold = with_rule(factor - 1, Rule(higher_is_better=True))
    steps = [(0, 4, before, before, 0.0), (4, 8, after, after, 0.0)]
    last, best, jumps = detector()(steps, threshold)
    if ratio < 1 / factor:
        assert (last, best, jumps) == (after, before, [(3, 4, before, after)])
    else:
        assert jumps is None


def detector() -> Callable:
    return regressions.detect_by_rule(regressions.regressions.detect_regressions)


@pytest.mark.parametrize(
    "machine, configured, threshold",
    [({"gpu": "a GPU"}, {}, 0.05), ({"gpu": None}, {}, 0.3), ({}, {}, 0.3), ({}, {".*": 0.1}, 0.1)],
)
def test_a_machine_without_a_gpu_has_a_wider_threshold_on_the_regressions_page(
    tmp_path, machine, configured, threshold
):
    for page, (text, _) in regressions.PAGES.items():
        (tmp_path / page).write_text(text)
    conf = SimpleNamespace(html_dir=str(tmp_path), regressions_thresholds=configured)
    rules = {"speed": {"name": "speed", "compare_factor": 1.05, "regression_factor_without_gpu": 1.3}}
    found = []

    def publish(conf, repo, benchmarks, graphs, revisions):
        data = SimpleNamespace(conf=conf)
        graph = SimpleNamespace(params=machine)
        filtered = regressions.regressions._GraphDataFilter
        found.append(filtered._get_threshold(data, graph, benchmarks["speed"], "speed('a')"))

    regressions.published_in_the_right_direction(publish)(conf, None, rules, None, None)
    assert found == [pytest.approx(threshold)]


def test_an_asv_with_other_insides_is_refused_by_name(monkeypatch):
    monkeypatch.delattr("asv.commands.compare._is_result_better")
    with pytest.raises(UserError, match=r"_is_result_better .* install asv==0\.6\.6"):
        compare.install()


def test_an_asv_with_other_pages_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(regressions.PAGES, "summarylist.js", ("no such text", ""))
    with pytest.raises(UserError, match=r"www/summarylist\.js"):
        regressions.install()
