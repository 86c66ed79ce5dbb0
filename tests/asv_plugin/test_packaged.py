"""Commits that pip could not build."""

import tomllib

import pytest

from asv_plugin import packaged


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_commit_without_a_way_to_be_built_is_given_one(folder):
    packaged.main()
    made = tomllib.loads((folder / "pyproject.toml").read_text())
    assert made["project"]["name"] == "virnucpro"
    assert made["tool"]["setuptools"]["packages"]["find"]["include"] == ["virnucpro*"]


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py"])
def test_a_commit_that_can_be_built_is_left_as_it_is(folder, name):
    (folder / name).write_text("its own")
    packaged.main()
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "its own")]
