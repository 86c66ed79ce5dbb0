"""One measurement a cell, shared by all ``track_`` methods of a class.

asv starts a process for each metric of each cell. The first one measures and leaves the outcome in a folder
that asv's ``setup_cache`` made; the others read it. What went wrong is an outcome too: it is paid for once.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._hardware import Hardware, probe, why_not

NOTES = "virnucpro-cell "
"""Marks the line of a cell's output that holds its notes as JSON; asv_plugin keeps them beside the results."""

Samples = dict[str, list[float]]
"""Metric to its samples."""


class CellFailed(RuntimeError):
    """The process that measured this cell failed or died; it is not measured again."""


@dataclass(frozen=True)
class Store:
    """The folder that the processes of one class share, and what they run on. asv pickles it."""

    folder: Path
    hardware: Hardware

    @classmethod
    def create(cls) -> "Store":
        """For ``setup_cache``: the working directory, which asv keeps until the class is done."""
        return cls(Path.cwd(), probe())

    def require(self, model: str, precisions: tuple[str, ...], workload: str) -> None:
        """Raise NotImplementedError, which asv takes as n/a, where this machine cannot run the cell."""
        reason = why_not(self.hardware, model, precisions, workload)
        if reason:
            raise NotImplementedError(reason)

    def remember(self, name: tuple[str, ...], compute: Callable[[], float]) -> float:
        """A number that several cells need: computed by the first."""
        path = self.folder / "-".join((*name, "number.json"))
        if not path.exists():
            write_atomically(path, compute())
        return json.loads(path.read_text())


class Cell:
    """One combination of parameters."""

    def __init__(self, store: Store, *parameters: str):
        self.parameters = parameters
        stem = store.folder / "-".join(parameters)
        self._started, self._outcome = stem.with_suffix(".started"), stem.with_suffix(".outcome")
        self._taken = stem.with_suffix(".taken")

    def claim(self) -> bool:
        """True for the first process, which must measure; False where an outcome can be read.

        Raises CellFailed where the first process failed, or died and left no outcome.
        """
        try:
            self._started.open("x").close()
        except FileExistsError:
            self._read()
            return False
        return True

    @contextlib.contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Leave what goes wrong inside as this cell's outcome.

        PyTorch raises NotImplementedError for a kernel that it lacks, which asv would take for a skip.
        """
        try:
            yield
        except BaseException as error:
            write_atomically(self._outcome, {"error": f"{type(error).__name__}: {error}"})
            if isinstance(error, NotImplementedError):
                raise CellFailed(f"{type(error).__name__}: {error}") from error
            raise

    def record(self, samples: Samples, notes: dict[str, Any]) -> None:
        """Leave the measurement for the other processes, and print its notes for asv_plugin."""
        rounded = {metric: [float(f"{value:.6g}") for value in values] for metric, values in samples.items()}
        write_atomically(self._outcome, {"samples": rounded})  # asv prints all the digits it is given
        print(NOTES + json.dumps({"params": self.parameters, **notes}))

    def result(self, metric: str) -> dict[str, Any]:
        """The samples of a metric as a ``track_`` method returns them to asv: it keeps median and interval."""
        samples = self._read()["samples"][metric]
        taken = self._taken.with_suffix(f".{metric}")
        try:
            taken.open("x").close()
        except FileExistsError:
            raise CellFailed(
                "asv asked twice for one measurement: its rounds would repeat the same samples; "
                "run asv again instead of with rounds > 1"
            ) from None
        return {"samples": samples, "number": 1}

    def _read(self) -> dict[str, Any]:
        try:
            outcome = json.loads(self._outcome.read_text())
        except FileNotFoundError:
            raise CellFailed(
                "the process that measured this cell died before it was done (killed, or out of memory?)"
            ) from None
        if "error" in outcome:
            raise CellFailed(f"measured once, and it failed: {outcome['error']}")
        return outcome


def write_atomically(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds all of it or no file."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)
