"""Each precision against FP32 in the same process: how much faster, how much smaller, and still right?"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from .measure import outputs
from .measure.fidelity import FIGURE, compare, smallest_cosine
from .measure.fidelity_massive import NOTE, second_figure
from .measure.memory import Peak, unavailable
from .measure.timing import alternate, in_fresh_process, in_this_process, referee
from .suite.cell import OncePerCell, Store, six_digits, tracked
from .suite.hardware import MODELS, PRECISIONS
from .suite.outcomes import Measurement, Outcome, shared_value
from .suite.program import WEIGHTS, Embedder, notes, peak_memories
from .suite.workloads import FRAGMENTS, WORKLOADS, fidelity_proteins

Peaks = dict[str, Peak]
"""Peak memory by workload."""

OF_FRAGMENTS = MODELS[2:]
"""The model that is measured with `fragments` on GPUs: VirNucPro's. A cell takes longer than `throughput`'s."""


class Precision(OncePerCell):
    """A precision beside FP32, the same weights and proteins.

    Speeds are measured in alternating blocks, so that the machine's drift cancels. Peak memory is measured
    with one model loaded at a time, each in a process that has computed nothing else. Fidelity is measured on a
    set of its own, once for all workloads but the user's own proteins; of random weights also with a massive
    channel.
    """

    params = (MODELS, [precision for precision in PRECISIONS if precision != "fp32"], list(WORKLOADS))
    param_names = ("model", "precision", "workload")

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Skip what tells little for its time."""
        if workload == FRAGMENTS:
            store.require_model(model, OF_FRAGMENTS, workload)
        super().setup(store, model, precision, workload)

    def loaded_together(self, precision: str) -> tuple[str, ...]:
        """FP32 and the precision."""
        return ("fp32", precision)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Measure what wants models of its own, and load both."""
        self.memory = self.memory_saving(store, precision)
        self.massive = self.with_massive_channel(store)
        self.other = Embedder(model, precision, self.entries, store.hardware)
        self.fp32 = Embedder(model, "fp32", self.entries, store.hardware)

    def memory_saving(self, store: Store, precision: str) -> Measurement:
        """FP32's peak over the precision's."""
        reason = unavailable(store.hardware.device)
        if reason:
            return Measurement(unavailable={"memory saving": reason})
        fp32 = self.peak(store, "fp32", in_fresh_process)
        # A process for it would cost seconds on a GPU, where only what PyTorch allocated counts. What is resident
        # on a CPU differs by 2 to 3 % between this process and one forked from it, as FP32's is.
        other = self.peak(
            store, precision, in_fresh_process if store.hardware.device == "cpu" else in_this_process
        )
        about = max(fp32, other, key=lambda peak: abs(peak.libraries_grew)).notes()
        return Measurement({"memory saving": six_digits([fp32.amount / other.amount])}, about)

    def peak(self, store: Store, precision: str, where: Callable[[Callable[[], Peaks]], Peaks]) -> Peak:
        """Peak memory with a precision loaded alone; the first cell to need it measures the siblings', too."""
        model, _, workload = self.parameters

        def measure() -> dict[str, Any]:
            workloads = [workload, *(each for *_, each in self.siblings(store))]
            peaks = where(lambda: peak_memories(model, precision, workloads, store.hardware))
            return {name: asdict(peak) for name, peak in peaks.items()}

        return Peak(**shared_value(store.folder, ("peak memory", model, precision), workload, measure))

    def fidelity(self, store: Store) -> Measurement:
        """How far the precision moves embeddings; measured once for all cells for which it is the same."""
        model, precision, workload = self.parameters
        proteins = "fasta" if workload == "fasta" else "seeded"
        outcome = Outcome(store.folder, "fidelity", model, precision, proteins)
        if outcome.acquire():
            with outcome.recording_failure():
                entries = fidelity_proteins(workload)
                fp32, other = (Embedder(model, each, entries, store.hardware, 1) for each in ("fp32", precision))
                outcome.record(compare(fp32, other, entries))
        return outcome.read()

    def with_massive_channel(self, store: Store) -> Measurement:
        """In the notes, the fidelity of random weights with a massive channel; measured once for all workloads.

        Not for `make ab`, which compares no notes.
        """
        if WEIGHTS != "random" or referee():
            return Measurement()
        model, precision, _ = self.parameters
        outcome = Outcome(store.folder, NOTE, model, precision)
        if outcome.acquire():
            with outcome.recording_failure():
                found = second_figure(store.folder, model, precision, store.hardware)
                outcome.record(Measurement(notes={NOTE: found}))
        return outcome.read()

    @tracked("times FP32", higher_is_better=True, compare_factor=1.05)
    def track_speedup_over_fp32(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """How many times FP32's tokens/s."""
        return self.metric("speed-up", store)

    @tracked("times less than FP32", higher_is_better=True, compare_factor=1.02, version="2")
    def track_memory_saving(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """FP32's peak memory divided by this precision's."""
        return self.metric("memory saving", store)

    @tracked("cosine similarity", higher_is_better=True, compare_difference=0.0005)
    def track_min_cosine_to_fp32(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """The smallest cosine similarity of any protein's embedding to its FP32 embedding."""
        return self.metric("min cosine", store)

    @tracked("of the median distance", compare_difference=0.005)
    def track_max_error_over_distance(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """How far any protein's embedding moves from FP32's, over the median distance of different proteins'."""
        return self.metric(FIGURE, store)

    def measure(self, store: Store) -> Measurement:
        """Time the two in turn, and compare their embeddings."""
        fidelity = self.fidelity(store)
        cosines: list[float] = []

        def compare_workload() -> None:
            fp32, other = self.fp32.embeddings(), self.other.embeddings()
            rows = (torch.stack([found[label] for label in fp32]).double() for found in (fp32, other))
            cosines.append(smallest_cosine(*rows))

        speedups = alternate(self.fp32.run, self.other.run, self.fp32.timer, warm=compare_workload)
        samples = {"speed-up": six_digits(speedups), "min cosine": cosines}
        about = notes(store.hardware, self.entries)
        if not referee():  # which reads no notes
            model, precision, _ = self.parameters
            about |= outputs.fingerprint(self.other.esm2, model, precision, store.hardware.device)
        return Measurement(samples, about) | self.memory | self.massive | fidelity
