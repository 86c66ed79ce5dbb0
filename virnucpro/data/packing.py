"""Packs: proteins one after the other in one row of tokens, without padding, up to a budget of tokens."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from virnucpro.data.tokens import encode
from virnucpro.models.esm2 import ESM2, PAD

FILLING = {"cpu": 2_048, "cuda": 49_152}
"""Tokens from which on more made the model faster by less than 2 %: 8M and 35M measured on two CPU cores, 650M and
3B on an H100."""

SHARE_OF_FREE_MEMORY = 0.8
"""What is left over is for PyTorch's allocator, which rounds up, and for kernels' own scratch."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value
class Pack:
    """N proteins of T tokens in all.

    `sequence_ids`: N names. `input_ids`: int64 ``[T]``, BOS, residues and EOS of each. `cu_seqlens`: int32
    ``[N + 1]``, 0 and where each protein ends. `max_seqlen`: tokens of the longest. Tensors are on the CPU.
    """

    sequence_ids: list[str]
    input_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int

    def __len__(self) -> int:
        return len(self.sequence_ids)

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Tokens of each protein."""
        return self.cu_seqlens.diff().tolist()

    def split(self) -> tuple["Pack", "Pack"]:
        """Two packs of half the proteins each; ValueError for fewer than two proteins."""
        if len(self) < 2:
            raise ValueError(f"a pack of {len(self)} proteins cannot be split")
        middle = len(self) // 2
        at = int(self.cu_seqlens[middle])
        parts = (
            (self.sequence_ids[:middle], self.input_ids[:at], self.cu_seqlens[: middle + 1]),
            (self.sequence_ids[middle:], self.input_ids[at:], self.cu_seqlens[middle:] - at),
        )
        first, second = (Pack(*part, max_seqlen=int(part[2].diff().max())) for part in parts)
        return first, second


def pack(entries: Iterable[tuple[str, str]], token_budget: int, max_proteins: int | None = None) -> Iterator[Pack]:
    """Pack proteins in the order given, as they come; one pack at a time is held.

    `entries`: ``(name, protein)``. A pack has at most `token_budget` tokens (residues, and BOS and EOS of each
    protein), unless a protein alone has more: it gets a pack of its own. `max_proteins` limits its proteins
    too. Raises ValueError for a budget below 1, and, naming the sequence, for what `tokens.encode` refuses.
    """
    if token_budget < 1:
        raise ValueError(f"a token budget of {token_budget} holds no protein; use at least 1")
    names: list[str] = []
    rows: list[np.ndarray] = []
    used = 0
    for name, protein in entries:
        row = encode(name, protein)
        if rows and (used + len(row) > token_budget or len(rows) == max_proteins):
            yield make_pack(names, rows)
            names, rows, used = [], [], 0
        names.append(name)
        rows.append(row)
        used += len(row)
    if rows:
        yield make_pack(names, rows)


def make_pack(names: Sequence[str], rows: Sequence[np.ndarray]) -> Pack:
    """The pack of these proteins' tokens."""
    lengths = [len(row) for row in rows]
    ends = np.cumsum([0, *lengths], dtype=np.int32)
    input_ids = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    return Pack(list(names), torch.from_numpy(input_ids), torch.from_numpy(ends), max(lengths, default=0))


def unpad(sequence_ids: Sequence[str], tokens: Tensor) -> Pack:
    """A padded batch, int64 ``[B, T]`` as a batch converter makes it, as a pack."""
    if tokens.ndim != 2 or len(sequence_ids) != len(tokens):
        raise ValueError(f"{len(sequence_ids)} labels for tokens of shape {tuple(tokens.shape)}; [B, T] is needed")
    return make_pack(sequence_ids, [row[row != PAD] for row in tokens.numpy()])


def token_budget(model: ESM2) -> int:
    """How many tokens a pack should have for this model where it is: enough to fill the device, if memory allows.

    The smaller of `FILLING` and `SHARE_OF_FREE_MEMORY` of the free memory over `bytes_per_token`; at least 1.
    Free on a GPU is what the driver has and what PyTorch holds without using it; on a CPU only `FILLING` counts.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        return FILLING["cpu"]
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    return max(1, min(FILLING["cuda"], int(SHARE_OF_FREE_MEMORY * free / bytes_per_token(model))))


def bytes_per_token(model: ESM2) -> int:
    """The most bytes of activations that a token needs at a time.

    In a layer: the residual, its norm, and 4 D hidden values, or queries, keys, values and what attention makes
    of them: 6 D values of the model's type. While the last layer is pooled: two copies of D in FP32 beside the
    residual and the last norm.
    """
    size = next(model.parameters()).element_size()
    return model.embed_dim * max(6 * size, 2 * size + 2 * 4)
