"""What became of the input: what was skipped, cut or left out, and what was embedded."""

import math
import sys
from typing import TYPE_CHECKING, Any

from virnucpro.cli.streams import say
from virnucpro.store.disk import amount

if TYPE_CHECKING:  # it imports PyTorch
    from virnucpro.data.proteins import Tally

VIRNUCPROS_LENGTH = 1_024


def tell(summary: dict[str, Any], skipped: "dict[str, Tally]") -> None:
    """What the user must know of the input; on a terminal, also what was done."""
    for reason, tally in skipped.items():
        if reason in (
            *summary["skipped"],
            "no open reading frame",
        ):  # NaN is told below, with that of earlier runs
            say(f"virnucpro: skipped, {reason}: {tally}")
    notes = {
        f"cut to {summary['settings']['max_length']} residues": summary["truncated"],
        "names that came again": summary["repeated_names"],
        "look like DNA and were embedded as proteins": summary["like_dna"],
        "left out, because of NaN or Inf in the embedding": summary["not_finite"],
    }
    for what, tally in notes.items():
        if tally["count"]:
            more = ", ..." if tally["count"] > len(tally["names"]) else ""
            named = f" ({', '.join(tally['names'])}{more})" if tally["names"] else " (by an earlier run)"
            say(f"virnucpro: {what}: {tally['count']:,}{named}")
    lost = sum(tally["count"] for tally in summary["skipped"].values())
    lost += 0 if summary["settings"]["chunk"] else summary["not_finite"]["count"]  # of DNA these are frames
    closed = summary["without_open_frame"]["count"]
    if lost or closed:
        frames = f", {closed:,} without an open reading frame" if closed else ""
        embedded = f"{summary['records']:,} records: {summary['embedded_records']:,} embedded"
        say(f"virnucpro: {embedded}, {lost:,} skipped{frames}")
    settings = summary["settings"]
    if settings["weights"] != "random" and settings["rotary_frequencies"] == "computed":
        say("virnucpro: the checkpoint has no rotary frequencies: exact ones were computed, as Transformers does")
    if not summary["sequences"]:
        say("virnucpro: nothing was embedded: the output has no rows")
    if sys.stderr.isatty():
        say(
            f"virnucpro: {summary['sequences']:,} sequences, {summary['residues']:,} residues in "
            f"{summary['output']} after {summary['seconds']:,.1f} s"
        )


def tell_of_truncation(max_length: int | None, chunk: int | None) -> None:
    """How VirNucPro takes longer proteins, where its files are written and any could be longer.

    `chunk`: nucleotides of a fragment, where the proteins are of such.
    """
    longest = math.inf if chunk is None else chunk // 3
    if max_length != VIRNUCPROS_LENGTH and longest > min(max_length or math.inf, VIRNUCPROS_LENGTH):
        say(
            f"virnucpro: of longer proteins VirNucPro averages the first {VIRNUCPROS_LENGTH:,} residues, and this "
            f"{'all' if max_length is None else f'the first {max_length:,}'}: --max-length {VIRNUCPROS_LENGTH} is "
            "nearest to it"
        )


def tell_estimate(summary: dict[str, Any]) -> None:
    """What embedding would take, to standard output."""
    lost = summary["records"] - summary["embedded_records"]
    print(f"records:   {summary['records']:,}" + (f", {lost:,} of which give nothing to embed" if lost else ""))
    cut = f", after {summary['truncated']['count']:,} were cut" if summary["truncated"]["count"] else ""
    print(
        f"sequences: {summary['sequences']:,}, {summary['residues']:,} residues, {summary['tokens']:,} tokens{cut}"
    )
    print(f"output:    {amount(summary['output_bytes'])}, about")
    if summary["tokens_per_second"] is not None:
        how = "measured" if summary["measured"] else "given"
        print(f"time:      {duration(summary['hours'])} at {summary['tokens_per_second']:,.0f} tokens/s ({how})")


def duration(hours: float) -> str:
    """A time for people."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.1f} seconds"
