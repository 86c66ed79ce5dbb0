"""Blocks of figures: found and written in pages, from the right records, without flattering them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asv_plugin import notes
from asv_plugin.answer.records import BENCHMARKS, ENERGY, FIDELITY, MASSIVE, THROUGHPUT, Record, Value
from asv_plugin.figures import CannotWrite, texts
from asv_plugin.figures.chosen import (
    ENGINE,
    FRAGMENTS,
    HISTORY,
    M3B,
    M8,
    M650,
    OF_A_CPU,
    OF_A_GPU,
    OVER_FAIR_ESM,
    OVER_PEERS,
    WORKLOAD,
    Rows,
    choose,
    complete,
    newest,
)
from asv_plugin.figures.pages import outdated, rewritten
from tests.made_up import ROOT

PAGE = """# Title

<!-- figures: speed -->
old
<!-- end of figures -->

Text.

<!-- figures: memory -->

1 GiB

<!-- end of figures -->
"""
ABOUT = {"device": "NVIDIA H900", "weights": "random", "versions": {"torch": "9"}, "proteins": 5, "residues": 1050}
FIGURES = {"speed": "| a table |\n|---|\n| 5 |", "memory": "1 GiB"}


@pytest.fixture
def page(tmp_path):
    """A page of an otherwise empty project."""
    path = tmp_path / "README.md"
    path.write_text(PAGE)
    return path


def test_only_what_is_between_the_markers_is_written(page):
    text, blocks = rewritten(page, FIGURES)
    assert blocks == ["speed"]
    assert text == PAGE.replace("\nold\n", f"\n\n{FIGURES['speed']}\n\n")


def test_a_written_page_is_current(page):
    page.write_text(rewritten(page, FIGURES)[0])
    assert outdated(page.parent, FIGURES) == {}


def test_all_pages_of_docs_are_looked_at(page):
    (page.parent / "docs").mkdir()
    (page.parent / "docs/none.md").write_text("# No block\n")
    stale = page.parent / "docs/one.md"
    stale.write_text("<!-- figures: memory -->\n<!-- end of figures -->\n")
    assert outdated(page.parent, FIGURES | {"speed": "old"}).keys() == {page, stale}
    page.write_text(rewritten(page, FIGURES)[0])
    assert outdated(page.parent, FIGURES).keys() == {stale}


@pytest.mark.parametrize(
    "old, new, line, remedy",
    [
        ("figures: speed", "figures: sped", 3, "use one of speed, memory"),
        ("old\n<!-- end of figures -->", "old", 3, "add <!-- end of figures -->"),
        ("1 GiB\n\n<!-- end of figures -->", "1 GiB", 9, "add <!-- end of figures -->"),
        ("<!-- figures: memory -->\n", "", 12, "add the line that begins its block"),
    ],
    ids=["unknown", "unclosed before another", "unclosed at the end", "not begun"],
)
def test_a_block_that_cannot_be_written_is_named(page, old, new, line, remedy):
    page.write_text(PAGE.replace(old, new))
    with pytest.raises(CannotWrite) as raised:
        outdated(page.parent, FIGURES)
    assert str(raised.value).startswith(f"{page}, line {line}: ")
    assert remedy in str(raised.value)


def made(shown, commit="0123abcd", date=1, value=1.0):
    """A record with a value for all that is shown."""
    values = {}
    for rows in shown:
        for metric in rows.metrics:
            for precision in rows.precisions:
                values.setdefault(metric, {})[rows.model, precision, rows.workload] = Value(value)
    return Record("a-machine", commit, date, values=values, precisions=Rows("", ()).precisions)


def test_the_newest_commit_of_all_machines_is_shown():
    old, new, other = (made(OF_A_CPU, date=date) for date in (1, 3, 2))
    assert newest([[old, new], [other]], OF_A_CPU) is new


@pytest.mark.parametrize("metric", OF_A_GPU[0].metrics)
def test_a_record_that_lacks_a_figure_is_not_shown(metric):
    whole, partial = made(OF_A_GPU, date=1), made(OF_A_GPU, date=2)
    del partial.values[metric][M3B, "int8", WORKLOAD]
    assert newest([[whole], [partial]], OF_A_GPU) is whole


def test_fp32_needs_no_comparison_with_itself():
    record = made(OF_A_GPU)
    for metric in (FIDELITY, MASSIVE):
        del record.values[metric][M3B, "fp32", WORKLOAD]
    assert complete([record], OF_A_GPU) == [record]


def test_where_nothing_is_complete_the_models_are_named():
    with pytest.raises(CannotWrite, match=f"{M8}: run make bench"):
        newest([[], [made(OF_A_GPU)]], OF_A_CPU)


@pytest.fixture
def project(tmp_path):
    """The pages and records of this project, to be changed."""
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.txt"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def test_gpus_cpus_and_a_history_are_told_apart(project):
    machines = {path.parent.name: json.loads(path.read_text()) for path in project.glob("results/*/machine.json")}
    chosen = choose(project / "results")
    assert "gpu" in machines[chosen.gpu.machine]
    assert "gpu" not in machines[chosen.cpu.machine]
    assert complete(chosen.history, HISTORY) == chosen.history
    assert len({record.machine for record in chosen.history}) == 1
    assert chosen.history == sorted(chosen.history, key=lambda record: record.date)


def make_readme(project: Path, *words: str) -> tuple[int, str]:
    """The exit code of the command, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "asv_plugin.figures", *words],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_changed_record_makes_its_blocks_out_of_date(project):
    record = choose(project / "results").gpu
    (path,) = (project / "results" / record.machine).glob(f"{record.commit[:8]}-*.json")
    known = json.loads(path.read_text())
    values = known["results"][THROUGHPUT["tokens/s"]][0]
    values[:] = [value and value * 1.5 for value in values]
    path.write_text(json.dumps(known))
    readme = (project / "README.md").read_text()

    returned, said = make_readme(project, "--check")
    assert returned == 1
    assert "README.md: out of date: results\n" in said
    assert "run make readme" in said
    assert (project / "README.md").read_text() == readme

    returned, said = make_readme(project)
    assert returned == 0
    assert "README.md: written: results\n" in said
    assert (project / "README.md").read_text() != readme
    assert make_readme(project, "--check") == (0, "All figures are those of the newest records.\n")


def test_no_page_is_written_where_one_is_wrong(project):
    readme = (project / "README.md").read_text().replace("H200", "H300")
    (project / "README.md").write_text(readme)
    (project / "docs/zoo.md").write_text("<!-- figures: animals -->\n<!-- end of figures -->\n")
    returned, said = make_readme(project)
    assert returned == 1
    assert said.startswith("error: docs/zoo.md, line 1: ")
    assert (project / "README.md").read_text() == readme


@pytest.mark.parametrize(
    "metric, value, text",
    [
        ("tokens/s", 106_532.0, "107,000"),
        ("tokens/s", 2_473.04, "2,470"),
        ("min cosine to FP32", 0.999999, "0.99999"),
        (FIDELITY, 0.05001, "5.1 %"),
        (MASSIVE, 0.0141, "1.5 %"),
        ("speed-up, same process", 18.664, "18.66"),
        (OVER_FAIR_ESM, 2.24055, "2.24"),
        (ENERGY, 4.4523, "4.45"),
        ("peak memory", 2.93 * 2**30, "2.93 GiB"),
    ],
)
def test_cosines_are_never_rounded_up_and_errors_never_down(metric, value, text):
    record = made([Rows(M3B, (metric,))], value=value)
    assert texts.written(record, metric, M3B, "int8") == text


def test_what_was_not_measured_is_told_from_what_failed():
    record = made([])
    for metric, precision, reason in (("tokens/s", "fp8", "skipped"), ("tokens/s", "fp16", "failed")):
        record.notes[notes.key(BENCHMARKS[metric], (M8, precision, WORKLOAD))] = {reason: "why"}
    assert [texts.written(record, "tokens/s", M8, each) for each in ("fp32", "fp8", "fp16")] == [
        "n/a",
        "n/a",
        "failed",
    ]
    assert texts.written(record, FIDELITY, M8, "fp32") == ""
    assert texts.written(record, FIDELITY, M8, "bf16") == "n/a"


def test_the_advised_speed_is_bold_and_an_unsettled_one_marked():
    record = made([Rows(M8, ("tokens/s", FIDELITY), ("fp32", "bf16", "int8"))], value=0.01)
    speeds = {"fp32": 100.0, "bf16": 200.0, "int8": 300.0}
    record.values["tokens/s"] = {(M8, each, WORKLOAD): Value(speed) for each, speed in speeds.items()}
    record.notes[notes.key(THROUGHPUT["tokens/s"], (M8, "bf16", WORKLOAD))] = ABOUT | {"settled": False}
    shown = [Rows(M8, ("tokens/s", FIDELITY))]
    assert texts.by_precision(record, shown, ("fp32", "bf16", "int8", "fp8"), "a chip, ") == [
        ["**a chip, 8M**", "tokens/s", "100", "200 ~", "**300**", "n/a"],
        ["", FIDELITY, "1.0 %", "1.0 %", "1.0 %", "n/a"],
    ]
    record.values[FIDELITY][M8, "int8", WORKLOAD] = Value(0.06)
    assert texts.by_precision(record, shown, ("bf16", "int8"))[0][2:] == ["**200 ~**", "300"]


def test_a_line_of_fragments_is_shown_once_a_record_has_it():
    shown = [Rows(M8, ("tokens/s",), ("fp32", "int8")), Rows(M8, ("tokens/s",), workload=FRAGMENTS)]
    record = made(shown[:1], value=300.0)
    assert complete([record], shown) == [record]
    assert texts.by_precision(record, shown, ("fp32", "int8")) == [["**8M**", "tokens/s", "300", "300"]]
    record.values["tokens/s"][M8, "int8", FRAGMENTS] = Value(500.0)
    assert texts.by_precision(record, shown, ("fp32", "int8"))[1:] == [["", "tokens/s, `fragments`", "n/a", "500"]]


def test_the_results_say_what_fragments_are_where_they_show_them():
    gpu, cpu = made(OF_A_GPU), made(OF_A_CPU)
    assert texts.ABOUT_FRAGMENTS in " ".join(texts.main_results(gpu, cpu).split())
    for record in (gpu, cpu):
        record.values["tokens/s"] = {
            cell: value for cell, value in record.values["tokens/s"].items() if FRAGMENTS not in cell
        }
    assert FRAGMENTS not in texts.main_results(gpu, cpu)


def test_the_source_has_the_widest_spread_and_what_must_be_known(monkeypatch):
    monkeypatch.setattr(texts, "REMARKS", {"0123abc": "a busy machine"})
    record = made(OF_A_CPU, value=200.0)
    record.values["tokens/s"][M8, "bf16", WORKLOAD] = Value(200.0, spread=6.1)
    record.values["tokens/s"][M650, "bf16", WORKLOAD] = Value(200.0, spread=50.0)  # not shown
    source = texts.source(record, OF_A_CPU)
    assert source.startswith("a-machine: commit 0123abc; ")
    assert source.endswith("±3.1 % at most; a busy machine.")
    assert "busy" not in texts.source(made(OF_A_CPU, commit="fedcba98"), OF_A_CPU)


def test_the_headline_names_the_peer_the_device_and_the_commit():
    record = made(OVER_PEERS, value=2.24055)
    record.notes[notes.key(ENGINE[OVER_FAIR_ESM], (M3B, "fp16", WORKLOAD))] = ABOUT | {"peer": "fair-esm 9.0"}
    record.notes[notes.key(THROUGHPUT["tokens/s"], (M3B, "fp16", WORKLOAD))] = ABOUT
    record.values["tokens/s"] = {(M3B, "fp16", WORKLOAD): Value(1.0)}
    assert texts.headline(record) == (
        "On one H900 in FP16 the engine runs 3B 2.24 times and 650M 2.24 times as fast as fair-esm 9.0 "
        "(commit 0123abc)."
    )
