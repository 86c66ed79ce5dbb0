"""What the processes of one cell leave for each other: started, an outcome, and which figures were handed out.

Each cell has a folder of its own, named by a digest: whatever a parameter contains, no two cells share one.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NOTES = "virnucpro-cell "
"""Marks the line of a cell's output that holds its notes as JSON; asv_plugin keeps them beside the results."""

Samples = dict[str, list[float]]
"""Figure to its samples."""


@dataclass(frozen=True)
class Measurement:
    """Samples by figure, notes about them, and by figure why others are not available (n/a)."""

    samples: Samples = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def __or__(self, other: "Measurement") -> "Measurement":
        """Both together."""
        return Measurement(
            self.samples | other.samples, self.notes | other.notes, self.unavailable | other.unavailable
        )


class CellFailed(RuntimeError):
    """The process that measured this cell failed or died; it is not measured again."""


class Outcome:
    """The measurement of one cell, in a folder that all of its processes see.

    `root`: where the outcomes of a run are; `name`: the benchmark class and the cell's parameters.
    """

    def __init__(self, root: Path, *name: str):
        self._folder = root / f"cell-{digest(*name)}"
        self._content = self._folder / "outcome.json"

    def acquire(self) -> bool:
        """True for the first process, which must measure; False where an outcome can be read.

        Raises CellFailed where the first process failed, or died and left no outcome.
        """
        try:
            self._folder.mkdir()
        except FileExistsError:
            self.read()
            return False
        return True

    def release(self) -> None:
        """Leave the cell to be measured by another process, as if this one had not tried."""
        shutil.rmtree(self._folder)

    @contextlib.contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Leave what goes wrong inside as the outcome.

        PyTorch raises NotImplementedError for a kernel that it lacks, which asv would take for a skip.
        """
        try:
            yield
        except BaseException as error:
            write_atomically(self._content, {"error": f"{type(error).__name__}: {error}"})
            if isinstance(error, NotImplementedError):
                raise CellFailed(f"{type(error).__name__}: {error}") from error
            raise

    def record(self, measurement: Measurement) -> None:
        """Leave the measurement for all processes."""
        write_atomically(self._content, asdict(measurement))

    def result(self, figure: str) -> dict[str, Any] | float:
        """The samples of a figure as a ``track_`` method returns them to asv: it keeps median and interval.

        The first one asked for prints the cell's notes for asv_plugin. NaN, which asv takes as n/a, for what is
        not available; then the reason is printed as asv prints that of a cell that is skipped.
        """
        measurement = self.read()
        if figure in measurement.unavailable:
            print(f"asv: skipped: {NotImplementedError(measurement.unavailable[figure])!r}")
            return math.nan
        if not created(self._folder / f"taken-{digest(figure)}"):
            raise CellFailed(
                "asv asked twice for one measurement: its rounds would repeat the same samples; "
                "run asv again instead of with rounds > 1"
            )
        if created(self._folder / "notes-printed"):
            print(NOTES + json.dumps(measurement.notes))
        return {"samples": measurement.samples[figure], "number": 1}

    def read(self) -> Measurement:
        """The measurement; CellFailed where there is none."""
        try:
            content = json.loads(self._content.read_text())
        except FileNotFoundError:
            raise CellFailed(
                "the process that measured this cell died before it was done (killed, or out of memory?)"
            ) from None
        if "error" in content:
            raise CellFailed(f"measured once, and it failed: {content['error']}")
        return Measurement(**content)


def shared_value(root: Path, name: tuple[str, ...], key: str, compute: Callable[[], dict[str, Any]]) -> Any:
    """JSON that several cells need, by name and key: computed by the first, maybe with other keys' values."""

    def path(key: str) -> Path:
        return root / f"value-{digest(*name, key)}.json"

    if not path(key).exists():
        for each, value in compute().items():
            write_atomically(path(each), value)
    return json.loads(path(key).read_text())


def digest(*words: str) -> str:
    """A file name for a sequence of words: another one for every other sequence, on every file system."""
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def created(path: Path) -> bool:
    """Whether an empty file was made now; False where it was there."""
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


def write_atomically(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds all of it or no file."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)
