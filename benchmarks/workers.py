"""``virnucpro embed --ray`` on several GPUs: tokens/s by how many, and what is left of the cards' sum."""

import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch  # sets entries and restores them, which is as good outside tests

import torch

from .scaling import seeded_proteins
from .suite.cell import OncePerCell, Store, six_digits, tracked
from .suite.hardware import MODELS
from .suite.outcomes import Measurement
from .suite.places import DISTRIBUTED, exists, find
from .suite.program import notes, weights_of
from .suite.workloads import LENGTHS, Protein

MODELS_ON_GPUS = ["esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D"]
TOKENS_PER_WORKER = {
    "esm2_t6_8M_UR50D": 4_000,
    "esm2_t33_650M_UR50D": 4_000_000,
    "esm2_t36_3B_UR50D": 1_200_000,
}
"""Some ten seconds of an H100; one of two CPU cores."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
NOT_TOLD = "this commit does not tell when the file was in its place"


@dataclass(frozen=True)
class Speed:
    """Tokens/s of a run, its workers loaded: to the last block on disk, and to the file, where that is told."""

    embedding: float
    file: float | None


class Workers(OncePerCell):
    """From a FASTA file to an HDF5 file: each card alone, then all together, the workers loaded before.

    Starting Ray and loading the models is left out, because it does not grow with the input.
    """

    params = (MODELS, ["fp32", "fp16", "int8"], [1, 2, 4, 8])
    param_names = ("model", "precision", "workers")
    timeout = 1_800

    def setup(self, store: Store, model: str, precision: str, number: int) -> None:
        """Make the proteins, unless it was measured; skip what this machine has not the GPUs for."""
        store.require_chosen(model, precision, models_on_gpus=MODELS_ON_GPUS, precisions_on_gpus=["fp16", "int8"])
        if not exists(DISTRIBUTED):
            raise NotImplementedError(f"this commit has no virnucpro embed --ray: it lacks {DISTRIBUTED}")
        if not find_spec("ray"):
            raise NotImplementedError("Ray is not installed: pip install 'virnucpro[ray]'")
        on_cpu = store.hardware.device == "cpu"
        if number > (there_are := 1 if on_cpu else torch.cuda.device_count()):
            unit = "worker on a CPU" if on_cpu else "GPUs"
            raise NotImplementedError(f"{number} workers are more than {there_are} {unit}")
        super().setup(store, model, precision, number)

    def can_share_process(self, cell: tuple[Any, ...]) -> bool:
        """None: the workers are processes anyway."""
        return False

    def proteins(self, workload: str, device: str) -> list[Protein]:
        """Those of one worker: of `mixed`, again and again."""
        lengths = LENGTHS["mixed"]
        count = TOKENS_PER_WORKER[self.parameters[0]] // (round(statistics.mean(lengths)) + 2)
        return seeded_proteins([lengths[index % len(lengths)] for index in range(count)])

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Nothing: each worker loads the model."""
        self.model, self.precision, self.workers = model, precision, int(workload)

    @tracked("tokens/s", higher_is_better=True, compare_factor=1.05, version="2")
    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Residues, BOS and EOS embedded in a second by all, from the first pack to the file in its place."""
        return self.metric("tokens per second", store)

    @tracked("of the sum of the cards alone", higher_is_better=True, compare_factor=1.03, version="2")
    def track_parallel_efficiency(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Tokens/s to the last block on disk, over the sum of what each card reached alone."""
        return self.metric("parallel efficiency", store)

    @tracked("of the sum of the cards alone", higher_is_better=True, compare_factor=1.03)
    def track_file_efficiency(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Tokens/s to the file in its place, over the sum of what each card reached alone to its last block."""
        return self.metric("file efficiency", store)

    def measure(self, store: Store) -> Measurement:
        """Embed one worker's share on each card alone, then as many times that on all."""
        device = store.hardware.device
        alone = [self.speed(device, [card]) for card in range(self.workers)]
        together = self.speed(device, list(range(self.workers))) if self.workers > 1 else alone[0]
        sum_of_cards = sum(each.embedding for each in alone)
        samples = {"parallel efficiency": [together.embedding / sum_of_cards]}
        unavailable = {}
        if together.file is None:
            unavailable = dict.fromkeys(["tokens per second", "file efficiency"], NOT_TOLD)
        else:
            samples |= {"tokens per second": [together.file], "file efficiency": [together.file / sum_of_cards]}
        about = {"tokens per second of each card alone": six_digits(each.embedding for each in alone)}
        samples = {name: six_digits(values) for name, values in samples.items()}
        return Measurement(samples, {**notes(store.hardware, self.entries), **about}, unavailable)

    def speed(self, device: str, cards: list[int]) -> Speed:
        """Of a run on these cards, with one worker's proteins for each."""
        # Workers import what this process does, which asv has put on sys.path alone
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        if device == "cuda":
            variables |= visible(cards)
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, variables):
            path = Path(folder, "in.fasta")
            with path.open("w") as file:
                for turn in range(len(cards)):
                    file.writelines(f">{name}-{turn}\n{protein}\n" for name, protein in self.entries)
            with find("Fasta")(path) as fasta:
                summary = find("embed_with_ray")(
                    fasta,
                    Path(folder, "out.h5"),
                    self.model,
                    find("Options")(),
                    weights=str(weights_of(self.model)),
                    precision=self.precision,
                    device=device,
                    workers=len(cards),
                )
        tokens = summary["residues"] + 2 * summary["sequences"]
        seconds = summary.get("file_seconds")
        return Speed(summary["tokens_per_second"], tokens / seconds if seconds else None)


def cards_seen() -> list[str]:
    """What this process calls the GPUs that it sees."""
    named = os.environ.get(VISIBLE)
    return named.split(",") if named else [str(card) for card in range(torch.cuda.device_count())]


def visible(cards: list[int]) -> dict[str, str]:
    """What has a process see these GPUs only, counted among those that this one sees."""
    seen = cards_seen()
    return {VISIBLE: ",".join(seen[card] for card in cards)}
