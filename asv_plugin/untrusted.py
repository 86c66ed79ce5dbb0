"""Text of others, made safe for where it is shown: names, notes and reasons may hold whatever somebody wrote.

What goes into a web page is not escaped here: the Precision page's template and script insert text as text, and
`asv_plugin.hooks.escaping` lets asv's own pages do so.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of what a terminal obeys instead of showing it: control characters, ESC among them,
directions of text, and line separators. Surrogates cannot be written at all."""

BREAK = "&#8203;"
"""A space of no width: it keeps a mention or an address from becoming a link, and shows nothing."""

SPECIAL = re.compile(
    r"""
    (?P<entity> &(?=\#?\w+;) | < | \$)               # HTML; on GitHub, formulas
    | (?P<escaped> [\\`*|\[\]] | (?<![^\W_])_ | _(?![^\W_]))  # an underscore inside a word is no emphasis
    | (?P<link> @(?=\w) | \#(?=\d) | \b(?:https?|ftp):(?=//) | \bwww(?=\.) | \bGH-(?=\d))
    """,
    re.VERBOSE | re.IGNORECASE,
)
ENTITIES = {"&": "&amp;", "<": "&lt;", "$": "&#36;"}
BLOCK = re.compile(r"(?=>|#{1,6}(?:\s|$)|[-+](?:\s|$)|=+$|-+$)|\d{1,9}(?=[.)](?:\s|$))")
"""Where a backslash keeps the beginning of a text from being a heading, a quotation or a list."""

T = TypeVar("T")


def for_terminal(text: str, lines: bool = False) -> str:
    r"""The text on one line, with ``\x1b`` for ESC and the like for all that is `INVISIBLE`.

    `lines`: line breaks and tabs stay, for what has several lines by itself.
    """
    if text.isprintable():
        return text
    return "".join(
        repr(char)[1:-1] if unicodedata.category(char) in INVISIBLE and not (lines and char in "\n\t") else char
        for char in text
    )


def for_markdown(text: str) -> str:
    """Inline Markdown that is shown as the text is: no HTML, link, mention, image, emphasis, table or list."""
    text = SPECIAL.sub(shown_as_text, for_terminal(text).strip())
    if text.count("~") > 1:
        text = text.replace("~", r"\~")
    begins_block = BLOCK.match(text)
    return f"{begins_block[0]}\\{text[begins_block.end() :]}" if begins_block else text


def shown_as_text(found: re.Match[str]) -> str:
    """A character of `SPECIAL` as it must be written to be shown."""
    if found["entity"]:
        return ENTITIES[found[0]]
    return f"\\{found[0]}" if found["escaped"] else found[0] + BREAK


def each_text(value: T, change: Callable[[str], str]) -> T:
    """A dataclass, list or text with every text in it changed."""
    changed: Any = value
    if isinstance(value, str):
        changed = change(value)
    elif isinstance(value, list):
        changed = [each_text(each, change) for each in value]
    elif is_dataclass(value) and not isinstance(value, type):
        changed = replace(
            value, **{each.name: each_text(getattr(value, each.name), change) for each in fields(value)}
        )
    return changed
