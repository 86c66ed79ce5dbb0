"""What embedding costs: speed and memory of ESM-2 for each model, precision and workload."""

from typing import Any

from . import _energy
from ._cells import Store, _SpeedAndMemory, speeds, tracked
from ._esm2 import Embedder, notes
from ._hardware import PARAMETERS, PRECISIONS
from ._memory import PeakMemory
from ._outcomes import Measurement
from ._protocol import measure
from ._workloads import WORKLOADS


class Throughput(_SpeedAndMemory):
    """Passes over a workload, from token batches on the CPU to pooled embeddings on the CPU.

    The samples are blocks of one process. Loading and tokenising are not timed.
    """

    params = (list(PARAMETERS), list(PRECISIONS), list(WORKLOADS))
    param_names = ("model", "precision", "workload")

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """ESM-2 in the precision."""
        self.embedder = Embedder(model, precision, self.entries, store.hardware)

    def measure(self, store: Store) -> Measurement:
        """Time passes, and read the memory's peak."""
        embedder, memory = self.embedder, PeakMemory(self.embedder.device)
        timing = measure(embedder.run, embedder.timer, after_warm_up=memory.reset)
        samples = speeds(timing.samples, embedder.tokens, embedder.sequences, embedder.copies)
        about = {"passes_in_a_block": timing.passes * embedder.copies, "settled": timing.settled}
        found = Measurement(samples, notes(store.hardware, self.entries) | about) | memory.measurement()
        seconds, workload = min(timing.samples), self.parameters[-1]
        return found | _energy.energy(embedder.run, embedder.tokens, seconds, store.hardware, workload, self.busy)

    @tracked("J per 1,000 tokens", compare_factor=1.05)
    def track_energy(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Joules of the GPU for 1,000 tokens, by NVML's counter over seconds of steady passes."""
        return self.metric(_energy.FIGURE, store)
