"""The standard streams, any of which may be closed or on a full disk."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from virnucpro.errors import UserError


def open_standard_streams() -> None:
    """Open those of the three standard streams that are closed: else a file of the program's gets their number.

    Using standard input or output is an error then; what goes to standard error is lost.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def output_to_errors() -> Iterator[None]:
    """Send what this process, and those it starts, write to descriptor 1 meanwhile to standard error."""
    flush_output()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        flush_output()
        os.dup2(output, 1)
        os.close(output)


def say(text: str) -> None:
    """A line to standard error, which may be closed or on a full disk: the run matters more."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def write_summary(summary: dict[str, Any]) -> None:
    """The summary as JSON to standard output; SummaryError where that cannot be written."""
    error: Exception | None
    try:
        print(json.dumps(summary, indent=2))
        error = flush_output()
    except (OSError, ValueError) as raised:
        error = raised
        flush_output()
    if error is not None:
        raise SummaryError(
            (f"{summary['output']} is complete, but its" if "output" in summary else "the")
            + f" summary cannot be written to standard output: {getattr(error, 'strerror', None) or error}"
        ) from error


def flush_output() -> Exception | None:
    """Write what standard output holds back; what failed there, after which Python does not try it again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            number = sys.stdout.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
        return error
    return None


class SummaryError(UserError):
    """The summary could not be written."""

    resume_helps = False
