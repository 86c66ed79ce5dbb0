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
DTYPES = ("float32", "float16")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceResult:
    """Embeddings of one batch, on the CPU, float32 unless the runner was given another type.

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


class TooNarrowError(UserError, ArithmeticError):
    """The type asked for cannot hold an embedding."""

    resume_helps = False  # it would be computed again


class AsyncInferenceRunner:
    """Embed a stream of batches.

    `model`: an `ESM2`; its ``forward_packed``, ``num_layers`` and ``embed_dim`` are used. `device` is where the
    model is, and found from the model by default. `pool`: ``mean`` over each protein's residues, ``bos`` (the
    embedding of the token in front of them), or ``residue`` (all of them). `layer` as in ``repr_layers``; negative
    ones count from the last. `on_nan`: ``error``, or ``skip`` to leave out proteins whose embeddings have NaN or
    Inf. `dtype` of the embeddings, ``float32`` or ``float16``; they are rounded to it where the model is, to the
    nearest and halves to even.
    On a GPU the next batch is copied there and the last one's result is copied back while the GPU computes.
    `pinned`: a result stays in the pinned memory that it was copied to, for a caller that soon lets go of it.
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
        dtype: str = "float32",
        pinned: bool = False,
    ):
        if pool not in POOLS:
            raise ValueError(f"unknown pool {pool!r}; choose from {', '.join(POOLS)}")
        if on_nan not in ON_NAN:
            raise ValueError(f"unknown on_nan {on_nan!r}; choose from {', '.join(ON_NAN)}")
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
        self.model, self.pool, self.skip = model, pool, on_nan == "skip"
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.pinned = pinned
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
        naming the sequences, for NaN or Inf unless they are skipped, TooNarrowError where `dtype` cannot hold an
        embedding, and torch.OutOfMemoryError for a protein that does not fit alone.
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
                [], torch.empty((0, self.embed_dim), dtype=self.dtype, device="cpu"), []
            )
        if self.device.type == "cpu":
            embeddings, largest = self._embed(pack)
            return lambda: self._checked(pack, embeddings, largest)

        compute = torch.cuda.current_stream(self.device)
        pooled, largest_of_each = self._embed(pack)
        self.copy_out.wait_stream(compute)
        with torch.cuda.stream(self.copy_out):
            on_host, largest_on_host = self._to_host(pooled), self._to_host(largest_of_each)
            done = torch.cuda.Event()
            done.record(self.copy_out)

        def collect() -> InferenceResult:
            done.synchronize()
            return self._checked(pack, on_host, largest_on_host)

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
        embeddings, largest = zip(*map(self._embed, pack.split()), strict=True)
        return torch.cat(embeddings), torch.cat(largest)

    def _embed_at_once(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Embeddings of a pack ``[n, D]``, on the device, and the magnitude of each row, float32 ``[n]``."""
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
            embeddings = representations[self._to_device(rows(pack, self.pool))]
        return embeddings.to(self.dtype), magnitude(embeddings)

    def _checked(self, pack: Pack, embeddings: Tensor, largest: Tensor) -> InferenceResult:
        """The result, unless it has NaN, Inf or what `dtype` cannot hold; with `skip` without those of NaN or Inf.

        `largest`: the magnitude of each row, before it was rounded to `dtype`.
        """
        residues = residues_of(pack)
        sizes = residues if self.pool == "residue" else [1] * len(pack)
        values, magnitudes = embeddings.numpy(), largest.numpy()
        finite = np.isfinite(magnitudes)
        if finite.all():
            check_fits(pack.sequence_ids, sizes, magnitudes, values.dtype)
            # A plain tensor: not one that autograd refuses
            plain = torch.from_numpy(values if self.pinned else values.copy())
            return InferenceResult(pack.sequence_ids, plain, residues)
        kept = [bool(rows.all()) for rows in np.split(finite, np.cumsum(sizes)[:-1])]
        skipped = {at: name for at, name in enumerate(pack.sequence_ids) if not kept[at]}
        if not self.skip:
            names = list(dict.fromkeys(skipped.values()))  # windows of a protein have its name
            raise NonFiniteEmbeddingError(
                f"NaN or Inf in the embedding of {some(names)}: the precision may be too narrow for "
                "these weights (try bf16 or fp32), or the checkpoint is damaged; --on-nan skip leaves them out"
            )
        names, of_kept = list(itertools.compress(pack.sequence_ids, kept)), np.repeat(kept, sizes)
        check_fits(names, list(itertools.compress(sizes, kept)), magnitudes[of_kept], values.dtype)
        plain = torch.from_numpy(values[of_kept])
        return InferenceResult(names, plain, list(itertools.compress(residues, kept)), skipped)

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


def magnitude(rows: Tensor) -> Tensor:
    """The largest absolute value of each row of ``[n, D]``, float32 ``[n]``: NaN where it has one, else Inf."""
    lowest, highest = rows.aminmax(dim=-1)
    return torch.maximum(highest, -lowest).float()


def check_fits(names: Sequence[str], sizes: Sequence[int], magnitudes: np.ndarray, dtype: np.dtype) -> None:
    """Raise TooNarrowError, naming the sequence, where `dtype` rounds a row to Inf.

    `sizes`: rows of each name. `magnitudes`: of each row, finite float32; a row has Inf if this has.
    """
    with np.errstate(over="ignore"):
        wrong = np.flatnonzero(np.isinf(magnitudes.astype(dtype)))
    if not len(wrong):
        return
    found = np.unique(np.searchsorted(np.cumsum(sizes), wrong, side="right"))
    more = f" (and {len(found) - 1} more of its batch)" if len(found) > 1 else ""
    raise TooNarrowError(
        f"the embedding of {shown(names[int(found[0])])!r}{more} has values up to {magnitudes[wrong[0]]:,.0f}, "
        f"which {dtype} cannot hold: use --dtype float32 and --force"
    )


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


def some(names: Sequence[str], most: int = 5) -> str:
    """`names` for an error message, cut after `most`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(shown(name)) for name in names[:most]) + more
