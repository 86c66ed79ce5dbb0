"""Publish the licences of what asv's pages are made of: asv itself, and the libraries in html/vendor."""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from asv import util

FILE = "licenses.txt"


def write(html: Path, modules: Path) -> None:
    """Write all licences into one file of the site. `modules`: the folder of npm that html/vendor comes from."""
    texts = [f"{name}\n{'=' * len(name)}\n\n{text.strip()}\n" for name, text in licenses(html, modules)]
    (html / FILE).write_text("\n\n".join(texts), encoding="utf-8")


def licenses(html: Path, modules: Path) -> Iterator[tuple[str, str]]:
    """Each part of the site, with its version, and the text of its licence; UserError where there is none."""
    asv = metadata.distribution("asv")
    found = [str(file.read_text()) for file in asv.files or () if file.name.startswith("LICENSE")]
    if not found:
        raise util.UserError("this installation of asv lacks its licence, which is published with its pages")
    yield f"asv {asv.version}", found[0]
    for name in sorted(folder.name for folder in (html / "vendor").glob("*")):
        about = json.loads((modules / name / "package.json").read_text(encoding="utf-8"))
        files = sorted((modules / name).glob("LICENSE*"))
        # flot-orderbars has none; the head of its script names its author and licence
        said = f"{about['license']}, as its package.json and its script say." if not files else ""
        yield f"{name} {about['version']}", said or files[0].read_text(encoding="utf-8")
