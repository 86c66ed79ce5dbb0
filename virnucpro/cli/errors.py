"""What to say of an error, and with which exit code the command ends."""

import argparse
import contextlib
import errno
import shlex
import signal
import traceback
from collections.abc import Sequence

from virnucpro.cli.commands import embed
from virnucpro.cli.interrupts import Stop
from virnucpro.cli.streams import say
from virnucpro.errors import UserError
from virnucpro.store.run import begun_settings

OUT_OF_MEMORY = (
    "can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc", "can't start new thread",
    "out of memory", "failed to map segment",
)  # fmt: skip
"""What PyTorch, the C++ library, the loader and Python say in errors of a common type where memory is used up."""


LESS_MEMORY = {
    "embed": "take a smaller --model, --token-budget or --max-length",
    "merge": "name a .h5 file, which is written piece by piece",
    "verify": "a .npz file is read as a whole, and needs a machine with more",
}
"""What to do, by command."""


def explained(error: Exception, stop: Stop, command: str = "embed") -> tuple[str, int] | None:
    """What to say and the exit code for what is not a mistake of this program's; None for what is."""
    shortage = out_of_memory(error, LESS_MEMORY[command])
    if shortage is not None or isinstance(error, UserError):
        return shortage or str(error), 1
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"the system refused{where}: {error.strerror or error}", 1

    from virnucpro.pipeline.resuming import Stopped

    if isinstance(error, Stopped):
        by = stop.signal.name if stop.signal else "request"
        return str(error) or f"stopped by {by}", 128 + (stop.signal or signal.SIGINT)
    return None


def out_of_memory(error: BaseException, remedy: str) -> str | None:
    """What to say where memory was used up, which each library tells in its own way; None for other errors."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        known = isinstance(cause, RuntimeError | ImportError | OSError) and any(
            sign in text for sign in OUT_OF_MEMORY
        )
        if type(cause).__name__ == "OutOfMemoryError":  # PyTorch's, of a GPU; the runner says what to do
            return text
        if isinstance(cause, MemoryError) or known or getattr(cause, "errno", None) == errno.ENOMEM:
            details = f" ({text.splitlines()[0]})" if text else ""
            return f"the memory, or what a limit leaves of it, is used up{details}: {remedy}"
        cause = cause.__cause__
    return None


def complain(
    message: str, error: BaseException, chosen: argparse.Namespace, words: Sequence[str], code: int
) -> int:
    """Tell what went wrong and what to do next; returns the exit code."""
    if chosen.debug:
        say("".join(traceback.format_exception(error)).rstrip())
    strict = getattr(chosen, "strict", False)
    hint = "; without --strict it is no error" if strict and type(error).__name__ == "RecordError" else ""
    say(f"virnucpro: {message}{hint}")
    with contextlib.suppress(UserError):
        if (
            chosen.run is embed
            and not chosen.estimate
            and getattr(error, "resume_helps", True)
            and begun_settings(chosen.output) is not None
        ):
            again = shlex.join(
                ["virnucpro", *(word for word in words if word not in ("--force", "--resume")), "--resume"]
            )
            same_input = ", with the same standard input," if "-" in chosen.input else ""
            say(f"virnucpro: what was computed is kept; this{same_input} continues it:\n  {again}")
    return code
