"""Batches of tokens in, mean-pooled embeddings out, with the transfers beside the compute."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from virnucpro.models.esm2 import PAD

Batch = tuple[Sequence[str], Sequence[str], Tensor]
"""What a batch converter returns: labels, proteins, int64 tokens ``[B, T]`` on the CPU."""


@dataclass(frozen=True)
class InferenceResult:
    """Embeddings of one batch: `sequence_ids` as they came, `embeddings` ``[N, D]`` float32 on the CPU."""

    sequence_ids: list[str]
    embeddings: Tensor


class NonFiniteEmbeddingError(ArithmeticError):
    """An embedding has NaN or Inf."""


class AsyncInferenceRunner:
    """Embed a stream of batches.

    `model` is called as fair-esm's ESM2 (``model(tokens, repr_layers=[n])``) and has its ``num_layers`` and
    ``embed_dim``. `device` is where the model is, and found from the model by default.
    On a GPU the next batch is copied there and the last one's result is copied back while the GPU computes.
    """

    batches_in_flight = 3  # one being copied in, one computed, one copied out

    def __init__(self, model: nn.Module, device: str | torch.device | None = None):
        self.model = model
        self.last_layer, self.embed_dim = int(model.num_layers), int(model.embed_dim)  # type: ignore[arg-type]
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        if self.device.type == "cuda":
            self.copy_in = torch.cuda.Stream(self.device)
            self.copy_out = torch.cuda.Stream(self.device)

    def run(self, batches: Iterable[Batch]) -> Iterator[InferenceResult]:
        """Yield one result a batch, in order: the mean of the last layer over each protein's residues.

        BOS, EOS and padding are left out of the mean. At most `batches_in_flight` batches are held, however
        long the input. Raises ValueError for a protein without residues, and NonFiniteEmbeddingError,
        naming the sequences, for NaN or Inf.
        """
        waiting: deque[Callable[[], InferenceResult]] = deque()
        for labels, _, tokens in batches:
            waiting.append(self._submit(list(labels), tokens))
            if len(waiting) == self.batches_in_flight:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()

    @torch.inference_mode()
    def _submit(self, labels: list[str], tokens: Tensor) -> Callable[[], InferenceResult]:
        """Start one batch; the function returned waits for its result."""
        check_batch(labels, tokens)
        if not labels:
            return lambda: InferenceResult([], torch.empty((0, self.embed_dim)))
        if self.device.type == "cpu":
            embeddings = self._embed(tokens)
            return lambda: finite(labels, embeddings)

        compute = torch.cuda.current_stream(self.device)
        pinned = tokens.pin_memory()
        with torch.cuda.stream(self.copy_in):
            on_device = pinned.to(self.device, non_blocking=True)
        compute.wait_stream(self.copy_in)
        on_device.record_stream(compute)
        pooled = self._embed(on_device)
        result = torch.empty(pooled.shape, dtype=pooled.dtype, pin_memory=True)
        self.copy_out.wait_stream(compute)
        with torch.cuda.stream(self.copy_out):
            result.copy_(pooled, non_blocking=True)
            done = torch.cuda.Event()
            done.record(self.copy_out)
        pooled.record_stream(self.copy_out)

        def collect() -> InferenceResult:
            done.synchronize()
            return finite(labels, result)

        return collect

    def _embed(self, tokens: Tensor) -> Tensor:
        """Tokens ``[B, T]`` to embeddings ``[B, D]`` float32, both on the device."""
        representations = self.model(tokens, repr_layers=[self.last_layer])["representations"]
        return mean_over_residues(representations[self.last_layer], tokens)


def mean_over_residues(representations: Tensor, tokens: Tensor) -> Tensor:
    """Mean of ``[B, T, D]`` over each row's residues, in float32: ``[B, D]``. First and last token left out."""
    lengths = tokens.ne(PAD).sum(-1, keepdim=True)
    position = torch.arange(tokens.shape[1], device=tokens.device)
    residues = (position > 0) & (position < lengths - 1)
    # where, not a product: what stands at padding positions may be NaN
    kept = torch.where(residues[..., None], representations.float(), 0.0)
    return kept.sum(1) / (lengths - 2)


def check_batch(labels: Sequence[str], tokens: Tensor) -> None:
    """Raise ValueError unless there is a label for each row of `tokens` and each row has a residue."""
    if tokens.ndim != 2 or len(labels) != len(tokens):
        raise ValueError(f"{len(labels)} labels for tokens of shape {tuple(tokens.shape)}; [B, T] is needed")
    empty = (tokens.ne(PAD).sum(-1) < 3).tolist()
    if any(empty):
        names = [label for label, without in zip(labels, empty, strict=True) if without]
        raise ValueError(f"no residue to average in {some(names)}; leave empty proteins out")


def finite(labels: list[str], embeddings: Tensor) -> InferenceResult:
    """The result, unless it has NaN or Inf."""
    good = embeddings.isfinite().all(-1).tolist()
    if not all(good):
        names = [label for label, is_good in zip(labels, good, strict=True) if not is_good]
        raise NonFiniteEmbeddingError(
            f"NaN or Inf in the embedding of {some(names)}: the precision may be too narrow for these "
            "weights (try bf16 or fp32), or the checkpoint is damaged"
        )
    # A plain tensor: neither pinned memory nor one that autograd refuses
    return InferenceResult(labels, embeddings.clone())


def some(names: Sequence[str], most: int = 5) -> str:
    """`names` for an error message, cut after `most`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
