"""Which files in results/ asv and the plugin can use, and what is done about the others."""

import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import asv
import pytest
from asv import util
from asv.results import Results

from asv_plugin import notes
from asv_plugin.answer.records import BENCHMARKS, records
from asv_plugin.answer.summary import summarize
from asv_plugin.answer.terminal import render
from asv_plugin.checks import Unusable, check_benchmark, check_machine, is_number, is_text
from asv_plugin.compare.report import render as report
from asv_plugin.compare.verdict import Comparison
from asv_plugin.hooks import log
from asv_plugin.hooks.broken_files import skip_broken_files
from asv_plugin.hooks.escaping import PAGES, finite, hash_of, with_policy
from asv_plugin.hooks.machine import read_record
from tests.asv_plugin.test_untrusted import rendered
from tests.made_up import M8, ROOT, cells, machine, record
from tests.payloads import MARKDOWN, TERMINAL

COMMIT = "a" * 40


@pytest.fixture
def known():
    suite = json.loads((ROOT / "results/benchmarks.json").read_text())
    return {name: entry for name, entry in suite.items() if name in BENCHMARKS.values()}


@pytest.fixture
def tolerant(monkeypatch):
    for owner, name in ((util, "load_json"), (Results, "load"), (Results, "load_data")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    skip_broken_files()


@pytest.fixture
def result(tmp_path, known, tolerant):
    """A result file of made-up values."""
    machine(tmp_path, "a-cpu", known)
    measured = cells(M8, "mixed", {"fp32": 5_000, "bf16": 9_000}, {"bf16": 0.0133})
    return record(tmp_path, "a-cpu", COMMIT, 0, measured, known)


@pytest.mark.parametrize("value", [0, -1.5, math.nan, math.inf, 10**99])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], 10**400, -1e101])
def test_what_is_no_number(value):
    assert not is_number(value)


def test_text_can_be_written():
    assert is_text("ä", 2) and not is_text("ä", 1) and not is_text("\ud800") and not is_text(b"a")


@pytest.mark.parametrize("record", [{}, {"machine": 1}, {"machine": ""}, {"machine": "../x"}, {"machine": ".."}])
def test_a_machine_has_a_folders_name(record):
    with pytest.raises(Unusable):
        check_machine(record)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"name": "other"}, "no benchmark's name"),
        ({"params": [["'a'", 1]]}, "no lists of texts"),
        ({"params": [["a"] * 100] * 3}, "more than 100,000 combinations"),
        ({"param_names": []}, "differ in number"),
        ({"unit": None}, "unit is no text"),
        ({"pretty_name": 5}, "pretty_name is no text"),
        ({"compare_factor": "1.1"}, "compare_factor is no positive number"),
        ({"compare_factor": math.nan}, "compare_factor is no positive number"),
    ],
)
def test_a_benchmark_that_cannot_be_used_is_told_why(known, change, said):
    name, entry = next(iter(known.items()))
    check_benchmark(name, entry)
    with pytest.raises(Unusable, match=said):
        check_benchmark(name, entry | change)


@pytest.mark.parametrize("name", ["<img src=x>", "a b", "a/b", "a??", "a(b)", "", "a" * 201])
def test_a_benchmarks_name_is_part_of_a_file_name_and_an_address(known, name):
    entry = next(iter(known.values()))
    with pytest.raises(Unusable, match="no benchmark's name"):
        check_benchmark(name, entry | {"name": name})


@pytest.mark.parametrize(
    "change",
    [
        {"commit_hash": "--output=x"},
        {"date": "today"},
        {"date": 1e18},
        {"params": {"machine": "a-cpu", "gpu": ["list"]}},
        {"params": {"machine": "a-cpu", "gpu": "x" * 300}},
        {"params": {"machine": "a-cpu", "k" * 51: ""}},
        {"params": {"machine": "a-cpu"} | {str(key): "x" * 190 for key in range(12)}},
        {"params": {"machine": "a-cpu", "..": ""}},
        {"env_vars": {"x": {}}},
        {"durations": {"<build>": "long"}},
        {"results": {BENCHMARKS["tokens/s"]: [[1.0, "2"], [["'a'", "'b'"]], "1", 0, 1.0]}},
        {"results": {BENCHMARKS["tokens/s"]: [[1.0], [["'a'", "'b'"]], "1", 0, 1.0]}},
        {"results": {BENCHMARKS["tokens/s"]: [[1.0], [["'a'"]], "1", 0, 1.0, [0.5]]}},
    ],
)
def test_a_result_file_that_cannot_be_used_is_named_and_skipped(tmp_path, result, change, caplog):
    assert len(records(tmp_path, "a-cpu")) == 1
    result.write_text(json.dumps(json.loads(result.read_text()) | change))
    assert records(tmp_path, "a-cpu") == []
    assert result.name in caplog.text


def test_an_infinite_value_is_na_and_said(tmp_path, result, caplog):
    content = json.loads(result.read_text())
    content["results"][BENCHMARKS["peak memory"]][0] = [math.inf] * len(
        content["results"][BENCHMARKS["peak memory"]][0]
    )
    result.write_text(json.dumps(content))
    (found,) = records(tmp_path, "a-cpu")
    assert not found.values["peak memory"] and found.values["tokens/s"]
    assert "an infinite value is taken for n/a" in caplog.text


def test_a_run_keeps_a_broken_file_apart_and_starts_anew(tmp_path, result, caplog):
    result.write_text("{ not json")
    this = Results({"machine": "a-cpu"}, {}, COMMIT, 0, "3.11", "virtualenv-py3.11", {})
    this.load_data(str(tmp_path))
    assert not this.get_all_result_keys() and not result.exists()
    assert result.with_name(f"{result.name}.broken").read_text() == "{ not json"
    assert "written anew" in caplog.text


def test_a_run_leaves_a_file_of_another_version_of_asv(tmp_path, result):
    result.write_text(json.dumps(json.loads(result.read_text()) | {"version": 1}))
    this = Results({"machine": "a-cpu"}, {}, COMMIT, 0, "3.11", "virtualenv-py3.11", {})
    with pytest.raises(util.UserError, match="asv update"):
        this.load_data(str(tmp_path))
    assert result.exists()


@pytest.mark.parametrize("body", ["{", "[]", '{"machine": 1}', '{"machine": "x", "cpu": []}'])
def test_a_broken_record_of_this_machine_is_written_anew(tmp_path, body, caplog):
    path = tmp_path / "machine.json"
    path.write_text(body)
    assert read_record(path) == {}
    assert f"{path} is written anew" in caplog.text


@pytest.mark.parametrize("body", [b"\xff", b"[]", b"{", b"[" * 100_000, b'"text"'])
def test_notes_that_cannot_be_read_are_named(tmp_path, body, caplog):
    path = tmp_path / "a.notes"
    path.write_bytes(body)
    assert notes.read(path) == {}
    assert f"Skipping {path}" in caplog.text


def test_notes_of_another_type_are_left_out_and_named_in_one_line(tmp_path, caplog):
    path = tmp_path / "a.notes"
    right = {"device": "a chip", "gpu": {"busy": "yes", "other": [1]}, "unknown": [{}]}
    wrong = {"proteins": "5", "versions": {"torch": 2}, "gpu": {"busy": 1}, "seconds": True, "fidelity": []}
    path.write_text(json.dumps({"a(b)": right, "c(d)": wrong, "e(f)": "text"}))
    assert notes.read(path) == {"a(b)": right, "c(d)": {"gpu": {}, "fidelity": {}}, "e(f)": {}}
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: c(d): proteins and 5 more: of another type, and left out"
    ]


@pytest.mark.parametrize("line", ["not json", "[]", '{"seconds": "long"}', "[" * 100_000])
def test_a_measured_program_that_prints_a_line_like_the_notes_stops_nothing(line):
    assert "seconds" not in notes.read_output(f"{notes.MEASURED}{line}\n")


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize("text", [*TERMINAL, *MARKDOWN])
def test_notes_reach_the_answer_as_text(tmp_path, result, text, markdown):
    path = notes.notes_path(result)
    about = json.loads(path.read_text())
    for note in about.values():
        note |= {"device": text, "weights": text, "versions": {text: text}, "gpu": {"busy": text}}
    about[f"{BENCHMARKS['total runtime']}({text}, fp16, mixed)"] = {"failed": text}
    path.write_text(json.dumps(about))
    shown = render(summarize(records(tmp_path, "a-cpu")[0]), markdown, all_tables=True)
    assert all(char.isprintable() or char in "\n\xa0" for char in shown)
    if markdown:
        tags = {"h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
        assert set(re.findall(r"<(\w+)", rendered(shown))) <= tags


@pytest.mark.parametrize("text", TERMINAL)
def test_reasons_reach_the_report_of_a_comparison_as_text(text):
    shown = report([Comparison(f"cell({text})", "failed", f"HEAD: RuntimeError: {text}")], (COMMIT, COMMIT))
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_what_asv_says_is_shown_and_not_obeyed(monkeypatch):
    logger = logging.Logger("root")
    monkeypatch.setattr(logging, "getLogger", lambda: logger)
    log.install()
    log.install()
    said = []
    logger.addHandler(SimpleNamespace(level=0, handle=lambda record: said.append(record.getMessage())))
    logger.warning("Skipping %s\n  next", "\x1b[2Jresults/\u202ex")
    assert said == ["Skipping \\x1b[2Jresults/\\u202ex\n  next"]


def test_json_of_the_site_has_no_numbers_that_json_has_not():
    written = []
    finite(lambda path, data, compact: written.append((path, data, compact)))(
        "x", {"a": (math.nan, [math.inf, 1.5])}, True
    )
    assert written == [("x", {"a": [None, [None, 1.5]]}, True)]


def test_a_policy_allows_the_pages_scripts_and_no_others():
    page = """<head>\n<script>run()</script><script src="asv.js" onerror="fail()"></script>
    <script src="https://cdn.example/x.js"></script></head>"""
    policy = with_policy(page).splitlines()[1]
    for allowed in ("'self'", hash_of("run()"), hash_of("fail()"), "https://cdn.example/x.js"):
        assert allowed in policy
    assert "unsafe-inline" not in policy and "unsafe-eval" not in policy


def test_asvs_pages_put_no_variable_into_html_but_numbers():
    www = Path(asv.__file__).parent / "www"
    for path in www.glob("*.js"):
        text = path.read_text()
        for unsafe, safe in PAGES.get(path.name, ()):
            assert unsafe in text
            text = text.replace(unsafe, safe)
        inserted = re.findall(r"""(?:>\s*|="[#\w-]*|:)['"]?['"]\s*\+\s*(?!as_html)([\w$.]+)""", text)
        assert set(inserted) <= {"p.left", "pad_left", "axisName"}, path.name
        titles = re.findall(r"title: ([^,]*),\s*html: true", text)
        assert all(each in ("details", "contents") or each.startswith("as_html(") for each in titles)
