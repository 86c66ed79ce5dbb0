"""Names that look like git's options, given by people and by tags, write no file."""

import subprocess

import pytest
from asv.plugins.git import Git
from asv.util import ProcessError, UserError

from asv_plugin import repository
from asv_plugin.compare.__main__ import resolve
from asv_plugin.compare.suite import UsageError
from asv_plugin.floor import too_old
from asv_plugin.hooks import git_names

NAME = "--output=owned"


def git(*arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    done = subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """asv's view of a repository in the current folder, with a tag that is named as an option."""
    monkeypatch.chdir(tmp_path)
    git("init", "-qb", "main")
    git("commit", "-qm", "one", "--allow-empty")
    git("update-ref", f"refs/tags/{NAME}", "HEAD")
    git("tag", "v1")
    before = vars(Git).copy()
    for name in ("get_hash_from_name", "get_tags"):
        monkeypatch.setattr(Git, name, before[name])
    return lambda: Git(str(tmp_path), str(tmp_path / "mirror"))


def test_asv_alone_lets_a_tag_write_a_file(repo, tmp_path):
    with pytest.raises(ProcessError):
        repo().get_tags()
    assert (tmp_path / "owned").exists()


def test_tags_and_names_are_no_options(repo, tmp_path):
    git_names.install()
    head = git("rev-parse", "HEAD")
    assert repo().get_tags() == {NAME: head, "v1": head}
    assert repo().get_hash_from_name("v1") == repo().get_hash_from_name("main") == head
    with pytest.raises(UserError, match="git knows no commit '--output=owned'"):
        repo().get_hash_from_name(NAME)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", [NAME, "--all", "--git-dir", "-x", "--", "--stdin", "--end-of-options"])
def test_our_programs_know_no_such_commit(name, repo, tmp_path):
    with pytest.raises(UsageError, match="git knows no commit"):
        resolve(name)
    with pytest.raises(SystemExit, match="git knows no commit"):
        repository.commit_hash(name)
    assert too_old("HEAD", [name, f"{name}..HEAD", f"HEAD..{name}"]) is None
    assert not (tmp_path / "owned").exists()
