"""Which licences are published with the site."""

import json
from types import SimpleNamespace

import pytest
from asv.util import UserError

from asv_plugin import licenses


@pytest.fixture
def folders(tmp_path):
    """html/ with two libraries, and npm's folder with one more."""
    html, modules = tmp_path / "html", tmp_path / "node_modules"
    for name, text in {"jquery": "Copyright JS Foundation", "bars": "", "unused": "Copyright nobody"}.items():
        (modules / name).mkdir(parents=True)
        (modules / name / "package.json").write_text(json.dumps({"version": "3.3.1", "license": "MIT"}))
        if text:
            (modules / name / "LICENSE.txt").write_text(text)
    for name in ("jquery", "bars"):
        (html / "vendor" / name).mkdir(parents=True)
    return html, modules


def test_the_licences_of_asv_and_of_what_is_published_are_in_one_file(folders):
    html, modules = folders
    licenses.write(html, modules)
    text = (html / "licenses.txt").read_text()
    assert "asv 0.6.6\n" in text
    assert "Redistributions of source code must retain" in text
    assert "jquery 3.3.1\n============\n\nCopyright JS Foundation\n" in text
    assert "bars 3.3.1\n==========\n\nMIT, as its package.json and its script say." in text
    assert "nobody" not in text


def test_without_local_libraries_asvs_own_is_there(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    licenses.write(tmp_path / "empty", folders[1])
    assert "jquery" not in (tmp_path / "empty" / "licenses.txt").read_text()


def test_an_asv_without_its_licence_is_not_published(folders, monkeypatch):
    monkeypatch.setattr(licenses.metadata, "distribution", lambda name: SimpleNamespace(version="0.6.6", files=[]))
    with pytest.raises(UserError, match="lacks its licence"):
        licenses.write(*folders)
