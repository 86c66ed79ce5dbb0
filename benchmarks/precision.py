"""Each precision against FP32 in the same process: how much faster, how much smaller, and still right?"""

from typing import Any

import torch

from ._cells import Cell, Store
from ._esm2 import Embedder, contract, notes, peak_memory_alone
from ._hardware import BYTES, PARAMETERS
from ._protocol import VERSION, alternate
from ._workloads import WORKLOADS, proteins


class Precision:
    """A precision beside FP32, the same weights and proteins.

    Speeds are measured in alternating blocks, so that the machine's drift cancels. Peak memory is measured
    with one model loaded at a time, each in a fresh process.
    """

    params = (list(PARAMETERS), [precision for precision in BYTES if precision != "fp32"], list(WORKLOADS))
    param_names = ("model", "precision", "workload")
    version = VERSION

    def setup_cache(self) -> Store:
        """A folder for the outcomes, and what this machine is."""
        return Store.create()

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Measure the memory and load both models, unless another metric's process has measured this cell."""
        store.require(model, ("fp32", precision), workload)
        contract()
        self.cell = Cell(store, model, precision, workload)
        self.embedders: tuple[Embedder, Embedder] | None = None
        if self.cell.claim():
            with self.cell.recording_failure():
                self.entries = entries = proteins(workload, store.hardware.device)

                def peak(which: str) -> float:
                    return store.remember(
                        ("peak", model, which, workload),
                        lambda: peak_memory_alone(model, which, entries, store.hardware),
                    )

                self.memory_saving = peak("fp32") / peak(precision)
                self.embedders = (
                    Embedder(model, "fp32", entries, store.hardware),
                    Embedder(model, precision, entries, store.hardware),
                )

    def track_speedup_over_fp32(self, store: Store, *parameters: str) -> dict[str, Any]:
        """How many times FP32's tokens/s."""
        return self.metric("speed-up", store)

    def track_memory_saving(self, store: Store, *parameters: str) -> dict[str, Any]:
        """FP32's peak memory divided by this precision's."""
        return self.metric("memory saving", store)

    def track_min_cosine_to_fp32(self, store: Store, *parameters: str) -> dict[str, Any]:
        """The smallest cosine similarity of any protein's embedding to its FP32 embedding."""
        return self.metric("min cosine", store)

    track_speedup_over_fp32.unit = "times FP32"  # type: ignore[attr-defined]
    track_speedup_over_fp32.higher_is_better = True  # type: ignore[attr-defined]
    track_speedup_over_fp32.compare_factor = 1.05  # type: ignore[attr-defined]
    track_memory_saving.unit = "times less than FP32"  # type: ignore[attr-defined]
    track_memory_saving.higher_is_better = True  # type: ignore[attr-defined]
    track_memory_saving.compare_factor = 1.02  # type: ignore[attr-defined]
    track_min_cosine_to_fp32.unit = "cosine similarity"  # type: ignore[attr-defined]
    track_min_cosine_to_fp32.higher_is_better = True  # type: ignore[attr-defined]
    track_min_cosine_to_fp32.compare_difference = 0.0005  # type: ignore[attr-defined]

    def metric(self, name: str, store: Store) -> dict[str, Any]:
        """One metric of the cell, measured now if this process has the models."""
        if self.embedders:
            with self.cell.recording_failure():
                self.measure(*self.embedders, store)
        return self.cell.result(name)

    def measure(self, fp32: Embedder, other: Embedder, store: Store) -> None:
        """Measure and record all metrics."""
        self.cell.record(
            {
                "speed-up": alternate(fp32.run, other.run, fp32.timer),
                "memory saving": [self.memory_saving],
                "min cosine": [min_cosine(fp32.embeddings(), other.embeddings())],
            },
            notes(store.hardware, self.entries),
        )


def min_cosine(reference: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The smallest cosine similarity between embeddings ``[D]`` of the same label, computed in float64."""
    return min(
        torch.cosine_similarity(embedding.double(), other[label].double(), dim=0).item()
        for label, embedding in reference.items()
    )
