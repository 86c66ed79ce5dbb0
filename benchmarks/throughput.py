"""What embedding costs: speed and memory of ESM-2 for each model, precision and workload."""

from ._cells import Store, _SpeedAndMemory, speeds
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
        return Measurement(samples, notes(store.hardware, self.entries) | about) | memory.measurement()
