"""One measurement a cell, shared by all ``track_`` methods of a class (`OncePerCell`).

asv starts a process for each metric of each cell. The first one measures and leaves the outcome in a folder
that asv's ``setup_cache`` made; the others read it. What went wrong is an outcome too: it is paid for once.

On a GPU, where a process needs two seconds before it computes, it goes on with the other cells that asv was asked
for which need the same models.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..measure import outputs
from ..measure.gpu import around, busy_before_this_process, busy_reason, gpu_states
from ..measure.timing import WARMING, await_turn, free_cached_memory, referee
from .hardware import Hardware, probe, skip_reason
from .outcomes import Measurement, Outcome, Samples
from .places import missing, require_source
from .workloads import Protein, proteins

REQUESTED = "VIRNUCPRO_BENCH_ASKED"
"""Holds the cells that asv was asked for, as JSON: class and parameters. asv_plugin/hooks/selection.py sets it."""


@dataclass(frozen=True)
class Store:
    """What the processes of one class share: what they run on, and a folder. asv pickles it."""

    hardware: Hardware
    busy: str | None = None  # how another program used the GPU before the suite did

    @classmethod
    def create(cls) -> "Store":
        """For ``setup_cache``."""
        before = gpu_states()  # probing opens a context
        hardware = probe()
        return cls(hardware, busy_reason(before.get(hardware.uuid)))

    @property
    def folder(self) -> Path:
        """The working directory: asv's until the class is done, a copy of it for each pair of `make ab`."""
        return Path.cwd()

    def require(self, model: str, precisions: tuple[str, ...], workload: str) -> None:
        """Raise NotImplementedError, which asv takes as n/a, where this machine cannot run the cell."""
        reason = skip_reason(self.hardware, model, precisions, workload)
        if reason:
            raise NotImplementedError(reason)

    def require_chosen(
        self,
        model: str,
        precision: str,
        *,
        models_on_gpus: Sequence[str],
        precisions_on_gpus: Sequence[str],
        precisions_on_cpus: Sequence[str] = ("fp32",),
    ) -> None:
        """Raise NotImplementedError for a precision or, on a GPU, a model that is not listed.

        For benchmarks where the others take minutes, or tell little for their time.
        """
        on_cpu = self.hardware.device == "cpu"
        precisions = precisions_on_cpus if on_cpu else precisions_on_gpus
        if precision not in precisions:
            names = listed([each.upper() for each in precisions])
            raise NotImplementedError(f"on {'CPUs' if on_cpu else 'GPUs'} this is measured in {names} only")
        self.require_model(model, models_on_gpus)

    def require_model(self, model: str, on_gpus: Sequence[str], what: str = "this") -> None:
        """Raise NotImplementedError for a model that is not listed, on a GPU."""
        if self.hardware.device != "cpu" and model not in on_gpus:
            raise NotImplementedError(f"on GPUs {what} is measured with {listed(on_gpus)} only")


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


Function = TypeVar("Function", bound=Callable[..., Any])

CPU_NOISE_FACTOR = 6
"""How many times as large as a change a step must be on the Regressions page of a machine without a GPU: two runs
of one program, minutes apart, differed by up to 22 % in speed and 7 % in memory, and a change is 5 and 2 %."""


def tracked(
    unit: str, *, version: str = "1", compare_factor: float | None = None, **attributes: float | str
) -> Callable[[Function], Function]:
    """Set what asv records of a ``track_`` method: its unit and version, and how it is judged.

    `version`: raise it when a change of the protocol or of the workloads makes new numbers of this figure
    incomparable with old ones; asv then no longer shows the old. `compare_factor`, and of `attributes`
    higher_is_better, compare_difference: which way and by how much asv_plugin judges it. judged_as names the
    function of the class by which it judges another view of the same measurement. takes_turns tells it that two
    processes can run at the same time.
    """
    if compare_factor is not None:
        changed = CPU_NOISE_FACTOR * (compare_factor - 1)
        attributes = {"regression_factor_without_gpu": round(1 + changed, 2), **attributes}
        attributes["compare_factor"] = compare_factor

    def mark(function: Function) -> Function:
        vars(function).update(attributes, unit=unit, version=version, takes_turns=True)
        return function

    return mark


class OncePerCell:
    """Base of benchmarks whose ``track_`` methods are views of one measurement.

    A subclass says what to load (`load`, not timed) and how to measure it (`measure`), and its ``track_``
    methods return ``self.metric(name)``. Its parameters are model, precision and a third one, the workload or what
    stands for it; `load` and `proteins` get that as a string.
    """

    params: tuple[Sequence[Any], ...]
    needs: tuple[str, ...] = ()
    """Of `PLACES`, what is measured beside ESM-2 itself: VirNucPro's own program, which lacks it, is n/a."""

    must_measure = False  # whether this process is the first one of the cell

    def loaded_together(self, precision: str) -> tuple[str, ...]:
        """The precisions of the models that a cell holds at the same time."""
        return (precision,)

    def setup_cache(self) -> Store:
        """A folder for the outcomes, and what this machine is; asv makes one for all subclasses."""
        return Store.create()

    def setup(self, store: Store, model: str, precision: str, last: Any) -> None:
        """Load what is measured, unless another metric's process has measured this cell."""
        require_source()
        if reason := missing(*self.needs):
            raise NotImplementedError(reason)
        workload = str(last)
        store.require(model, self.loaded_together(precision), workload)
        self.parameters = (model, precision, workload)
        self.outcome = Outcome(store.folder, type(self).__name__, *self.parameters)
        self.must_measure = self.outcome.acquire()
        if self.must_measure:
            self.started = time.monotonic()
            with self.outcome.recording_failure():
                await_turn(WARMING)
                outputs.leave(model, precision, store.hardware)
                alone = store.hardware.device == "cuda" and not referee()
                self.busy = store.busy or (busy_before_this_process(store.hardware.uuid) if alone else None)
                self.entries = self.proteins(workload, store.hardware.device)
                self.load(store, model, precision, workload)

    def metric(self, name: str, store: Store) -> dict[str, Any] | float:
        """One metric of the cell, measured now if this process has loaded it."""
        if self.must_measure:
            self.measure_and_record(store)
            for cell in self.siblings(store):
                self.measure_sibling(store, cell)
        return self.outcome.result(name)

    def measure_and_record(self, store: Store) -> None:
        """Measure the loaded cell; the notes say how many seconds that took, loading included."""
        with self.outcome.recording_failure():
            before = gpu_states().get(store.hardware.uuid) if store.hardware.device == "cuda" else None
            measurement = self.measure(store)
            about = around(store.hardware, before, self.busy)
            about["seconds"] = round(time.monotonic() - self.started, 1)
            self.outcome.record(measurement | Measurement(notes=about))

    def siblings(self, store: Store) -> list[tuple[Any, ...]]:
        """The parameters of the cells that this process measures too, beside its own.

        None on a CPU: resident memory would count what the cells before have left.
        """
        if store.hardware.device == "cpu" or referee():
            return []
        requested = {tuple(cell) for cell in json.loads(os.environ.get(REQUESTED, "[]"))}
        return [
            cell
            for cell in itertools.product(*self.params)
            if (type(self).__name__, *map(str, cell)) in requested
            and tuple(map(str, cell)) != self.parameters
            and self.can_share_process(cell)
        ]

    def can_share_process(self, cell: tuple[Any, ...]) -> bool:
        """Whether the cell is measured best by the process that measures this one: here, with the same models."""
        return cell[:2] == self.parameters[:2]

    def measure_sibling(self, store: Store, cell: tuple[Any, ...]) -> None:
        """Measure a sibling, unless that was done; one that fails is left to a process of its own."""
        sibling = type(self)()
        try:
            free_cached_memory(store.hardware.device)
            sibling.setup(store, *cell)
            if sibling.must_measure:
                sibling.measure_and_record(store)
        except Exception:
            if sibling.must_measure:
                sibling.outcome.release()

    def proteins(self, workload: str, device: str) -> list[Protein]:
        """The proteins of a cell."""
        return proteins(workload, device)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Load the models; `self.entries` are the workload's proteins."""
        raise AssertionError("a benchmark says what it loads")

    def measure(self, store: Store) -> Measurement:
        """The samples of each metric, and notes about them."""
        raise AssertionError("a benchmark says what it measures")


class _SpeedAndMemory(OncePerCell):
    """A benchmark with these four metrics. asv takes a class for one itself unless its name begins like this."""

    @tracked("tokens/s", higher_is_better=True, compare_factor=1.05)
    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Residues, BOS and EOS embedded in a second; padding is not counted."""
        return self.metric("tokens per second", store)

    @tracked("sequences/s", higher_is_better=True, compare_factor=1.05, judged_as="track_tokens_per_second")
    def track_sequences_per_second(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Proteins embedded in a second."""
        return self.metric("sequences per second", store)

    @tracked("seconds", compare_factor=1.05, judged_as="track_tokens_per_second")
    def track_runtime(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Seconds for the workload's proteins once; where copies are embedded together, one copy's share."""
        return self.metric("runtime", store)

    @tracked("bytes", compare_factor=1.02, version="2")
    def track_peak_memory(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Bytes at the peak while embedding, weights included; on a CPU without libraries and programs."""
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
