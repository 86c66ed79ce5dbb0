"""What embedding costs: speed and memory of ESM-2 for each model, precision and workload."""

from typing import Any

from ._cells import Cell, Store
from ._esm2 import Embedder, contract, notes
from ._hardware import BYTES, PARAMETERS
from ._protocol import VERSION, measure, peak_memory, reset_peak_memory
from ._workloads import WORKLOADS, proteins


class Throughput:
    """Passes over a workload, from token batches on the CPU to pooled embeddings on the CPU.

    The samples are blocks of one process. Loading and tokenising are not timed.
    """

    params = (list(PARAMETERS), list(BYTES), list(WORKLOADS))
    param_names = ("model", "precision", "workload")
    version = VERSION

    def setup_cache(self) -> Store:
        """A folder for the outcomes, and what this machine is."""
        return Store.create()

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Load ESM-2, unless another metric's process has measured this cell."""
        store.require(model, (precision,), workload)
        contract()
        self.cell = Cell(store, model, precision, workload)
        self.embedder = None
        if self.cell.claim():
            with self.cell.recording_failure():
                self.entries = proteins(workload, store.hardware.device)
                self.embedder = Embedder(model, precision, self.entries, store.hardware)

    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Residues, BOS and EOS embedded in a second; padding is not counted."""
        return self.metric("tokens per second", store)

    def track_sequences_per_second(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Proteins embedded in a second."""
        return self.metric("sequences per second", store)

    def track_runtime(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Seconds for the workload's proteins once; a GPU embeds copies together, and this is one copy's share."""
        return self.metric("runtime", store)

    def track_peak_memory(self, store: Store, *parameters: str) -> dict[str, Any]:
        """Bytes at the peak while embedding, weights included."""
        return self.metric("peak memory", store)

    track_tokens_per_second.unit = "tokens/s"  # type: ignore[attr-defined]
    track_tokens_per_second.higher_is_better = True  # type: ignore[attr-defined]
    track_tokens_per_second.compare_factor = 1.05  # type: ignore[attr-defined]
    track_sequences_per_second.unit = "sequences/s"  # type: ignore[attr-defined]
    track_sequences_per_second.higher_is_better = True  # type: ignore[attr-defined]
    track_sequences_per_second.compare_factor = 1.05  # type: ignore[attr-defined]
    track_runtime.unit = "seconds"  # type: ignore[attr-defined]
    track_runtime.compare_factor = 1.05  # type: ignore[attr-defined]
    track_peak_memory.unit = "bytes"  # type: ignore[attr-defined]
    track_peak_memory.compare_factor = 1.02  # type: ignore[attr-defined]

    def metric(self, name: str, store: Store) -> dict[str, Any]:
        """One metric of the cell, measured now if this process has the model."""
        if self.embedder:
            with self.cell.recording_failure():
                self.measure(self.embedder, store)
        return self.cell.result(name)

    def measure(self, embedder: Embedder, store: Store) -> None:
        """Measure and record all metrics."""
        device = embedder.device
        timing = measure(embedder.run, embedder.timer, after_warm_up=lambda: reset_peak_memory(device))
        self.cell.record(
            {
                "tokens per second": [embedder.tokens / seconds for seconds in timing.samples],
                "sequences per second": [embedder.sequences / seconds for seconds in timing.samples],
                "runtime": [seconds / embedder.copies for seconds in timing.samples],
                "peak memory": [float(peak_memory(device))],
            },
            {
                **notes(store.hardware, self.entries),
                "passes_in_a_block": timing.passes * embedder.copies,
                "settled": timing.settled,
            },
        )
