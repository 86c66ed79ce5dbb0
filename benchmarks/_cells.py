"""One measurement a cell, shared by all ``track_`` methods of a class (`OncePerCell`).

asv starts a process for each metric of each cell. The first one measures and leaves the outcome in a folder
that asv's ``setup_cache`` made; the others read it. What went wrong is an outcome too: it is paid for once.

On a GPU, where a process needs two seconds before it computes, it goes on with other cells that asv was asked for:
those that need the same models, and beside a peer those that need the same slow import.
"""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ._esm2 import contract
from ._hardware import Hardware, probe, why_not
from ._workloads import Protein, proteins

NOTES = "virnucpro-cell "
"""Marks the line of a cell's output that holds its notes as JSON; asv_plugin keeps them beside the results."""

ASKED = "VIRNUCPRO_BENCH_ASKED"
"""Holds the cells that asv was asked for, as JSON: class and parameters. asv_plugin/asked.py sets it."""

Samples = dict[str, list[float]]
"""Metric to its samples."""


class CellFailed(RuntimeError):
    """The process that measured this cell failed or died; it is not measured again."""


@dataclass(frozen=True)
class Store:
    """What the processes of one class share: what they run on, and a folder. asv pickles it."""

    hardware: Hardware

    @classmethod
    def create(cls) -> "Store":
        """For ``setup_cache``."""
        return cls(probe())

    @property
    def folder(self) -> Path:
        """The working directory: asv's until the class is done, a copy of it for each pair of `make ab`."""
        return Path.cwd()

    def require(self, model: str, precisions: tuple[str, ...], workload: str) -> None:
        """Raise NotImplementedError, which asv takes as n/a, where this machine cannot run the cell."""
        reason = why_not(self.hardware, model, precisions, workload)
        if reason:
            raise NotImplementedError(reason)

    def require_chosen(
        self, model: str, precision: str, *, models_on_gpus: Sequence[str], precisions_on_gpus: Sequence[str]
    ) -> None:
        """Raise NotImplementedError for a precision other than FP32 on a CPU, or for what is not listed on a GPU.

        For benchmarks where the others take minutes, or tell little for their time.
        """
        on_cpu = self.hardware.device == "cpu"
        precisions = ["fp32"] if on_cpu else precisions_on_gpus
        if precision not in precisions:
            names = " and ".join(each.upper() for each in precisions)
            raise NotImplementedError(f"on {'CPUs' if on_cpu else 'GPUs'} this is measured in {names} only")
        if not on_cpu and model not in models_on_gpus:
            raise NotImplementedError(f"on GPUs this is measured with {' and '.join(models_on_gpus)} only")

    def remember(self, name: str, workload: str, compute: Callable[[], dict[str, float]]) -> float:
        """A number that several cells need: computed by the first, maybe with other workloads' numbers."""

        def path(workload: str) -> Path:
            return self.folder / f"{name}-{workload}-number.json"

        if not path(workload).exists():
            for each, number in compute().items():
                write_atomically(path(each), number)
        return json.loads(path(workload).read_text())


class Cell:
    """One combination of parameters of a benchmark class."""

    def __init__(self, store: Store, *name: str):
        stem = store.folder / "-".join(name)
        self._started, self._outcome = stem.with_suffix(".started"), stem.with_suffix(".outcome")
        self._taken = stem.with_suffix(".taken")
        self._told = stem.with_suffix(".told")

    def claim(self) -> bool:
        """True for the first process, which must measure; False where an outcome can be read.

        Raises CellFailed where the first process failed, or died and left no outcome.
        """
        if created(self._started):
            return True
        self._read()
        return False

    def release(self) -> None:
        """Leave the cell to be measured by another process, as if this one had not tried."""
        self._outcome.unlink(missing_ok=True)
        self._started.unlink()

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
        """Leave the measurement for all processes."""
        write_atomically(self._outcome, {"samples": samples, "notes": notes})

    def result(self, metric: str) -> dict[str, Any]:
        """The samples of a metric as a ``track_`` method returns them to asv: it keeps median and interval.

        The first one asked for prints the cell's notes for asv_plugin.
        """
        outcome = self._read()
        if not created(self._taken.with_suffix(f".{metric}")):
            raise CellFailed(
                "asv asked twice for one measurement: its rounds would repeat the same samples; "
                "run asv again instead of with rounds > 1"
            )
        if created(self._told):
            print(NOTES + json.dumps(outcome["notes"]))
        return {"samples": outcome["samples"][metric], "number": 1}

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


Function = TypeVar("Function", bound=Callable[..., Any])

NOISE_OF_CPUS = 6
"""How many times as large as a change a step must be on the Regressions page of a machine without a GPU: two runs
of one program, minutes apart, differed by up to 22 % in speed and 7 % in memory, and a change is 5 and 2 %."""


def tracked(unit: str, **attributes: float) -> Callable[[Function], Function]:
    """Set what asv records of a ``track_`` method: its unit, and which way and by how much it is judged.

    `attributes` are those of asv_plugin/direction.py: higher_is_better, compare_factor, compare_difference.
    takes_turns tells asv_plugin/ab.py that two of its processes can run at the same time.
    """
    if "compare_factor" in attributes:
        changed = NOISE_OF_CPUS * (attributes["compare_factor"] - 1)
        attributes.setdefault("regression_factor_without_gpu", round(1 + changed, 2))

    def mark(function: Function) -> Function:
        vars(function).update(attributes, unit=unit, takes_turns=True)
        return function

    return mark


class OncePerCell:
    """Base of benchmarks whose ``track_`` methods are views of one measurement.

    A subclass says what to load (`load`, not timed) and how to measure it (`measure`), and its ``track_``
    methods return ``self.metric(name)``. Its parameters are model, precision and workload.
    """

    params: tuple[Sequence[Any], ...]
    to_measure = False  # whether this process has claimed the cell

    def together(self, precision: str) -> tuple[str, ...]:
        """The precisions of the models that a cell holds at the same time."""
        return (precision,)

    def setup_cache(self) -> Store:
        """A folder for the outcomes, and what this machine is; asv makes one for all subclasses."""
        return Store.create()

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Load what is measured, unless another metric's process has measured this cell."""
        store.require(model, self.together(precision), workload)
        contract()
        self.parameters = (model, precision, workload)
        self.cell = Cell(store, type(self).__name__, *self.parameters)
        self.to_measure = self.cell.claim()
        if self.to_measure:
            self.started = time.monotonic()
            from ._protocol import WARMING, await_turn  # not above: a view needs no PyTorch

            with self.cell.recording_failure():
                await_turn(WARMING)
                self.entries = self.proteins(workload, store.hardware.device)
                self.load(store, model, precision, workload)

    def metric(self, name: str, store: Store) -> dict[str, Any]:
        """One metric of the cell, measured now if this process has loaded it."""
        if self.to_measure:
            self.measure_and_record(store)
            for cell in self.siblings(store):
                self.measure_too(store, cell)
        return self.cell.result(name)

    def measure_and_record(self, store: Store) -> None:
        """Measure the loaded cell; the notes say how many seconds that took, loading included."""
        with self.cell.recording_failure():
            samples, notes = self.measure(store)
            self.cell.record(samples, notes | {"seconds": round(time.monotonic() - self.started, 1)})

    def siblings(self, store: Store) -> list[tuple[Any, ...]]:
        """The parameters of the cells that this process measures too, beside its own.

        None on a CPU: resident memory would count what the cells before have left.
        """
        from ._protocol import referee

        if store.hardware.device == "cpu" or referee():
            return []
        asked = {tuple(cell) for cell in json.loads(os.environ.get(ASKED, "[]"))}
        return [
            cell
            for cell in itertools.product(*self.params)
            if (type(self).__name__, *map(str, cell)) in asked
            and tuple(map(str, cell)) != self.parameters
            and self.goes_with(cell)
        ]

    def goes_with(self, cell: tuple[Any, ...]) -> bool:
        """Whether the cell is measured best by the process that measures this one: here, with the same models."""
        return cell[:2] == self.parameters[:2]

    def measure_too(self, store: Store, cell: tuple[Any, ...]) -> None:
        """Measure a sibling, unless that was done; one that fails is left to a process of its own."""
        from ._protocol import free_cached_memory

        sibling = type(self)()
        try:
            free_cached_memory(store.hardware.device)
            sibling.setup(store, *cell)
            if sibling.to_measure:
                sibling.measure_and_record(store)
        except Exception:
            if sibling.to_measure:
                sibling.cell.release()

    def proteins(self, workload: str, device: str) -> list[Protein]:
        """The proteins of a cell."""
        return proteins(workload, device)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Load the models; `self.entries` are the workload's proteins."""
        raise AssertionError("a benchmark says what it loads")

    def measure(self, store: Store) -> tuple[Samples, dict[str, Any]]:
        """The samples of each metric, and notes about them."""
        raise AssertionError("a benchmark says what it measures")


class _SpeedAndMemory(OncePerCell):
    """A benchmark with these four metrics. asv takes a class for one itself unless its name begins like this."""

    @tracked("tokens/s", higher_is_better=True, compare_factor=1.05)
    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Residues, BOS and EOS embedded in a second; padding is not counted."""
        return self.metric("tokens per second", store)

    @tracked("sequences/s", higher_is_better=True, compare_factor=1.05)
    def track_sequences_per_second(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Proteins embedded in a second."""
        return self.metric("sequences per second", store)

    @tracked("seconds", compare_factor=1.05)
    def track_runtime(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Seconds for the workload's proteins once; where copies are embedded together, one copy's share."""
        return self.metric("runtime", store)

    @tracked("bytes", compare_factor=1.02)
    def track_peak_memory(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Bytes at the peak while embedding, weights included."""
        return self.metric("peak memory", store)


def speeds(seconds: Sequence[float], tokens: int, sequences: int, copies: int) -> Samples:
    """Samples of `_SpeedAndMemory`'s metrics but the memory, from the seconds that `copies` of a workload took."""
    return {
        "tokens per second": six_digits(tokens / each for each in seconds),
        "sequences per second": six_digits(sequences / each for each in seconds),
        "runtime": six_digits(each / copies for each in seconds),
    }


def six_digits(values: Iterable[float]) -> list[float]:
    """Values to six significant digits: asv prints all that it is given. Not for cosines, which are close to 1."""
    return [float(f"{value:.6g}") for value in values]


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
