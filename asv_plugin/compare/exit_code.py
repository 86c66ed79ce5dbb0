"""What a comparison's exit code says."""

from collections.abc import Sequence
from enum import IntEnum

from asv_plugin.compare.verdict import CHANGED, Comparison


class Code(IntEnum):
    """The exit codes of `python -m asv_plugin.compare`; 1 is left to an error of the program itself."""

    FINE = 0
    WRONG_USE = 2  # argparse's own
    WORSE = 10
    FAILED = 11
    NO_BASE = 12
    NOTHING = 13
    INCONCLUSIVE = 14
    CHANGED = 15
    INTERRUPTED = 130


MEANINGS = {
    Code.FINE: "nothing is worse and nothing failed",
    Code.WRONG_USE: "wrong use",
    Code.WORSE: "worse",
    Code.FAILED: "failed, or HEAD does not build",
    Code.NO_BASE: "BASE does not build",
    Code.NOTHING: "nothing could be judged",
    Code.INCONCLUSIVE: "inconclusive",
    Code.CHANGED: CHANGED,
    Code.INTERRUPTED: "interrupted",
}


def exit_code(comparisons: Sequence[Comparison], strict: bool = False, allow_changed: bool = False) -> Code:
    """The code of a comparison that ran to its end.

    With `strict`, what is inconclusive does not pass; with `allow_changed`, changed embeddings do.
    """
    verdicts = {each.verdict for each in comparisons}
    if "failed" in verdicts:
        return Code.FAILED
    if CHANGED in verdicts and not allow_changed:
        return Code.CHANGED
    if "worse" in verdicts:
        return Code.WORSE
    if not verdicts & {"better", "unchanged", "inconclusive"}:
        return Code.NOTHING
    return Code.INCONCLUSIVE if strict and "inconclusive" in verdicts else Code.FINE


def in_words(code: Code) -> str:
    """The code with its meaning."""
    return f"exit code {code:d}: {MEANINGS[code]}"
