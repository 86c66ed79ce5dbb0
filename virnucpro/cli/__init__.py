# PYTHON_ARGCOMPLETE_OK
"""The command ``virnucpro``. Importing it does not import PyTorch: a mistake in the words is told before that."""

import logging
import signal
import sys
from collections.abc import Sequence

from virnucpro.cli.arguments import complete_words, parser, refuse_contradictions, with_values
from virnucpro.cli.errors import complain, explained
from virnucpro.cli.interrupts import Stop
from virnucpro.cli.streams import flush_output, open_standard_streams, write_summary


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the words after the program's name; returns the exit code."""
    open_standard_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    program = parser()
    complete_words(program)
    try:
        chosen = program.parse_args(with_values(words))
        refuse_contradictions(chosen)
    finally:
        flush_output()
    logging.basicConfig(format="virnucpro: %(message)s", level=logging.WARNING)

    def stopped(stop: Stop) -> int:
        return complain("stopped", KeyboardInterrupt(), chosen, words, 128 + (stop.signal or signal.SIGINT))

    stop = Stop(stopped)
    try:
        summary = chosen.run(chosen, words, stop)
        if chosen.json:
            write_summary(summary)
    except KeyboardInterrupt:
        return stopped(stop)
    except Exception as error:
        found = explained(error, stop, chosen.run.__name__)
        if found is None:
            raise
        return complain(found[0], error, chosen, words, found[1])
    return 0 if summary.get("ok", True) else 1
