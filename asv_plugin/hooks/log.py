"""What asv says on the terminal: names and paths in it may be others', and are shown, not obeyed."""

import logging

from asv_plugin.hooks.places import check_places
from asv_plugin.untrusted import for_terminal

PLACES = {"asv.console:log.warning": "(*args, **kwargs)"}
"""What of asv is known below, and how its parameters begin."""


def install() -> None:
    """Let each message pass `Shown`; asv logs through Python's root logger, and prints by handlers of its own."""
    check_places(PLACES, __name__)
    logger = logging.getLogger()
    if not any(isinstance(each, Shown) for each in logger.filters):
        logger.addFilter(Shown())


class Shown(logging.Filter):
    """A filter that changes messages: control characters but line breaks and tabs are written out."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Make the message safe; none is dropped."""
        record.msg, record.args = for_terminal(record.getMessage(), lines=True), ()
        return True
