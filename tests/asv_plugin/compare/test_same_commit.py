"""What `make ab` says of a commit that is compared with itself."""

import subprocess

import pytest

from asv_plugin.compare.__main__ import resolve, say_if_equal


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one commit with two names, in the current directory; nobody has said who they are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speed").write_text("1")
    (tmp_path / ".gitignore").write_text("*\n!speed\n")
    for command in ("init -q", "add -A", "-c user.name=t -c user.email=t@localhost commit -qm first", "tag name"):
        subprocess.run(["git", *command.split()], check=True)
    return tmp_path


def said(capsys, base: str, head: str) -> str:
    say_if_equal((resolve(base), resolve(head)))
    return capsys.readouterr().err


@pytest.mark.usefixtures("repository")
def test_in_a_clean_tree_it_is_said_and_no_more(capsys):
    line = said(capsys, "HEAD", "name")
    assert line == f"BASE and HEAD are the same commit, {resolve('HEAD')[:8]}: this compares it with itself\n"


def test_in_a_dirty_tree_the_way_to_compare_the_changes_is_named(repository, capsys):
    (repository / "speed").write_text("2")
    assert said(capsys, "HEAD", "HEAD").endswith("with itself; for the uncommitted changes use HEAD=worktree\n")
    assert said(capsys, "HEAD", "worktree") == ""


def test_files_that_git_does_not_track_are_no_changes_that_worktree_would_compare(repository, capsys):
    (repository / ".gitignore").unlink()
    (repository / "other").write_text("2")
    assert "worktree" not in said(capsys, "HEAD", "HEAD")
