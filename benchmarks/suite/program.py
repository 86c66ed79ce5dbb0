"""The measured program: ESM-2 of the benchmarked commit. All that the suite asks of one is here.

It is this project's, or VirNucPro's own: `places` finds the names that are used here for either.

`load` a model in a precision; make batches of proteins, `packed` or `padded`; run them with a `runner`; tell the
`state` of its weights. `Embedder` puts these together for a workload.
"""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..measure.memory import Peak, PeakMemory, keep_large_blocks_off_the_heap
from ..measure.timing import TIMERS, free_cached_memory
from .hardware import Hardware, pass_tokens
from .places import find, require_source
from .workloads import Protein, copies_in_a_pass, from_project, joined, proteins, tokens_in

if Path("/dev/nvidiactl").exists():  # elsewhere it would only add to the resident memory that is measured
    # Each cell is forked from a process that has imported this, and on a GPU would import Triton itself (0.2 to
    # 0.4 s). The import neither starts threads nor asks for CUDA (3.6.0 and 3.7.1).
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401

WEIGHTS = os.environ.get("VIRNUCPRO_BENCH_WEIGHTS", "random")
"""``random`` (the speed does not depend on the weights' values), ``pretrained``, or a path for load_esm2_model."""

PACK_TOKENS = 8_192
"""In a pack where embeddings are compared, not timed."""


def load_with(model: str, precision: str, device: str, weights: str) -> Any:
    """ESM-2 by the commit's load_esm2_model."""
    require_source()
    esm2, _ = find("load_esm2_model")(model, device, precision=precision, weights=weights)
    return esm2


@functools.cache  # a process can measure several workloads
def load(model: str, precision: str, device: str) -> Any:
    """`load_with` the weights to benchmark; kept for the process."""
    return load_with(model, precision, device, weights_of(model))


def weights_of(model: str) -> str:
    """The `weights` argument for a model: a file of its name, which older commits take too, or the path."""
    if WEIGHTS in ("random", "pretrained"):
        return WEIGHTS
    path = from_project(WEIGHTS)
    own = path / f"{model}.pt"
    return str(own if own.exists() else path)


def packed(entries: Iterable[Protein], tokens: int) -> list[Any]:
    """Proteins as packs of at most so many tokens, in their order; one protein alone may have more."""
    return list(find("pack")(entries, tokens))


def padded(entries: Sequence[Protein], size: int) -> list[Any]:
    """Proteins as padded batches of so many, in their order: labels, proteins and tokens ``[B, T]``."""
    convert = find("BatchConverter")()
    return [convert(entries[at : at + size]) for at in range(0, len(entries), size)]


def runner(esm2: Any, **options: Any) -> Any:
    """What runs batches, packed or padded: its ``run(batches)`` yields a result for each.

    A result has ``sequence_ids`` and ``embeddings``, float32 on the CPU: each protein's mean over its residues
    ``[N, D]``, or with ``pool="residue"`` each residue's ``[R, D]``, and how many each protein has, ``residues``.
    """
    return find("AsyncInferenceRunner")(esm2, **options)


def embed(esm2: Any, proteins: Sequence[Protein]) -> Tensor:
    """Each protein's embedding ``[N, D]``, float32 on the CPU, in packs that no workload or commit decides."""
    return torch.cat([result.embeddings for result in runner(esm2).run(packed(proteins, PACK_TOKENS))])


def state(esm2: Any) -> Mapping[str, Tensor]:
    """The model's parameters by fair-esm's names, and its rotary frequencies where the commit tells them."""
    found: Mapping[str, Tensor] = esm2.fair_esm_state()
    return found


class Embedder:
    """ESM-2 loaded in one precision, and a workload as packs.

    `tokens`: about how many a pass has, where it is not what `pass_tokens` says. `esm2`: the model. `proteins`:
    those of one pass. `batches`: them as packs.
    """

    def __init__(
        self, model: str, precision: str, entries: Sequence[Protein], hardware: Hardware, tokens: int | None = None
    ):
        self.device = hardware.device
        self.esm2 = load(model, precision, self.device)
        self.runner = runner(self.esm2)
        self.copies = copies_in_a_pass(entries, tokens or pass_tokens(model, self.device))
        self.proteins = joined(entries, self.copies)
        self.batches = packed(self.proteins, find("token_budget")(self.esm2))
        self.sequences = self.copies * len(entries)
        self.tokens = self.copies * tokens_in(entries)
        self.timer = TIMERS[self.device]

    def run(self, passes: int) -> None:
        """Embed the workload that many times, from token batches on the CPU to embeddings on the CPU."""
        for _ in self.runner.run(itertools.chain.from_iterable(itertools.repeat(self.batches, passes))):
            pass

    def embeddings(self) -> dict[str, Tensor]:
        """Each protein's embedding ``[D]`` by its label."""
        results = self.runner.run(self.batches)
        return {label: row for r in results for label, row in zip(r.sequence_ids, r.embeddings, strict=True)}


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
