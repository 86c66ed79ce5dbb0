"""Batches as the collator of VirNucPro v2 makes them: packs too, in a dict."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from virnucpro.data.packing import Pack
from virnucpro.data.tokens import ALPHABET
from virnucpro.names import shown

KEYS = ("input_ids", "cu_seqlens", "max_seqlen", "sequence_ids")
INTEGERS = (torch.int32, torch.int64)


def pack_of(batch: Mapping[str, Any], number: int) -> Pack | None:
    """The pack that is in such a dict; None for an empty one, by which the collator says that it waits for more.

    `KEYS` are as in `Pack`. ``num_sequences``, if it is there, is compared, and other keys are left alone.
    Raises ValueError, naming the batch by its `number`, for keys that are missing, tensors of another type, shape
    or device and numbers that do not fit, and, naming the sequence, for one that is not BOS, tokens of ESM-2's and
    EOS, which the runner's pooling relies on.
    """
    if not batch:
        return None
    if missing := [name for name in KEYS if name not in batch]:
        raise refused(number, f"{' and '.join(missing)} missing; it has {', '.join(map(str, batch))}")
    names = list(batch["sequence_ids"])
    if not all(isinstance(name, str) for name in names):
        raise refused(number, "sequence_ids are not all text")
    tokens, ends = (integers(batch, name, number) for name in ("input_ids", "cu_seqlens"))
    count = whole(batch, "num_sequences", number) if "num_sequences" in batch else len(names)
    if not len(names) == count == len(ends) - 1:
        counts = f"{len(names)} sequence_ids, num_sequences {count} and {len(ends)} cu_seqlens"
        raise refused(number, f"{counts}, of which there is one more than sequences")
    lengths = ends.diff()
    if int(ends[0]) != 0 or int(ends[-1]) != len(tokens) or bool((lengths < 1).any()):
        raise refused(number, f"cu_seqlens do not ascend from 0 to the {len(tokens)} input_ids")
    longest = int(lengths.max()) if count else 0
    if (told := whole(batch, "max_seqlen", number)) < longest:
        raise refused(number, f"max_seqlen is {told}, and a sequence has {longest} tokens")
    check_tokens(names, tokens, ends, number)
    return Pack(names, tokens.long(), ends.int(), longest)


def integers(batch: Mapping[str, Any], name: str, number: int) -> Tensor:
    """A tensor of integers with one dimension, on the CPU."""
    found = batch[name]
    if not isinstance(found, Tensor):
        raise refused(number, f"{name} is {type(found).__name__} and not a tensor")
    if found.ndim != 1 or found.dtype not in INTEGERS or found.device.type != "cpu":
        what = f"{found.dtype} of shape {tuple(found.shape)} on {found.device}"
        raise refused(number, f"{name} is {what}, and int64 or int32 with one dimension on the CPU is needed")
    return found


def whole(batch: Mapping[str, Any], name: str, number: int) -> int:
    """A whole number."""
    try:
        return operator.index(batch[name])
    except TypeError:
        raise refused(number, f"{name} is {batch[name]!r} and no whole number") from None


def check_tokens(names: list[str], tokens: Tensor, ends: Tensor, number: int) -> None:
    """Raise ValueError unless each sequence is BOS, tokens of ESM-2's and EOS."""
    wrong = (tokens < 0) | (tokens >= len(ALPHABET)) | (tokens == ALPHABET.padding_idx)
    firsts, lasts = ends[:-1].long(), ends[1:].long() - 1
    wrong[firsts] |= tokens[firsts] != ALPHABET.cls_idx
    wrong[lasts] |= tokens[lasts] != ALPHABET.eos_idx
    if wrong.any():
        place = int(wrong.int().argmax())
        name = names[int(torch.searchsorted(ends, place, right=True)) - 1]
        raise refused(number, f"{shown(name)!r} is not BOS, tokens of ESM-2's without padding, and EOS")


def refused(number: int, why: str) -> ValueError:
    """What to say of a batch."""
    return ValueError(f"batch {number}: {why}")
