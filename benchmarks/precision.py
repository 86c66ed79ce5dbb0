"""Each precision against FP32 in the same process: how much faster, how much smaller, and still right?"""

from typing import Any

from . import VERSION
from ._cells import OncePerCell, Samples, Store, six_digits, tracked
from ._esm2 import Embedder, min_cosine, notes, peak_memory_alone, peak_memory_of_a_pass
from ._hardware import BYTES, PARAMETERS
from ._protocol import alternate
from ._workloads import WORKLOADS


class Precision(OncePerCell):
    """A precision beside FP32, the same weights and proteins.

    Speeds are measured in alternating blocks, so that the machine's drift cancels. Peak memory is measured
    with one model loaded at a time, each in a process that has computed nothing else.
    """

    params = (list(PARAMETERS), [precision for precision in BYTES if precision != "fp32"], list(WORKLOADS))
    param_names = ("model", "precision", "workload")
    version = VERSION

    def together(self, precision: str) -> tuple[str, ...]:
        """FP32 and the precision."""
        return ("fp32", precision)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Measure the memory of each model alone, and load both."""

        def peak(which: str) -> float:
            return store.remember(
                ("peak", model, which, workload),
                lambda: peak_memory_alone(model, which, self.entries, store.hardware),
            )

        fp32_peak = peak("fp32")
        # A process for it would cost seconds on a GPU, where only what PyTorch allocated counts. What is resident
        # on a CPU differs by 2 to 3 % between this process and one forked from it, as FP32's is.
        other_peak = peak(precision) if store.hardware.device == "cpu" else None
        self.other = Embedder(model, precision, self.entries, store.hardware)
        self.memory_saving = fp32_peak / (other_peak or peak_memory_of_a_pass(self.other))
        self.fp32 = Embedder(model, "fp32", self.entries, store.hardware)

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
        samples = {
            "speed-up": six_digits(alternate(self.fp32.run, self.other.run, self.fp32.timer)),
            "memory saving": six_digits([self.memory_saving]),
            "min cosine": [min_cosine(self.fp32.embeddings(), self.other.embeddings())],
        }
        return samples, notes(store.hardware, self.entries)
