"""What is done to asv's own page: links, machines, local libraries."""

import base64
import hashlib
from types import SimpleNamespace

import pytest
from asv.util import UserError

from asv_plugin.hooks import site

PAGE = """<html><head></head>
<script src="https://code.example/jquery-3.3.1.min.js" integrity="sha256-{hash}" onerror="x()"></script>
<link rel="stylesheet" href="https://cdn.example/bootstrap.min.css">
<li id="nav-li-summarylist"></li>
<div id="summarygrid-display" style="position: absolute; left: 0; top: 55px; width: 100%; height: 100%">
</div></html>"""


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A page like asv's, and node_modules as npm leaves them."""
    modules = tmp_path / "web" / "node_modules"
    for path in (
        "jquery/dist/jquery.min.js",
        "bootstrap/dist/css/bootstrap.min.css",
        "bootstrap/dist/fonts/a.ttf",
    ):
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_text(path)
    for lock in (modules / ".package-lock.json", tmp_path / "web" / "package-lock.json"):
        lock.write_text('{"packages": {"": {"name": "us"}, "node_modules/jquery": {"version": "3.3.1"}}}')
    monkeypatch.setattr(site, "WEB", tmp_path / "web")
    page = tmp_path / "html" / "index.html"
    page.parent.mkdir()
    right = base64.b64encode(hashlib.sha256(b"jquery/dist/jquery.min.js").digest()).decode()
    page.write_text(PAGE.replace("{hash}", right))
    return page


def npm(monkeypatch, path: str | None) -> None:
    monkeypatch.setattr(site.shutil, "which", lambda name: path)


def test_libraries_are_copied_and_the_page_points_to_them(index, monkeypatch):
    npm(monkeypatch, "/usr/bin/npm")
    site.use_local_libraries(index)
    text = index.read_text()
    assert "https://" not in text
    assert '<script src="vendor/jquery/dist/jquery.min.js"' in text
    assert '<link rel="stylesheet" href="vendor/bootstrap/dist/css/bootstrap.min.css">' in text
    assert (index.parent / "vendor/jquery/dist/jquery.min.js").read_text() == "jquery/dist/jquery.min.js"
    assert (index.parent / "vendor/bootstrap/dist/fonts/a.ttf").exists()


def test_without_npm_the_page_stays_and_it_is_said(index, monkeypatch, caplog):
    npm(monkeypatch, None)
    before = index.read_text()
    site.use_local_libraries(index)
    assert index.read_text() == before
    assert "npm was not found" in caplog.text


def test_a_file_that_is_not_the_one_asv_names_stays_on_the_internet(index, monkeypatch, caplog):
    npm(monkeypatch, "/usr/bin/npm")
    (site.WEB / "node_modules/jquery/dist/jquery.min.js").write_text("something else")
    site.use_local_libraries(index)
    assert "jquery.min.js is not the file that asv names" in caplog.text
    assert "https://code.example/jquery-3.3.1.min.js" in index.read_text()
    assert "vendor/bootstrap/dist/css/bootstrap.min.css" in index.read_text()


def test_other_versions_than_the_locks_are_installed_anew(index, monkeypatch, caplog):
    npm(monkeypatch, "/usr/bin/npm")
    (site.WEB / "node_modules/.package-lock.json").write_text('{"packages": {}}')
    commands = []

    def run(command, **options):
        commands.append(command[:2])
        return SimpleNamespace(returncode=1, stderr="registry unreachable", stdout="")

    monkeypatch.setattr(site.subprocess, "run", run)
    site.use_local_libraries(index)
    assert commands == [["npm", "ci"]]
    assert "registry unreachable" in caplog.text


def test_a_library_that_is_not_known_is_refused(index, monkeypatch):
    npm(monkeypatch, "/usr/bin/npm")
    index.write_text('<script src="https://cdn.example/new.js"></script>')
    with pytest.raises(UserError, match=r"new\.js, which asv_plugin/hooks/site\.py does not know"):
        site.use_local_libraries(index)


def test_machines_are_named_on_the_front_page_and_escaped(index):
    site.add_links(index, "precision.html", {"<gpu>": "2026-11-23"})
    text = index.read_text()
    assert "&lt;gpu&gt;, 2026-11-23" in text
    assert text.count('href="precision.html"') == 2


def test_another_asvs_page_is_refused(index):
    index.write_text("<html></html>")
    with pytest.raises(UserError, match=r"asv_plugin is written for asv 0\.6\.6"):
        site.add_links(index, "precision.html", {})
