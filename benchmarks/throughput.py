"""What embedding costs: speed and memory of ESM-2 for each model, precision and workload."""

from typing import Any

from .measure import gpu, outputs
from .measure.memory import PeakMemory
from .measure.timing import in_fresh_process, measure, referee
from .suite.cell import Store, _SpeedAndMemory, speeds, tracked
from .suite.hardware import LARGEST, MODELS, PRECISIONS
from .suite.outcomes import Measurement
from .suite.program import Embedder, notes, peak_memories
from .suite.workloads import FRAGMENTS, WORKLOADS

OF_LARGEST = (["bf16", "int8"], "mixed")
"""Precisions and the workload in which the largest model is measured: loading it takes longer than a cell."""

OF_FRAGMENTS = MODELS[1:]
"""The models that are measured with `fragments` on GPUs: VirNucPro's, and the one that it could go down to."""


class Throughput(_SpeedAndMemory):
    """Passes over a workload, from token batches on the CPU to pooled embeddings on the CPU.

    The samples are blocks of one process. Loading and tokenising are not timed. On a CPU peak memory is that of a
    process which only embeds the workload once or twice: a timed one's depends on how its heap happens to be cut.
    """

    params = ([*MODELS, LARGEST], PRECISIONS, list(WORKLOADS))
    param_names = ("model", "precision", "workload")

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Skip what tells little for its time."""
        precisions, only = OF_LARGEST
        if model == LARGEST and (precision not in precisions or workload != only):
            names = " and ".join(each.upper() for each in precisions)
            raise NotImplementedError(f"{model} is measured in {names} for the workload {only} only")
        if workload == FRAGMENTS:
            store.require_model(model, OF_FRAGMENTS, workload)
        super().setup(store, model, precision, workload)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Measure a CPU's memory, and load ESM-2 in the precision."""
        self.memory, self.peak = PeakMemory(store.hardware.device), None
        if store.hardware.device == "cpu" and not self.memory.unavailable:
            self.peak = in_fresh_process(lambda: peak_memories(model, precision, [workload], store.hardware))[
                workload
            ]
        self.embedder = Embedder(model, precision, self.entries, store.hardware)

    def measure(self, store: Store) -> Measurement:
        """Time passes, and on a GPU read the memory's peak."""
        embedder = self.embedder
        timing = measure(embedder.run, embedder.timer, after_warm_up=self.memory.reset)
        samples = speeds(timing.samples, embedder.tokens, embedder.sequences, embedder.copies)
        about = {"passes_in_a_block": timing.passes * embedder.copies, "settled": timing.settled}
        found = Measurement(samples, notes(store.hardware, self.entries) | about)
        seconds, (model, precision, workload) = min(timing.samples), self.parameters
        found |= (self.peak or self.memory).measurement()
        found |= gpu.energy(embedder.run, embedder.tokens, seconds, store.hardware, workload, self.busy)
        if referee():  # nothing reads its notes
            return found
        return found | Measurement(notes=outputs.fingerprint(embedder.esm2, model, precision, embedder.device))

    @tracked("J per 1,000 tokens", compare_factor=1.05)
    def track_energy(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Joules of the GPU for 1,000 tokens, by NVML's counter over seconds of steady passes."""
        return self.metric(gpu.ENERGY, store)
