"""A test double of ESM-2 on a GPU: a given number of tokens per second, and embeddings that mean nothing."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from virnucpro.data.packing import Pack
from virnucpro.pipeline.async_inference import InferenceResult, residues_of
from virnucpro.pipeline.provenance import version_of
from virnucpro.pipeline.worker import Plan

TOKENS_PER_SECOND = 1_000_000
DIMENSION = 1280  # of 650M
TOKEN_BUDGET = 49_152


class StandIn:
    """Takes as long as `TOKENS_PER_SECOND` says without using the CPU, as a GPU does, and pools the mean."""

    shape: tuple[int, ...] = (DIMENSION,)

    def __init__(self, plan: Plan):
        rng = np.random.default_rng(0)
        self._rows = rng.standard_normal((TOKEN_BUDGET, DIMENSION), dtype=np.float32)

    def settings(self, begun: Mapping[str, Any]) -> dict[str, Any]:
        """Of no model."""
        about = {
            "precision": "test double",
            "weights_checksum": "",
            "pool": "mean",
            "layers": [0],
            "dtype": "float32",
        }
        device = {"device": "test double", "threads": 0, "token_budget": TOKEN_BUDGET}
        return {**about, **device, "engine": "test double", "virnucpro": version_of("virnucpro")}

    def start(self, settings: Mapping[str, Any]) -> None:
        """Nothing."""

    def run(self, packs: Iterable[Pack]) -> Iterator[InferenceResult]:
        """A result a pack."""
        free = time.perf_counter()
        for pack in packs:
            free = max(free, time.perf_counter() - 0.1) + len(pack.input_ids) / TOKENS_PER_SECOND
            time.sleep(max(0.0, free - time.perf_counter()))
            rows = torch.from_numpy(self._rows[: len(pack)])
            yield InferenceResult(pack.sequence_ids, rows, residues_of(pack))
