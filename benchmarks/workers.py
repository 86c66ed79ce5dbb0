"""``virnucpro embed --ray`` on several GPUs: tokens/s by how many, and what of their sum is left."""

import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ._cells import OncePerCell, Store, six_digits, tracked
from ._esm2 import notes, weights_of
from ._hardware import MODELS
from ._outcomes import Measurement
from ._virnucpro import DISTRIBUTED, exists, find
from ._workloads import LENGTHS, Protein
from .pipeline import MODEL_ON_GPUS
from .scaling import seeded_proteins

ROUNDS = 2
TOKENS_PER_WORKER = {"cpu": 4_000, "cuda": 4_000_000}
"""Some ten seconds of an H100."""


class Workers(OncePerCell):
    """From a FASTA file to an HDF5 file, workers loaded before: by one worker and by several in turn.

    Starting Ray and loading the models is left out, because it does not grow with the input.
    """

    params = (MODELS, ["fp32", "fp16"], [1, 2, 4, 8])
    param_names = ("model", "precision", "workers")
    timeout = 1_800

    def setup(self, store: Store, model: str, precision: str, number: int) -> None:  # type: ignore[override]
        """Make the proteins, unless it was measured; skip what this machine has not the GPUs for."""
        store.require_chosen(model, precision, models_on_gpus=[MODEL_ON_GPUS], precisions_on_gpus=["fp16"])
        if not exists(DISTRIBUTED):
            raise NotImplementedError(f"this commit has no virnucpro embed --ray: it lacks {DISTRIBUTED}")
        if not find_spec("ray"):
            raise NotImplementedError("Ray is not installed: pip install 'virnucpro[ray]'")
        on_cpu = store.hardware.device == "cpu"
        if number > (there_are := 1 if on_cpu else torch.cuda.device_count()):
            unit = "worker on a CPU" if on_cpu else "GPUs"
            raise NotImplementedError(f"{number} workers are more than {there_are} {unit}")
        super().setup(store, model, precision, str(number))

    def proteins(self, workload: str, device: str) -> list[Protein]:
        """Those of `mixed`, again and again; `workload` is the number of workers."""
        lengths = LENGTHS["mixed"]
        count = int(workload) * TOKENS_PER_WORKER[device] // (round(statistics.mean(lengths)) + 2)
        return seeded_proteins([lengths[index % len(lengths)] for index in range(count)])

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Nothing: each worker loads the model."""
        self.model, self.precision, self.workers = model, precision, int(workload)

    @tracked("tokens/s", higher_is_better=True, compare_factor=1.05)
    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Residues, BOS and EOS embedded in a second, from the workers being ready to the file in its place."""
        return self.metric("tokens per second", store)

    @tracked("of one worker's speed, each", higher_is_better=True, compare_factor=1.03)
    def track_parallel_efficiency(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Tokens/s over as many times those of one worker, which embedded its share of the file."""
        return self.metric("parallel efficiency", store)

    def measure(self, store: Store) -> Measurement:
        """Embed the share of one worker with one, and everything with all, in turn."""
        share = self.entries[: len(self.entries) // self.workers]
        one, all_of_them = [], []
        for _ in range(ROUNDS):
            one.append(self.speed(store, share, 1))
            all_of_them.append(self.speed(store, self.entries, self.workers) if self.workers > 1 else one[-1])
        efficiency = [many / (self.workers * single) for many, single in zip(all_of_them, one, strict=True)]
        samples = {"tokens per second": six_digits(all_of_them), "parallel efficiency": six_digits(efficiency)}
        return Measurement(samples, notes(store.hardware, self.entries))

    def speed(self, store: Store, proteins: list[Protein], workers: int) -> float:
        """Tokens/s of a run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "in.fasta")
            path.write_text("".join(f">{name}\n{protein}\n" for name, protein in proteins))
            with find("Fasta")(path) as fasta:
                start = time.perf_counter()
                summary = find("embed_with_ray")(
                    fasta,
                    Path(folder, "out.h5"),
                    self.model,
                    find("Options")(),
                    weights=str(weights_of(self.model)),
                    precision=self.precision,
                    device=store.hardware.device,
                    workers=workers,
                )
                seconds = time.perf_counter() - start - summary["startup_seconds"]
        return (summary["residues"] + 2 * summary["sequences"]) / seconds
