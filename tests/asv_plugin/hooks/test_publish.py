"""A site is published as a whole, or stays as it was."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from asv import util

from asv_plugin.hooks.publish import all_or_nothing


@pytest.fixture
def conf(tmp_path):
    """A configuration whose site has one page."""
    (tmp_path / "html").mkdir()
    (tmp_path / "html/precision.html").write_text("old")
    return SimpleNamespace(html_dir=str(tmp_path / "html"))


def publish(error: BaseException | None = None):
    """What asv does: write a page, then fail or not."""

    def run(conf, range_spec=None, pull=True):
        Path(conf.html_dir).mkdir()
        Path(conf.html_dir, "index.html").write_text("new")
        if error is not None:
            raise error
        return range_spec

    return all_or_nothing(run)


def files(conf) -> dict[str, str]:
    site = Path(conf.html_dir)
    assert list(site.parent.iterdir()) == [site]
    return {path.name: path.read_text() for path in site.iterdir()}


def test_a_complete_site_replaces_the_old_one(conf):
    assert publish()(conf=conf, range_spec="a..b") == "a..b"
    assert files(conf) == {"index.html": "new"}


def test_the_first_site_is_published_too(tmp_path):
    conf = SimpleNamespace(html_dir=str(tmp_path / "new/html"))
    publish()(conf)
    assert files(conf) == {"index.html": "new"}


def test_a_link_to_a_site_stays_a_link(conf, tmp_path):
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(conf.html_dir)
    publish()(SimpleNamespace(html_dir=str(link)))
    assert link.is_symlink()
    assert (Path(conf.html_dir) / "index.html").read_text() == "new"


@pytest.mark.parametrize(
    "error, said",
    [
        (util.ProcessError(["git", "log"], 128, "", "fatal: bad revision\n"), "status 128: fatal: bad revision"),
        (util.UserError("no results"), "no results"),
        (ValueError("not a number"), "ValueError: not a number"),
    ],
)
def test_a_failure_leaves_the_site_and_is_said_as_asv_says_errors(conf, error, said):
    with pytest.raises(util.UserError, match="is as it was") as raised:
        publish(error)(conf)
    assert str(raised.value).endswith(said)
    assert files(conf) == {"precision.html": "old"}


def test_ctrl_c_leaves_the_site(conf, caplog):
    with pytest.raises(SystemExit) as ended:
        publish(KeyboardInterrupt())(conf)
    assert ended.value.code == 130
    assert files(conf) == {"precision.html": "old"}
    assert "is as it was" in caplog.text
