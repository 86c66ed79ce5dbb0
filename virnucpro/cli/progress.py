"""How far a run is, for people who watch it or read its log."""

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from virnucpro.cli.streams import say

if TYPE_CHECKING:  # it imports PyTorch
    from virnucpro.pipeline.embed import Progressed


class Progress:
    """How far a run is: tqdm's bar on a terminal, and a line a minute elsewhere, as in a log."""

    SECONDS_BETWEEN_LINES = 60.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._told = time.monotonic()
        self._at_first: float | None = None

    def __call__(self, done: "Progressed") -> None:
        """Show it, if it is time."""
        fraction = done.fraction or 0.0
        if self._at_first is None:
            self._at_first = fraction
        about = f"{done.sequences:,} sequences, {done.tokens / max(done.seconds, 1e-9):,.0f} tokens/s"
        if done.speeds:
            about += f" ({', '.join(f'{speed:,.0f}' for speed in done.speeds)})"
        if sys.stderr.isatty():
            self._show(done.fraction, about)
        elif time.monotonic() - self._told >= self.SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            say(f"virnucpro: {about}{self._left(done.seconds, fraction)}")

    def _show(self, fraction: float | None, about: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._bar is None:
                self._bar = bar(fraction, about)
            self._bar.set_postfix_str(about, refresh=False)
            self._bar.update(0 if fraction is None else fraction - self._bar.n)

    def _left(self, seconds: float, fraction: float) -> str:
        if self._at_first is None or fraction <= self._at_first:
            return ""
        left = seconds * (1 - fraction) / (fraction - self._at_first)
        return f", {fraction:.0%}, about {left / 60:,.0f} min left"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()


def bar(fraction: float | None, about: str) -> Any:
    """A bar that begins at this share of the input, with a text; without a length where the share is unknown."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.monitor_interval = 0  # no thread of its own: each batch updates it
    width = None
    with contextlib.suppress(OSError, ValueError):
        if not os.get_terminal_size(
            sys.stderr.fileno()
        ).columns:  # as of some containers': tqdm would show nothing
            width = 80
    known = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    return tqdm(
        total=None if fraction is None else 1.0,
        initial=fraction or 0.0,
        bar_format="{elapsed}{postfix}" if fraction is None else known,
        postfix=about,
        file=sys.stderr,
        mininterval=0.5,
        miniters=0,
        leave=False,
        ncols=width,
        nrows=None if width is None else 24,
        dynamic_ncols=width is None,
    )
