"""Blocks of pages: the lines between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``."""

import re
from collections.abc import Mapping
from pathlib import Path

from asv_plugin.figures import CannotWrite

END = "<!-- end of figures -->"
MARKER = re.compile(rf"^<!-- figures: (.*) -->$|^{END}$", re.MULTILINE)
BLOCK = re.compile(rf"^<!-- figures: (.*) -->\n(?:(?!<!-- (?:figures: |end of figures)).*\n)*{END}$", re.MULTILINE)


def outdated(root: Path, figures: Mapping[str, str]) -> dict[Path, tuple[str, list[str]]]:
    """README.md and the pages of docs/ with a block out of date: their right text, and the names of such blocks.

    `figures` has the text of each block by name.
    """
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    found = {page: rewritten(page, figures) for page in pages}
    return {page: (text, blocks) for page, (text, blocks) in found.items() if blocks}


def rewritten(path: Path, figures: Mapping[str, str]) -> tuple[str, list[str]]:
    """A page with the present text of its blocks, and the names of those that had another."""
    text, blocks = path.read_text(encoding="utf-8"), list[str]()

    def write(block: re.Match[str]) -> str:
        if block[1] not in figures:
            known = ", ".join(figures)
            raise CannotWrite(f"{place(block)}: there are no figures {block[1]!r}; use one of {known}")
        # Blank lines end the HTML of the comment, so that a table after it is one
        new = f"<!-- figures: {block[1]} -->\n\n{figures[block[1]]}\n\n{END}"
        blocks.extend([block[1]] * (new != block[0]))
        return new

    def place(match: re.Match[str]) -> str:
        return f"{path}, line {match.string.count(chr(10), 0, match.start()) + 1}"

    new = BLOCK.sub(write, text)
    # What is left of markers when whole blocks are blanked out, line for line
    if single := MARKER.search(BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)):
        remedy = (
            f"add {END} after its figures" if single[1] else "remove it, or add the line that begins its block"
        )
        raise CannotWrite(f"{place(single)}: {single[0]} has no partner; {remedy}")
    return new, blocks


def replace(path: Path, text: str) -> None:
    """Write a page, whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
