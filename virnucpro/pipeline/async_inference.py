"""Batches of tokens in, embeddings out, with the transfers beside the compute.

What the host does beside a GPU is done by NumPy, on one thread: PyTorch's operators on tensors of this size wait
for a pool of threads, now and then for 20 to 60 ms where other programs use the cores, too.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.data.collated import pack_of
from virnucpro.data.packing import Pack, unpad
from virnucpro.errors import ArgumentError, UserError
from virnucpro.names import shown

Batch = tuple[Sequence[str], Sequence[str], Tensor]
"""What a batch converter returns: labels, proteins, int64 tokens ``[B, T]`` on the CPU."""

POOLS = ("mean", "bos", "residue")
ON_NAN = ("error", "skip")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceResult:
    """Embeddings of one batch, float32 on the CPU.

    `sequence_ids` as they came; `embeddings` ``[N, D]``, one row a protein, or with ``pool="residue"`` one row a
    residue, protein after protein; `residues`: how many residues each protein has. `skipped`: proteins that are in
    none of these, because their embeddings have NaN or Inf, by their places in the batch.
    """

    sequence_ids: list[str]
    embeddings: Tensor
    residues: list[int]
    skipped: dict[int, str] = field(default_factory=dict)


class NonFiniteEmbeddingError(UserError, ArithmeticError):
    """An embedding has NaN or Inf."""

    resume_helps = False  # it would be computed again


class AsyncInferenceRunner:
    """Embed a stream of batches.

    `model`: an `ESM2`; its ``forward_packed``, ``num_layers`` and ``embed_dim`` are used. `device` is where the
    model is, and found from the model by default. `pool`: ``mean`` over each protein's residues, ``bos`` (the
    embedding of the token in front of them), or ``residue`` (all of them). `layer` as in ``repr_layers``; negative
    ones count from the last. `on_nan`: ``error``, or ``skip`` to leave out proteins whose embeddings have NaN or
    Inf.
    On a GPU the next batch is copied there and the last one's result is copied back while the GPU computes.
    """

    batches_in_flight = 3  # one being copied in, one computed, one copied out

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device | None = None,
        *,
        pool: str = "mean",
        layer: int = -1,
        on_nan: str = "error",
    ):
        if pool not in POOLS:
            raise ValueError(f"unknown pool {pool!r}; choose from {', '.join(POOLS)}")
        if on_nan not in ON_NAN:
            raise ValueError(f"unknown on_nan {on_nan!r}; choose from {', '.join(ON_NAN)}")
        self.model, self.pool, self.skip = model, pool, on_nan == "skip"
        self.embed_dim = int(model.embed_dim)  # type: ignore[arg-type]
        self.layer = layer_index(model, layer)
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.told_of_splitting = False
        if self.device.type == "cuda":
            self.copy_in = torch.cuda.Stream(self.device)
            self.copy_out = torch.cuda.Stream(self.device)

    def run(self, batches: Iterable[Batch | Pack | Mapping[str, Any]]) -> Iterator[InferenceResult]:
        """Yield one result a batch, in order. A batch is a `Pack`, what a batch converter returns, or a dict.

        A dict is what VirNucPro v2's collator makes, see `pack_of`; an empty one has no result.

        At most `batches_in_flight` batches are held, however long the input. A batch that the GPU's memory does
        not hold is computed in parts. Raises ValueError for a protein without residues, NonFiniteEmbeddingError,
        naming the sequences, for NaN or Inf unless they are skipped, and torch.OutOfMemoryError for a protein that
        does not fit alone.
        """
        waiting: deque[Callable[[], InferenceResult]] = deque()
        for number, batch in enumerate(batches):
            pack = as_pack(batch, number)
            if pack is None:
                continue
            waiting.append(self._submit(pack))
            del batch, pack
            if len(waiting) == self.batches_in_flight:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    @torch.inference_mode()
    def _submit(self, pack: Pack) -> Callable[[], InferenceResult]:
        """Start one batch; the function returned waits for its result."""
        check_residues(pack)
        if not len(pack):
            return lambda: InferenceResult(
                [], torch.empty((0, self.embed_dim), dtype=torch.float32, device="cpu"), []
            )
        if self.device.type == "cpu":
            embeddings, good = self._embed(pack)
            return lambda: finite(pack, embeddings, good, self.pool, self.skip)

        compute = torch.cuda.current_stream(self.device)
        pooled, good_rows = self._embed(pack)
        self.copy_out.wait_stream(compute)
        with torch.cuda.stream(self.copy_out):
            on_host, good_on_host = self._to_host(pooled), self._to_host(good_rows)
            done = torch.cuda.Event()
            done.record(self.copy_out)

        def collect() -> InferenceResult:
            done.synchronize()
            return finite(pack, on_host, good_on_host, self.pool, self.skip)

        return collect

    def _embed(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """As `_embed_at_once`; in two halves where the memory does not hold the pack."""
        try:
            return self._embed_at_once(pack)
        except torch.OutOfMemoryError as error:
            if len(pack) < 2:
                raise torch.OutOfMemoryError(
                    f"sequence {shown(pack.sequence_ids[0])!r} of {sum(residues_of(pack)):,} residues does not "
                    f"fit into the memory of {self.device}, even alone; cut it, or use another model or "
                    f"precision: {error}"
                ) from error
        # Out of the handler, because the exception keeps the failed call's tensors alive
        if not self.told_of_splitting:
            logger.warning(
                "%s tokens of %d proteins do not fit into the memory of %s; such batches are computed in parts "
                "(a smaller token budget avoids that)",
                *(f"{len(pack.input_ids):,}", len(pack), self.device),
            )
            self.told_of_splitting = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        embeddings, good = zip(*map(self._embed, pack.split()), strict=True)
        return torch.cat(embeddings), torch.cat(good)

    def _embed_at_once(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Embeddings of a pack, float32 on the device, and which rows have neither NaN nor Inf."""
        input_ids, cu_seqlens = self._to_device(pack.input_ids), self._to_device(pack.cu_seqlens)
        packed = self.model.forward_packed(  # type: ignore[operator]
            input_ids, cu_seqlens, pack.max_seqlen, repr_layers=[self.layer]
        )
        representations = packed["representations"][self.layer]
        if self.pool == "mean":
            if pack.weights is not None:
                representations = representations.float() * self._to_device(pack.weights)[:, None]
            embeddings = mean_over_residues(representations, cu_seqlens)
        else:
            embeddings = representations[self._to_device(rows(pack, self.pool))].float()
        return embeddings, embeddings.isfinite().all(-1)

    def _to_device(self, tensor: Tensor) -> Tensor:
        """A CPU tensor on the device, copied beside what is being computed."""
        if self.device.type == "cpu":
            return tensor
        compute = torch.cuda.current_stream(self.device)
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        pinned.numpy()[...] = tensor.numpy()
        with torch.cuda.stream(self.copy_in):
            on_device = pinned.to(self.device, non_blocking=True)
        compute.wait_stream(self.copy_in)
        on_device.record_stream(compute)
        return on_device

    def _to_host(self, tensor: Tensor) -> Tensor:
        """Pinned memory that the current stream, which is `copy_out`, copies a tensor of the device to."""
        on_host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        on_host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.copy_out)
        return on_host


def as_pack(batch: Batch | Pack | Mapping[str, Any], number: int) -> Pack | None:
    """The pack of whatever a batch can be; None for a dict without one."""
    if isinstance(batch, Pack):
        return batch
    return pack_of(batch, number) if isinstance(batch, Mapping) else unpad(batch[0], batch[2])


def layer_index(model: nn.Module, layer: int) -> int:
    """A layer counted from 0, where negative ones count from the last; ValueError for one that does not exist."""
    last = int(model.num_layers)  # type: ignore[arg-type]
    if not -last - 1 <= layer <= last:
        raise ArgumentError(f"layer {layer}: this model has layers 0 to {last}, or {-last - 1} to -1")
    return layer % (last + 1)


def mean_over_residues(representations: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean of ``[T, D]`` over each protein's residues, in float32: ``[N, D]``. First and last token left out."""
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    # Three segments a protein: BOS, residues, EOS
    offsets = torch.cat((torch.stack((starts, starts + 1, ends - 1), dim=1).flatten(), ends[-1:]))
    return torch.segment_reduce(representations.float(), "mean", offsets=offsets, axis=0, unsafe=True)[1::3]


def rows(pack: Pack, pool: str) -> Tensor:
    """Which tokens ``pool="bos"`` or ``pool="residue"`` takes: int64, on the CPU."""
    ends = pack.cu_seqlens.numpy().astype(np.int64)
    if pool == "bos":
        return torch.from_numpy(ends[:-1])
    kept = np.ones(len(pack.input_ids), dtype=bool)
    kept[ends[:-1]] = kept[ends[1:] - 1] = False
    return torch.from_numpy(np.flatnonzero(kept))


def residues_of(pack: Pack) -> list[int]:
    """Residues of each protein."""
    return [length - 2 for length in pack.lengths]


def check_residues(pack: Pack) -> None:
    """Raise ValueError unless each protein has a residue."""
    names = [name for name, count in zip(pack.sequence_ids, residues_of(pack), strict=True) if count < 1]
    if names:
        raise ValueError(f"no residue to average in {some(names)}; leave empty proteins out")


def finite(pack: Pack, embeddings: Tensor, good: Tensor, pool: str, skip: bool = False) -> InferenceResult:
    """The result, unless it has NaN or Inf, without these with `skip`; `good` tells which rows have none."""
    residues, all_good = residues_of(pack), good.numpy()
    if all_good.all():
        # A plain tensor: neither pinned memory nor one that autograd refuses
        return InferenceResult(pack.sequence_ids, torch.from_numpy(embeddings.numpy().copy()), residues)
    sizes = residues if pool == "residue" else [1] * len(pack)
    kept = [bool(rows.all()) for rows in np.split(all_good, np.cumsum(sizes)[:-1])]
    skipped = {at: name for at, name in enumerate(pack.sequence_ids) if not kept[at]}
    if not skip:
        names = list(dict.fromkeys(skipped.values()))  # windows of a protein have its name
        raise NonFiniteEmbeddingError(
            f"NaN or Inf in the embedding of {some(names)}: the precision may be too narrow for "
            "these weights (try bf16 or fp32), or the checkpoint is damaged; --on-nan skip leaves them out"
        )
    return InferenceResult(
        list(itertools.compress(pack.sequence_ids, kept)),
        torch.from_numpy(embeddings.numpy()[np.repeat(kept, sizes)]),
        list(itertools.compress(residues, kept)),
        skipped,
    )


def some(names: Sequence[str], most: int = 5) -> str:
    """`names` for an error message, cut after `most`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(shown(name)) for name in names[:most]) + more
