"""Recording commits with an environment that asv did not build, in the real asv."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from asv.benchmarks import Benchmarks

from asv_plugin.record.__main__ import regex
from asv_plugin.record.cells import Recorded, benchmark_files, selector
from asv_plugin.record.plan import expected_seconds
from benchmarks import SOURCE
from tests.limits import PATIENCE

ROOT = Path(__file__).parents[3]

SUITE = """
def track_answer():
    import virnucpro.answer
    return virnucpro.answer.ANSWER
track_answer.version = "1"
"""
FAILS_ONCE = """
from pathlib import Path

def track_second_try():
    Path(__file__).with_name("tried").open("x").close()
    return 1
def track_first_try():
    return 1
track_first_try.version = track_second_try.version = "1"
"""
GRID = """
import json, os
class Grid:
    params = (["small", "large"], ["mixed", "short"])
    version = "1"
    def setup(self, size, workload):
        if size == "large":
            raise NotImplementedError("too large")
    def track_one(self, size, workload): return 1
    def track_two(self, size, workload): return len(json.loads(os.environ["VIRNUCPRO_BENCH_ASKED"]))
"""
CONTRACT = """
from benchmarks.suite.places import find, require_source

def track_contract():
    require_source()
    find("load_esm2_model")
    return 1
"""
WITHOUT_PYTORCH = (
    "__init__.py",
    "suite/__init__.py",
    "suite/fragments.py",
    "suite/places.py",
    "suite/hardware.py",
    "suite/workloads.py",
)
"""Of benchmarks/: asv imports all that is there three times a run, and PyTorch takes seconds."""
PROGRAM = "def {name}(precision, weights): ...\n"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository whose commits carry their numbers, and a suite of one benchmark that reads them."""
    folder = tmp_path_factory.mktemp("gpu") / "project"
    shutil.copytree(ROOT / "asv_plugin", folder / "asv_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "benchmarks/suite").mkdir(parents=True)
    for name in WITHOUT_PYTORCH:
        shutil.copy(ROOT / "benchmarks" / name, folder / "benchmarks" / name)
    (folder / "benchmarks/throughput.py").write_text(SUITE)
    (folder / "benchmarks/scaling.py").write_text("def track_two(): return 2\ntrack_two.version = '1'\n")
    (folder / "benchmarks/engine.py").write_text(FAILS_ONCE)
    (folder / "benchmarks/precision.py").write_text(GRID)
    shutil.copy(ROOT / "asv.conf.json", folder)
    (folder / ".gitignore").write_text("results\n__pycache__\n")
    env = os.environ | {"HOME": str(folder.parent)}
    env.pop("PYTHONPATH", None)

    def run(*command: str, code: int = 0, **more: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=env | more, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(answer: int) -> str:
        for path, text in {
            "__init__.py": "",
            "answer.py": f"ANSWER = {answer}\n",
            "models/token_budget.py": "",
            "models/esm2_flash.py": PROGRAM.format(name="load_esm2_model"),
            "pipeline/async_inference.py": PROGRAM.format(name="AsyncInferenceRunner"),
        }.items():
            (folder / "virnucpro" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "virnucpro" / path).write_text(text)
        run("git", "add", "-A")
        run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", str(answer))
        return run("git", "rev-parse", "HEAD").strip()

    run("git", "init", "-qb", "main")
    first, second = commit(41), commit(42)

    def record(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "asv_plugin.record", *arguments, "--machine", "here"]
        return run(*command, code=code)

    said = record(first, "HEAD", "--only", "throughput")

    def answer(commit: str, benchmark: str = "throughput.track_answer") -> list:
        (path,) = (folder / "results/here").glob(f"{commit[:8]}-existing-*.json")
        return json.loads(path.read_text())["results"][benchmark][0]

    return SimpleNamespace(
        folder=folder,
        run=run,
        record=record,
        commit=commit,
        answer=answer,
        said=said,
        first=first,
        second=second,
    )


def test_the_suites_files_are_found_throughput_and_precision_first(tmp_path):
    for name in ("__init__", "_helpers", "a_new_one", "precision", "scaling", "throughput"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "notes.txt").touch()
    assert benchmark_files(tmp_path) == ["throughput", "precision", "a_new_one", "scaling"]


def test_each_commit_is_measured_with_its_own_program(project):
    assert (project.answer(project.first), project.answer(project.second)) == ([41], [42])


def test_it_says_beforehand_what_it_will_do(project):
    assert "here: 2 files of benchmarks to measure; " in project.said


@pytest.mark.exhaustive
def test_what_is_recorded_is_skipped_and_its_time_known(project):
    said = project.record("HEAD", project.first, "--only", "throughput", "scaling")
    assert "2 files of benchmarks to measure; 2 recorded before, skipped; about " in said
    assert "as long as scaling may take" in said
    again = project.record("HEAD", "--only", "scaling")
    assert "0 files of benchmarks to measure; 1 recorded before" in again


@pytest.mark.exhaustive
def test_what_was_recorded_at_another_version_of_its_benchmark_is_measured_again(project):
    suite = project.folder / "benchmarks/scaling.py"
    before = suite.read_text()
    project.record("HEAD", "--only", "scaling")
    suite.write_text(before.replace("version = '1'", "version = '2'"))
    try:
        assert "1 files of benchmarks to measure; " in project.record("HEAD", "--only", "scaling")
        assert "0 files of benchmarks to measure; 1 recorded before" in project.record("HEAD", "--only", "scaling")
    finally:
        suite.write_text(before)


def test_a_virnucpro_from_elsewhere_fails_its_cells(project):
    """As where something on the machine goes before the commit's folder."""
    suite = project.folder / "benchmarks"
    (suite / "pipeline.py").write_text(CONTRACT)
    env = {"ASV_PYTHONPATH": str(project.folder), SOURCE: str(project.folder / "checkout")}
    command = ["asv", "run", "-E", f"existing:{sys.executable}", "--set-commit-hash", project.first, "--dry-run"]
    command += ["--machine", "here", "--bench", "track_contract", "--show-stderr"]
    try:
        said = project.run(sys.executable, "-m", *command, code=2, **env)
    finally:
        (suite / "pipeline.py").unlink()
    assert f"virnucpro was to come from {project.folder / 'checkout'}" in said


@pytest.mark.exhaustive
def test_what_failed_is_measured_again(project):
    (project.folder / "benchmarks/tried").touch()
    said = project.record("HEAD", "--only", "engine", code=1)
    assert f"cells failed in engine at {project.second[:8]}; they are measured again next time" in said
    (project.folder / "benchmarks/tried").unlink()
    assert "1 files of benchmarks to measure; " in project.record("HEAD", "--only", "engine")
    assert "0 files of benchmarks to measure; 1 recorded before" in project.record("HEAD", "--only", "engine")


def test_a_commit_is_measured_once_however_it_is_called(project):
    assert "0 files of benchmarks to measure; 1 recorded before" in project.record(
        "HEAD", "main", project.second, "--only", "throughput"
    )


def test_results_of_another_pytorch_are_not_mixed(project):
    (path,) = (project.folder / "results/here").glob(f"{project.first[:8]}-existing-*.json")
    beside = path.with_suffix(".notes")
    beside.write_text(json.dumps({"throughput.track_answer()": {"versions": {"torch": "1.0"}}}))
    try:
        assert "was recorded with PyTorch 1.0" in project.record("HEAD", code=1)
    finally:
        beside.unlink()


def test_the_version_of_pytorch_is_told_without_importing_it():
    said = "import sys; from asv_plugin.record.cells import pytorch; print(pytorch(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [torch.__version__, "False"]


def test_a_run_that_asv_refuses_stops_the_recording(project):
    path = project.folder / "results/here/machine.json"
    right = path.read_text()
    path.write_text(json.dumps(json.loads(right) | {"cpu": "another"}))
    try:
        said = project.record("HEAD~1", "HEAD", "--only", "engine", code=1)
    finally:
        path.write_text(right)
    assert "records other hardware than this machine's" in said
    assert f"error: asv recorded nothing of engine at {project.first[:8]}" in said


def test_an_unknown_commit_is_named(project):
    assert "git knows no commit 'nonsense'" in project.record("nonsense", code=1)


@pytest.mark.exhaustive
def test_a_part_of_a_file_is_recorded_and_asked_for_by_its_cells(project):
    def precision(*bench: str) -> str:
        return project.record("HEAD", "--only", "precision", *bench).partition("here: ")[2]

    skipped, mixed = ("--bench", "large.*mixed"), ("--bench", r"Grid\.track_.*mixed")
    assert precision(*skipped).startswith("1 files of benchmarks to measure; ")
    assert precision(*skipped).startswith("0 files of benchmarks to measure; 1 recorded before")
    assert precision(*mixed).startswith("1 files of benchmarks to measure; ")  # asv has NaN for the others, too
    assert precision(*mixed).startswith("0 files of benchmarks to measure; 1 recorded before")


@pytest.mark.exhaustive
def test_cells_know_which_of_them_asv_was_asked_for(project):
    project.record("HEAD", "--only", "precision", "--bench", "'small', 'short'")
    assert project.answer(project.second, "precision.Grid.track_two")[1] == 1  # of four


@pytest.mark.exhaustive
def test_files_of_a_commit_are_measured_in_one_run(project):
    commit = project.commit(43)
    said = project.record(commit, "--only", "precision", "throughput")
    assert "2 files of benchmarks to measure; " in said
    assert said.count("Discovering benchmarks") == 1
    assert project.answer(commit) == [43]


def test_a_regex_that_no_cell_matches_is_said(project):
    said = project.record("HEAD", "--only", "throughput", "--bench", "nonsense", code=1)
    assert "error: no cell of throughput matches 'nonsense'" in said


@pytest.mark.parametrize(
    "records, seconds",
    [
        ([], None),
        ([Recorded(False, 30.0), Recorded(False, 40.0)], 40.0),
        ([Recorded(True, 10.0), Recorded(False, 40.0), Recorded(True, 20.0)], 20.0),
        ([Recorded(True, 0.0)], None),
        ([Recorded(True, 0.0), Recorded(False, 40.0)], 40.0),
    ],
)
def test_the_time_to_come_is_that_of_a_complete_record_where_there_is_one(records, seconds):
    known = {str(at): {"engine": record} for at, record in enumerate(records)} | {
        "other": {"scaling": Recorded(True, 9.0)}
    }
    assert expected_seconds("engine", known) == seconds


@pytest.mark.parametrize("bench", ["(", "a)|(b", "*"])
def test_what_is_no_regular_expression_is_refused(bench):
    with pytest.raises(argparse.ArgumentTypeError, match="is no regular expression"):
        regex(bench)


@pytest.mark.parametrize("bench", [".", "mixed", "mixed|throughput", "^throughput", r"'mixed'\)$", "two$"])
def test_a_file_and_a_regex_select_what_asv_finds_of_that_file(bench):
    params = [["'small'", "'throughput.'"], ["'mixed'", "'short'"]]
    suite = [
        {"name": f"{file}.{name}", "params": params if "one" in name else []}
        for file in ("throughput", "precision")
        for name in ("Grid.track_one", "track_two")
    ]
    conf = SimpleNamespace(benchmark_dir="")
    of_file = [each for each in suite if each["name"].startswith("throughput.")]
    wanted, found = Benchmarks(conf, of_file, bench), Benchmarks(conf, suite, selector("throughput", bench))
    assert list(found) == list(wanted)
    assert all(found.benchmark_selection[name] == wanted.benchmark_selection[name] for name in wanted)


@pytest.mark.exhaustive
def test_what_only_pythonpath_has_is_found_when_cells_are_listed(project, tmp_path):
    """As on a machine where nothing can be installed: asv drops PYTHONPATH."""
    (tmp_path / "only_on_the_path.py").write_text("UNIT = 'of it'\n")
    suite = project.folder / "benchmarks/borrowed.py"
    suite.write_text("import only_on_the_path\ndef track_it(): return 3\ntrack_it.unit = only_on_the_path.UNIT\n")
    try:
        said = project.run(
            *(sys.executable, "-m", "asv_plugin.record", "HEAD", "--only", "borrowed", "--machine", "here"),
            PYTHONPATH=str(tmp_path),
        )
    finally:
        suite.unlink()
    assert "1 files of benchmarks to measure" in said
