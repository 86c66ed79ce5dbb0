"""The measured program: ESM-2 of the benchmarked commit, and a workload as it takes it."""

import contextlib
import functools
import inspect
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ._hardware import Hardware, pass_tokens
from ._memory import Peak, PeakMemory, keep_large_blocks_off_the_heap
from ._protocol import TIMERS, free_cached_memory
from ._virnucpro import has_packs, inference_api, packs
from ._workloads import Protein, copies_in_a_pass, from_project, joined, proteins, token_batches, tokens_in

if Path("/dev/nvidiactl").exists():  # elsewhere it would only add to the resident memory that is measured
    # Each cell is forked from a process that has imported this, and on a GPU would import Triton itself (0.2 to
    # 0.4 s). The import neither starts threads nor asks for CUDA (3.6.0 and 3.7.1).
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401

WEIGHTS = os.environ.get("VIRNUCPRO_BENCH_WEIGHTS", "random")
"""``random`` (the speed does not depend on the weights' values), ``pretrained``, or a path for load_esm2_model."""


@functools.cache  # a process can measure several workloads
def load(model: str, precision: str, device: str) -> tuple[Any, Any]:
    """What this commit's load_esm2_model returns: ESM-2 with the weights to benchmark, and its converter."""
    load_esm2_model, _ = inference_api()
    return load_esm2_model(model, device, precision=precision, weights=weights_of(model))


class Embedder:
    """ESM-2 loaded in one precision, and a workload as token batches.

    `tokens`: about how many a pass has, where it is not what `pass_tokens` says. `esm2`, `converter`: what
    load_esm2_model returned. `proteins`: those of one pass. `batches`: them as tokens.
    """

    def __init__(
        self, model: str, precision: str, entries: Sequence[Protein], hardware: Hardware, tokens: int | None = None
    ):
        _, runner = inference_api()
        self.device = hardware.device
        self.esm2, self.converter = load(model, precision, self.device)
        self.runner = runner(self.esm2)
        self.copies = copies_in_a_pass(entries, tokens or pass_tokens(model, self.device))
        self.proteins = joined(entries, self.copies)
        self.batches = (
            packs(self.proteins, self.esm2)
            if has_packs()
            else token_batches(self.proteins, self.converter, self.device)
        )
        self.sequences = self.copies * len(entries)
        self.tokens = self.copies * tokens_in(entries)
        self.timer = TIMERS[self.device]

    def run(self, passes: int) -> None:
        """Embed the workload that many times, from token batches on the CPU to embeddings on the CPU."""
        for _ in self.runner.run(itertools.chain.from_iterable(itertools.repeat(self.batches, passes))):
            pass

    def residue_runner(self) -> Any | None:
        """A runner that gives an embedding for each residue; None for a commit that only pools."""
        _, runner = inference_api()
        return runner(self.esm2, pool="residue") if "pool" in inspect.signature(runner).parameters else None

    def weights(self) -> dict[str, Any]:
        """The model's parameters by fair-esm's names, which before it was packed it had itself."""
        fair_esm_state = getattr(self.esm2, "fair_esm_state", self.esm2.state_dict)
        return fair_esm_state()

    def embeddings(self) -> dict[str, Any]:
        """Each protein's embedding ``[D]`` by its label."""
        results = self.runner.run(self.batches)
        return {label: row for r in results for label, row in zip(r.sequence_ids, r.embeddings, strict=True)}


def min_cosine(reference: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The smallest cosine similarity between embeddings ``[D]`` of the same label, computed in float64."""
    return min(
        torch.cosine_similarity(embedding.double(), other[label].double(), dim=0).item()
        for label, embedding in reference.items()
    )


def weights_of(model: str) -> str:
    """The `weights` argument for a model: a file of its name, which older commits take too, or the path."""
    if WEIGHTS in ("random", "pretrained"):
        return WEIGHTS
    path = from_project(WEIGHTS)
    own = path / f"{model}.pt"
    return str(own if own.exists() else path)


def peak_memory_of_a_pass(embedder: Embedder) -> Peak:
    """Peak memory of embedding the workload once, and of all else that this process has loaded."""
    if embedder.device == "cpu":
        embedder.run(1)  # libraries become resident
    free_cached_memory(embedder.device)
    memory = PeakMemory(embedder.device)
    embedder.run(1)
    return memory.read()


def peak_memories(model: str, precision: str, workloads: Sequence[str], hardware: Hardware) -> dict[str, Peak]:
    """Peak memory of embedding each workload once, by its name, in a process that has loaded nothing else.

    What goes wrong with the first is raised; another workload that fails is left out.
    """
    if hardware.device == "cpu":
        keep_large_blocks_off_the_heap()
    found: dict[str, Peak] = {}
    for workload in workloads:
        try:
            entries = proteins(workload, hardware.device)
            found[workload] = peak_memory_of_a_pass(Embedder(model, precision, entries, hardware))
        except Exception:
            if not found:
                raise
    return found


def notes(hardware: Hardware, entries: Sequence[Protein]) -> dict[str, Any]:
    """What a reader of a number wants to know about it."""
    return {
        "device": hardware.name,
        "versions": hardware.versions,
        "weights": WEIGHTS,
        "proteins": len(entries),
        "residues": tokens_in(entries) - 2 * len(entries),
    }
