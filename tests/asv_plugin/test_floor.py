"""Commits that are older than what a suite measures: which they are, and what each command says of them."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from asv_plugin.floor import too_old
from tests.made_up import ROOT

SUITE = "SOURCE = 'VIRNUCPRO_BENCH_SOURCE'\n\ndef track_one():\n    return 1\n"
PLUGIN = "from asv_plugin.hooks import floor\n\ndef setup():\n    floor.install()\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A repository of four commits, the third of which is the oldest that is measured."""
    folder = tmp_path_factory.mktemp("floor")

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-qb", "main")
    commits = []
    for number in range(4):
        (folder / "number").write_text(str(number))
        git("add", "-A")
        git("commit", "-qm", str(number))
        commits.append(git("rev-parse", "HEAD"))
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks/__init__.py").write_text(SUITE)
    (folder / "judge.py").write_text(PLUGIN)
    config = {"version": 1, "repo": ".", "branches": ["main"], "environment_type": "virtualenv"}
    config |= {"plugins": [".judge"], "oldest_commit": commits[2][:10]}
    (folder / "asv.conf.json").write_text(json.dumps(config))
    return SimpleNamespace(folder=folder, commits=commits)


@pytest.fixture
def said(project, monkeypatch):
    """What is said of revisions, in the project's folder."""
    monkeypatch.chdir(project.folder)
    return lambda *revisions: too_old(project.commits[2], revisions)


def test_the_oldest_commit_and_newer_ones_are_measured(project, said):
    assert said(project.commits[2], "HEAD", "main") is None
    assert said("HEAD~1..HEAD") is None


@pytest.mark.parametrize("revisions", [["HEAD~2"], ["HEAD", "HEAD~2"], ["HEAD~3..HEAD"]])
def test_an_older_commit_is_named_with_the_oldest(project, said, revisions):
    found = said(*revisions)
    assert found.startswith(project.commits[1][:8])
    assert f"from {project.commits[2]} on" in found
    assert "\n" not in found


def test_several_older_ones_are_counted(said):
    assert " and 1 more cannot be measured" in said("HEAD~3", "HEAD~2")


def test_where_git_does_not_know_the_oldest_all_are_measured(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    assert too_old("5b813a7f", ["HEAD~3"]) is None
    assert too_old(None, ["HEAD~3"]) is None


@pytest.mark.parametrize(
    "command",
    [
        ["asv", "continuous", "HEAD~2", "HEAD", "--machine", "here"],
        ["asv", "find", "HEAD~3..HEAD", "track_one", "--machine", "here"],
        ["asv_plugin.compare", "HEAD~2", "HEAD"],
        ["asv_plugin.record", "HEAD~2", "--machine", "here"],
    ],
    ids=["continuous", "find", "make ab", "make bench-gpu"],
)
def test_commands_that_would_measure_an_older_commit_say_so_in_one_line(project, command, tmp_path):
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", *command]
    done = subprocess.run(run, cwd=project.folder, env=env, capture_output=True, text=True, check=False)
    told = [line for line in (done.stdout + done.stderr).splitlines() if "cannot be measured" in line]
    assert done.returncode not in (0, None)
    assert len(told) == 1 and project.commits[1][:8] in told[0]
    assert "Traceback" not in done.stderr
