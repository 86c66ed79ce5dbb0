"""What became of the input: what was skipped, cut or left out, and what was embedded."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.cli.streams import say
from virnucpro.errors import UserError
from virnucpro.names import NOT_FINITE

if TYPE_CHECKING:  # it imports PyTorch
    from virnucpro.data.proteins import Skipped, Tally


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


class SkipLog:
    """Counts what is skipped, by reason, and writes a line of each to the file of ``--skipped``.

    A context manager; the file, a table whose columns are separated by tabs, is made by `open`. UserError where it
    cannot be written, or is one of `others`.
    """

    COLUMNS = ("name", "reason", "file", "line", "detail")

    def __init__(self, path: Path | None, others: Iterable[str | os.PathLike[str]]):
        self._path, self._others = path, list(others)
        self._file: io.TextIOBase | None = None
        self.tallies: dict[str, Tally] = {}
        self._kept: list[tuple[str, ...]] = []
        self._lock = threading.Lock()  # what is read and what is computed is skipped in two threads

    def open(self, resume: bool) -> None:
        """Make the file, if one was asked for.

        With `resume` it keeps what an earlier run left out for NaN, which is not computed again.
        """
        if self._path is None:
            return
        if any(same_file(self._path, other) or str(self._path) == str(other) for other in self._others):
            raise UserError(f"--skipped {self._path} is an input or the output: name another file")
        with self._writing():
            self._kept = self._not_finite() if resume else []
            self._file = self._path.open("w", encoding="utf-8", errors="backslashreplace")
            self._write(self.COLUMNS)
            for cells in self._kept:
                self._write(cells)

    def _not_finite(self) -> list[tuple[str, ...]]:
        """The lines of an earlier run's file that are of NaN."""
        if self._path is None or not self._path.exists():
            return []
        lines = self._path.read_text("utf-8", "backslashreplace").splitlines()
        rows = [tuple(line.split("\t")) for line in lines]
        return [cells for cells in rows if len(cells) == len(self.COLUMNS) and cells[1] == NOT_FINITE]

    def __call__(self, skipped: "Skipped") -> None:
        """Another one."""
        from virnucpro.data.proteins import Tally

        line = "" if skipped.line is None else str(skipped.line)
        with self._lock, self._writing():
            self.tallies.setdefault(skipped.reason, Tally()).add(skipped.name, skipped.detail)
            cells = (skipped.name, skipped.reason, skipped.file, line, skipped.detail)
            if cells not in self._kept:  # a pack that was not committed is computed again
                self._write(cells)

    def _write(self, cells: Sequence[str]) -> None:
        if self._file is not None:
            self._file.write("\t".join(cells) + "\n")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write --skipped {self._path}: {error.strerror or error}") from error

    def __enter__(self) -> "SkipLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        try:
            with self._writing():
                self._file.close()
        except UserError:
            if kind is None:  # else that is what the user must know
                raise


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether both are there and the same."""
    with contextlib.suppress(OSError):
        return Path(one).samefile(other)
    return False
