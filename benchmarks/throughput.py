"""What embedding costs: speed and memory of ESM-2 for each model, precision and workload."""

from typing import Any

from ._cells import OncePerCell, Samples, Store, six_digits, tracked
from ._esm2 import Embedder, notes
from ._hardware import BYTES, PARAMETERS
from ._protocol import VERSION, measure, peak_memory, reset_peak_memory
from ._workloads import WORKLOADS


class Throughput(OncePerCell):
    """Passes over a workload, from token batches on the CPU to pooled embeddings on the CPU.

    The samples are blocks of one process. Loading and tokenising are not timed.
    """

    params = (list(PARAMETERS), list(BYTES), list(WORKLOADS))
    param_names = ("model", "precision", "workload")
    version = VERSION

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """ESM-2 in the precision."""
        self.embedder = Embedder(model, precision, self.entries, store.hardware)

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
        """Seconds for the workload's proteins once; a GPU embeds copies together, and this is one copy's share."""
        return self.metric("runtime", store)

    @tracked("bytes", compare_factor=1.02)
    def track_peak_memory(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Bytes at the peak while embedding, weights included."""
        return self.metric("peak memory", store)

    def measure(self, store: Store) -> tuple[Samples, dict[str, Any]]:
        """Time passes, and read the memory's peak."""
        embedder, device = self.embedder, self.embedder.device
        timing = measure(embedder.run, embedder.timer, after_warm_up=lambda: reset_peak_memory(device))
        samples = {
            "tokens per second": six_digits(embedder.tokens / seconds for seconds in timing.samples),
            "sequences per second": six_digits(embedder.sequences / seconds for seconds in timing.samples),
            "runtime": six_digits(seconds / embedder.copies for seconds in timing.samples),
            "peak memory": [float(peak_memory(device))],
        }
        return samples, notes(store.hardware, self.entries) | {
            "passes_in_a_block": timing.passes * embedder.copies,
            "settled": timing.settled,
        }
