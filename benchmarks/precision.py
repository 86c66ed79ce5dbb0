"""Each precision against FP32 in the same process: how much faster, how much smaller, and still right?"""

from collections.abc import Callable
from typing import Any

from . import VERSION
from ._cells import OncePerCell, Store, six_digits, tracked
from ._esm2 import Embedder, min_cosine, notes, peak_memories
from ._hardware import PARAMETERS, PRECISIONS
from ._outcomes import Samples, shared_number
from ._protocol import alternate, in_fresh_process, in_this_process
from ._workloads import WORKLOADS

Peaks = Callable[[], dict[str, float]]
"""Measures peak bytes, by workload."""


class Precision(OncePerCell):
    """A precision beside FP32, the same weights and proteins.

    Speeds are measured in alternating blocks, so that the machine's drift cancels. Peak memory is measured
    with one model loaded at a time, each in a process that has computed nothing else.
    """

    params = (list(PARAMETERS), [precision for precision in PRECISIONS if precision != "fp32"], list(WORKLOADS))
    param_names = ("model", "precision", "workload")
    version = VERSION

    def loaded_together(self, precision: str) -> tuple[str, ...]:
        """FP32 and the precision."""
        return ("fp32", precision)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Measure the memory of each model alone, and load both."""

        fp32_peak = self.peak(store, "fp32", in_fresh_process)
        # A process for it would cost seconds on a GPU, where only what PyTorch allocated counts. What is resident
        # on a CPU differs by 2 to 3 % between this process and one forked from it, as FP32's is.
        other_peak = self.peak(
            store, precision, in_fresh_process if store.hardware.device == "cpu" else in_this_process
        )
        self.memory_saving = fp32_peak / other_peak
        self.other = Embedder(model, precision, self.entries, store.hardware)
        self.fp32 = Embedder(model, "fp32", self.entries, store.hardware)

    def peak(self, store: Store, precision: str, where: Callable[[Peaks], dict[str, float]]) -> float:
        """Peak bytes with a precision loaded alone; the first cell to need it measures the siblings', too."""
        model, _, workload = self.parameters

        def measure() -> dict[str, float]:
            workloads = [workload, *(each for *_, each in self.siblings(store))]
            return peak_memories(model, precision, workloads, store.hardware)

        return shared_number(store.folder, ("peak memory", model, precision), workload, lambda: where(measure))

    @tracked("times FP32", higher_is_better=True, compare_factor=1.05)
    def track_speedup_over_fp32(self, store: Store, *parameters: str) -> dict[str, Any]:
        """How many times FP32's tokens/s."""
        return self.metric("speed-up", store)

    @tracked("times less than FP32", higher_is_better=True, compare_factor=1.02)
    def track_memory_saving(self, store: Store, *parameters: str) -> dict[str, Any]:
        """FP32's peak memory divided by this precision's."""
        return self.metric("memory saving", store)

    @tracked("cosine similarity", higher_is_better=True, compare_difference=0.0005)
    def track_min_cosine_to_fp32(self, store: Store, *parameters: str) -> dict[str, Any]:
        """The smallest cosine similarity of any protein's embedding to its FP32 embedding."""
        return self.metric("min cosine", store)

    def measure(self, store: Store) -> tuple[Samples, dict[str, Any]]:
        """Time the two in turn, and compare their embeddings."""
        cosines: list[float] = []

        def compare() -> None:
            cosines.append(min_cosine(self.fp32.embeddings(), self.other.embeddings()))

        samples = {
            "speed-up": six_digits(alternate(self.fp32.run, self.other.run, self.fp32.timer, warm=compare)),
            "memory saving": six_digits([self.memory_saving]),
            "min cosine": cosines,
        }
        return samples, notes(store.hardware, self.entries)
