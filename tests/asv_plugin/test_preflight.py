"""What `make bench` says before it spends an hour."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("VIRNUCPRO_BENCH_FASTA", raising=False)
    (tmp_path / "virnucpro").mkdir()
    (tmp_path / "virnucpro" / "model.py").write_text("speed = 1\n")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def committed(folder: Path) -> Path:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def preflight(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asv_plugin.preflight"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_clean_commit_passes_in_silence(folder):
    done = preflight(committed(folder))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_folder_that_is_no_repository_is_refused(folder):
    done = preflight(folder)
    assert done.returncode == 1
    assert "not a git repository" in done.stderr


def test_a_repository_without_a_commit_is_refused(folder):
    git(folder, "init", "-q")
    done = preflight(folder)
    assert done.returncode == 1
    assert "no commit yet" in done.stderr


def test_uncommitted_changes_are_warned_of_by_name(folder):
    committed(folder)
    (folder / "virnucpro" / "model.py").write_text("speed = 2\n")
    done = preflight(folder)
    assert done.returncode == 0
    assert "uncommitted changes in virnucpro/model.py are not measured" in done.stderr


def test_a_fasta_that_cannot_be_used_is_refused_before_anything_runs(folder, monkeypatch):
    committed(folder)
    (folder / "bad.fasta").write_text(">a\nMK1\n")
    monkeypatch.setenv("VIRNUCPRO_BENCH_FASTA", "bad.fasta")
    done = preflight(folder)
    assert done.returncode == 1
    assert "bad.fasta: letters that ESM-2 does not know: 1: a ('1' in line 2" in done.stderr
