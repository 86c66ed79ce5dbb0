"""Names and reasons of others are shown as they are, on a terminal and as Markdown."""

import re
import unicodedata
from dataclasses import dataclass

import pytest
from markdown_it import MarkdownIt

from asv_plugin.untrusted import BREAK, INVISIBLE, each_text, for_markdown, for_terminal
from tests.payloads import BROWSER, MARKDOWN, NORMAL, TERMINAL

EVERY = [*BROWSER, *TERMINAL, *MARKDOWN]


def rendered(markdown: str) -> str:
    """The HTML that GitHub's Markdown, but for its links of bare addresses, makes of it."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def text_of(html: str) -> str:
    """What a browser shows of HTML without elements."""
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        html = html.replace(entity, char)
    return html.replace("\u200b", "")


@pytest.mark.parametrize("text", EVERY)
def test_a_terminal_gets_one_line_of_what_it_can_only_show(text):
    shown = for_terminal(text)
    assert not {unicodedata.category(char) for char in shown} & INVISIBLE
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_what_a_terminal_would_obey_is_written_out():
    assert for_terminal("\x1b[31m\u202ea\nb\ud800") == r"\x1b[31m\u202ea\nb\ud800"
    assert for_terminal("a\n\tb\x1b\r", lines=True) == "a\n\tb\\x1b\\r"


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("around", ["{}", "- {}", "## {}", "| a | {} |\n|---|---|\n| {} | b |"])
def test_markdown_shows_it_as_it_is(text, around):
    html = rendered(around.replace("{}", for_markdown(text)))
    tags = set(re.findall(r"<(/?\w+)", html))
    assert tags <= {
        "{}": {"p", "/p"},
        "- {}": {"ul", "li", "/li", "/ul"},
        "## {}": {"h2", "/h2"},
    }.get(
        around, {f"{slash}{tag}" for tag in ("table", "thead", "tbody", "tr", "th", "td") for slash in ("", "/")}
    )
    inner = re.findall(r"<(?:p|li|h2|th|td)>(.*?)</", html)
    shown = text_of(inner[0] if len(inner) == 1 else inner[1])
    assert shown == for_terminal(text).strip()


@pytest.mark.parametrize("text", EVERY)
def test_markdown_has_no_mention_reference_or_address_that_a_link_is_made_of(text):
    html = for_markdown(text).replace(BREAK, "\0")
    assert not re.search(r"@\w|(?<!&)#\d|GH-\d|(?i:https?|ftp)://|www\.", html)


@pytest.mark.parametrize("text", NORMAL)
def test_what_is_normal_stays_as_it_is(text):
    assert for_terminal(text) == for_markdown(text) == text


def test_every_text_of_a_dataclass_is_changed_and_nothing_else():
    @dataclass(frozen=True)
    class Inner:
        names: list[str]
        share: float | None

    @dataclass(frozen=True)
    class Outer:
        name: str
        inner: list[Inner]
        yes: bool

    before = Outer("a", [Inner(["b", "c"], 0.5), Inner([], None)], True)
    assert each_text(before, str.upper) == Outer("A", [Inner(["B", "C"], 0.5), Inner([], None)], True)
