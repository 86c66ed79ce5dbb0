"""Ctrl-C and SIGTERM, which end a run where nothing is lost."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from virnucpro.cli.streams import say


class Stop:
    """Whether Ctrl-C or SIGTERM asked to stop; the second time they end the program at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self) -> bool:
        """True from the first signal on."""
        return self.signal is not None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the two signals while inside."""
        if threading.current_thread() is not threading.main_thread():  # Python has signals in the main one only
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if sys.stderr.isatty():
            say("\nvirnucpro: finishing the batches in flight; once more ends at once")
