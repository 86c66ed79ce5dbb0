"""What each command says where there is no repository: in a downloaded archive of the project, anywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asv_plugin.repository import no_repository

ROOT = Path(__file__).parents[2]
PARTS = ("asv_plugin", "benchmarks", "virnucpro", "asv.conf.json")
HERE = {"here": {"machine": "here"}, "version": 1}
NEED_COMMITS = {
    "make bench": "asv_plugin.preflight",
    "make bench, at its end": "asv_plugin.answer --commit HEAD",
    "make bench-gpu": "asv_plugin.record HEAD",
    "make ab": "asv_plugin.compare HEAD~1 HEAD",
    "make ab HEAD=worktree": "asv_plugin.compare HEAD worktree",
    "make compare": "asv compare --machine here HEAD~1 HEAD",
    "make publish": "asv publish",
    "asv run": "asv run --machine here HEAD^!",
    "asv continuous": "asv continuous --machine here HEAD",
    "asv find": "asv find --machine here HEAD~3..HEAD Throughput",
}
MISSING = "this folder is not a git repository, which asv needs: clone the project, or a bundle of it, with git"


@pytest.fixture
def archive(tmp_path):
    """A folder with the project, without its history."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for part in PARTS:
        (folder / part).symlink_to(ROOT / part)
    shutil.copytree(ROOT / "results", folder / "results")
    (folder / ".asv-machine.json").write_text(json.dumps(HERE))  # in $HOME, which asv asks before all else
    return folder


def run(folder: Path, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"HOME": str(folder)} | more
    return subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=folder, env=env, capture_output=True, text=True
    )


@pytest.mark.parametrize("command", NEED_COMMITS.values(), ids=NEED_COMMITS)
def test_without_a_repository_a_line_says_what_is_missing(archive, command):
    done = run(archive, command)
    assert done.returncode in (1, 2)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line and "exit code 2" not in line]
    assert len(said) == 1
    assert said[0].endswith(MISSING)


@pytest.mark.parametrize("command", ["asv_plugin.preflight", "asv_plugin.compare HEAD HEAD", "asv publish"])
def test_a_repository_around_the_folder_is_not_the_projects(archive, command):
    commit(archive.parent)
    done = run(archive, command)
    assert done.returncode in (1, 2)
    assert MISSING in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def commit(folder: Path) -> None:
    """Make a repository with one commit."""
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", *who, "commit", "--allow-empty", "-qm", "first"], cwd=folder, check=True)


def test_the_numbers_that_are_recorded_need_no_repository(archive):
    done = run(archive, "asv_plugin.answer")
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout


def test_a_missing_git_is_named(archive):
    commit(archive)
    done = run(archive, "asv_plugin.compare HEAD HEAD", PATH=str(archive))
    assert done.returncode == 2
    assert done.stderr == "error: git is not installed, which asv needs: install git\n"


def test_a_repository_that_git_does_not_read_is_told_in_gits_words(archive, monkeypatch):
    (archive / ".git").write_text("gitdir: nowhere\n")
    monkeypatch.chdir(archive)
    said = no_repository()
    assert said.startswith("git cannot read this repository: fatal: not a git repository:")
    assert "nowhere" in said
