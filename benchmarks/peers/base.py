"""What users run today with the engine's weights: other implementations of ESM-2, in batches that suit them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.gemms import dtype_of
from ..suite.padded import mean_of_padded
from ..suite.program import padded
from ..suite.workloads import Protein

BATCH_SIZES = {"cpu": (1, 2, 8), "cuda": (8, 32, 128)}
"""Proteins in a padded batch that a peer is tried with; the fastest one counts."""


ROUNDING = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2, "int8": 2e-1}
"""The largest relative difference between two implementations of one model in a precision; that of two models is
about 1. Quantised with a rule of its own each, two differ about as either does from FP32."""

Encode = Callable[[Tensor], Tensor]
"""Padded tokens ``[B, T]`` on the device to representations of the last layer ``[B, T, D]``."""

State = Mapping[str, Tensor]
"""An ESM-2 encoder's parameters by fair-esm's names, and its rotary frequencies where the commit tells them."""


class Peer:
    """Another implementation of ESM-2 with proteins, in the order given, cut into batches by one of some sizes.

    `cut`: proteins and a size to batches as `embeddings` takes them. `unit`: what has that size.
    """

    unit = "batches"

    def __init__(
        self,
        encode: Callable[..., Tensor],
        entries: Sequence[Protein],
        cut: Callable[[Sequence[Protein], int], list[Any]],
        precision: str,
        device: str,
        sizes: Sequence[int],
    ):
        self.encode, self.precision, self.device = encode, precision, device
        self.batches = {size: cut(entries, size) for size in sizes}
        # One batch of the largest size tells which size is the fastest: neighbours, as batches of sorted ones are
        middle = max(0, (len(entries) - max(sizes)) // 2)
        some = entries[middle : middle + max(sizes)]
        self.trials = {size: cut(some, size) for size in sizes} if len(sizes) > 1 else {}
        self.size = min(sizes)

    def choose_fastest(self, timer: Callable[[Callable[[], None]], float]) -> None:
        """Use the size that is fastest here."""
        seconds = {}
        everything = self.batches
        try:
            self.batches = self.trials
            for size in self.trials:
                self.size = size
                self.run(1)
                seconds[size] = timer(functools.partial(self.run, 1))
        finally:
            self.batches = everything
        self.size = min(seconds, key=lambda size: seconds[size], default=self.size)

    def check(self, expected: Mapping[str, Tensor]) -> float:
        """The largest difference from `expected` embeddings ``[D]`` by label, over their largest value.

        Raises RuntimeError where it is more than rounding: two speeds then are not of the same work.
        """
        found = self.embeddings()
        largest = max(row.abs().max().item() for row in expected.values())
        difference = max((row - found[label]).abs().max().item() for label, row in expected.items()) / largest
        if not difference <= ROUNDING[self.precision]:
            raise RuntimeError(f"this implementation's embeddings differ from the engine's by {difference:.2g}")
        return difference

    def run(self, passes: int) -> None:
        """Embed the workload that many times, from token batches on the CPU to embeddings on the CPU."""
        for _ in range(passes):
            self.embeddings()

    @torch.inference_mode()
    def embeddings(self) -> dict[str, Tensor]:
        """Each protein's embedding ``[D]``: the mean over its residues."""
        pending = []
        for batch in self.batches[self.size]:
            labels, mean = self.embed(batch)
            pending.append((labels, mean.to("cpu", non_blocking=True)))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return {label: row for labels, mean in pending for label, row in zip(labels, mean, strict=True)}

    def embed(self, batch: Any) -> tuple[Sequence[str], Tensor]:
        """A batch's labels and embeddings, ``[N, D]`` on the device."""
        raise AssertionError("a subclass says how")


class PaddedPeer(Peer):
    """A peer that takes padded batches; its sizes are proteins."""

    def __init__(
        self,
        encode: Encode,
        entries: Sequence[Protein],
        precision: str,
        device: str,
        sizes: Sequence[int] | None = None,
    ):
        super().__init__(encode, entries, padded, precision, device, sizes or BATCH_SIZES[device])

    def embed(self, batch: Any) -> tuple[Sequence[str], Tensor]:
        """A batch's labels and embeddings, ``[N, D]`` on the device."""
        labels, proteins, tokens = batch
        lengths = torch.tensor([len(protein) for protein in proteins])
        on_device = tokens.to(self.device)
        return labels, mean_of_padded(self.encode(on_device), lengths.to(self.device))


def fill(make: Callable[[], nn.Module], state: State | None, precision: str, device: str) -> nn.Module:
    """A peer in the precision, made on the device; with its own random weights, or with all of these."""
    with torch.device(device):
        peer = make().to(dtype_of(precision)).eval()
    taken = peer.load_state_dict(dict(state or {}), strict=False)
    if taken.unexpected_keys:
        raise RuntimeError(f"this peer has no parameter {taken.unexpected_keys[0]}")
    return peer.requires_grad_(False)
