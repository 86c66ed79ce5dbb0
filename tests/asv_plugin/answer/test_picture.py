"""Which page a picture says that it is of, and what is said where none can be taken."""

import struct
import zlib

import pytest

from asv_plugin.answer import picture
from tests.browser import WITH_CHROMIUM

HEADER = struct.pack(">2I5B", 1, 1, 8, 0, 0, 0, 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", HEADER) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def test_a_picture_says_of_which_page_it_is_and_stays_a_png():
    made = picture.with_source(PNG, b"a page")
    assert picture.is_of(made, b"a page") and not picture.is_of(made, b"another")
    assert not picture.is_of(PNG, b"a page")
    at, kinds = 8, []
    while at < len(made):
        (length,) = struct.unpack(">I", made[at : at + 4])
        kinds.append(made[at + 4 : at + 8])
        assert made[at : at + 12 + length] == chunk(kinds[-1], made[at + 8 : at + 8 + length])
        at += 12 + length
    assert kinds == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]


def test_without_chromium_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(picture, "CHROMIUM", None)
    with pytest.raises(SystemExit, match=r"no Chromium was found: install the chromium package, or set CHROMIUM"):
        picture.main()


def test_where_chromium_fails_the_picture_stays(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path in (picture.PAGE, picture.PICTURE):
        path.parent.mkdir()
        path.write_text("old")
    monkeypatch.setattr(picture, "CHROMIUM", "/bin/false")
    with pytest.raises(SystemExit, match="/bin/false wrote no picture: it said nothing"):
        picture.main()
    assert picture.PICTURE.read_text() == "old"


@WITH_CHROMIUM
def test_the_first_screen_of_the_page_becomes_the_picture(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for path in (picture.PAGE, picture.PICTURE):
        path.parent.mkdir()
    picture.PAGE.write_text("<!doctype html><title>a page</title><p style='height: 2000px'>long")
    picture.main()
    png = picture.PICTURE.read_bytes()
    assert struct.unpack(">2I", png[16:24]) == picture.SIZE
    assert picture.is_of(png, picture.PAGE.read_bytes())
