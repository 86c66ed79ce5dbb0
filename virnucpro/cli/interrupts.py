"""Ctrl-C and SIGTERM, which end a run where nothing is lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from virnucpro.cli.streams import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether Ctrl-C or SIGTERM asked to stop; the second time they end the program at once.

    Python looks at signals between its own instructions. Where an operator of PyTorch, or the disk, keeps it from
    that for `PATIENCE` seconds after the second one, `last_words` are said, and the process ends with what they
    return.
    """

    PATIENCE = 5.0

    def __init__(self, last_words: Callable[["Stop"], int] = lambda stop: 128 + (stop.signal or 0)) -> None:
        self.signal: signal.Signals | None = None
        self._last_words = last_words

    def __call__(self) -> bool:
        """True from the first signal on."""
        return self.signal is not None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take the two signals while inside."""
        if threading.current_thread() is not threading.main_thread():  # Python has signals in the main one only
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        try:
            with self._watched():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Have a thread count signals, which the system tells of by a pipe when they come."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        left = threading.Event()
        earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(reading, left), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(earlier)
            left.set()
            os.close(writing)  # the thread finds the end
            thread.join()
            os.close(reading)

    def _watch(self, reading: int, left: threading.Event) -> None:
        asked = 0
        while numbers := os.read(reading, 64):
            asked += sum(number in SIGNALS for number in numbers)
            if asked > 1 and not left.wait(self.PATIENCE):
                self.signal = self.signal or signal.Signals(numbers[-1])
                os._exit(self._last_words(self))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if sys.stderr.isatty():
            say("\nvirnucpro: finishing the batches in flight; once more ends at once")
