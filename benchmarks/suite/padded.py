"""VirNucPro's own program under the names of `places.PLACES`: padded batches through fair-esm's wrapped model.

Its ``load_esm2_model(model_name, device, enable_fp16)`` returns a model that takes fair-esm's padded tokens and
``repr_layers``. `find` gives these names beside a commit whose `load_esm2_model` has no ``precision``. They do
what the commit is not asked for: batches, pooling (the mean over residues), weights. What is not here is n/a.
"""

import argparse
import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch  # sets an attribute and restores it, which is as good outside tests

import esm
import torch
from torch import Tensor, nn

Batch = tuple[list[str], list[str], Tensor]
"""Labels, proteins and tokens ``[B, T]`` on the CPU."""

BATCH_TOKENS = 2_048
"""Of a padded batch: VirNucPro's own ``toks_per_batch``."""

HEADS = ("lm_head.", "contact_head.")
"""Parameters of fair-esm's model that no embedding depends on: checkpoints of encoders lack them."""


@dataclass(frozen=True)
class Shape:
    """How large a model is."""

    layers: int
    dim: int
    heads: int

    @property
    def parameters(self) -> int:
        """Those of the layers' GEMMs, which are nearly all."""
        return 12 * self.layers * self.dim**2


SHAPES = {
    "esm2_t6_8M_UR50D": Shape(6, 320, 20),
    "esm2_t33_650M_UR50D": Shape(33, 1280, 20),
    "esm2_t36_3B_UR50D": Shape(36, 2560, 40),
    "esm2_t48_15B_UR50D": Shape(48, 5120, 40),
}


@dataclass(frozen=True)
class Precision:
    """A type that weights and activations have. `capability`: the least that it needs on a GPU."""

    dtype: torch.dtype
    enable_fp16: bool
    capability: tuple[int, int] = (0, 0)
    on_cpu: bool = True

    @property
    def bytes_per_weight(self) -> int:
        """Of each weight in memory."""
        return self.dtype.itemsize

    def activations_on(self, device: str) -> torch.dtype:
        """The type of activations."""
        return self.dtype


class Esm2:
    """The commit's model, and what the suite asks of one."""

    def __init__(self, wrapper: nn.Module, shape: Shape, device: str):
        self.wrapper, self.shape, self.device = wrapper, shape, device

    @torch.no_grad()
    def representations(self, tokens: Tensor) -> Tensor:
        """Of the last layer, ``[B, T, D]`` on the device, for tokens ``[B, T]`` on the CPU."""
        last = self.shape.layers
        found: Tensor = self.wrapper(tokens.to(self.device), repr_layers=[last])["representations"][last]
        return found

    def fair_esm_state(self) -> dict[str, Tensor]:
        """The encoder's parameters by fair-esm's names."""
        inside = next(module for module in self.wrapper.modules() if isinstance(module, esm.ESM2))
        return {name: value for name, value in inside.state_dict().items() if not name.startswith(HEADS)}


def find(name: str, loader: Any) -> Any:
    """A name of `places.PLACES`, for a commit's own `load_esm2_model`; None where there is no such thing."""
    of_the_commit = {"load_esm2_model": functools.partial(load, loader), "PRECISIONS": precisions_of(loader)}
    return of_the_commit.get(name, globals().get(name))


def precisions_of(loader: Any) -> dict[str, Precision]:
    """What a commit's `load_esm2_model` offers: none without ``enable_fp16``, as it then chooses by itself."""
    if "enable_fp16" not in inspect.signature(loader).parameters:
        return {}
    return {"fp32": Precision(torch.float32, False), "fp16": Precision(torch.float16, True, (5, 3))}


def load(loader: Any, model: str, device: str, *, precision: str, weights: str) -> tuple[Esm2, Any]:
    """ESM-2 by a commit's own loader, and its batch converter.

    Raises RuntimeError where the model is not in the precision that it was asked for.
    """
    wanted = precisions_of(loader)[precision]
    with served(weights, device):
        wrapper, converter = loader(model, device, enable_fp16=wanted.enable_fp16)
    found = {str(each.dtype) for each in wrapper.parameters() if each.dim() == 2}
    gemms = torch.backends.cuda.matmul.fp32_precision
    if found != {str(wanted.dtype)} or (precision == "fp32" and gemms == "tf32"):
        has = f"{', '.join(sorted(found))}, with FP32 GEMMs {gemms!r}"
        raise RuntimeError(f"{model} was asked for in {precision.upper()} and has {has}")
    return Esm2(wrapper, SHAPES[model], device), converter


@contextlib.contextmanager
def served(weights: str, device: str) -> Iterator[None]:
    """Let fair-esm's loader give other weights than it would download, which the commit has no argument for.

    ``esm.pretrained.load_model_and_alphabet_hub``, which all of fair-esm's loaders by name call, is replaced by
    one that builds the same model: with seeded weights as PyTorch draws them (``random``), or with those of a
    checkpoint in fair-esm's form. ``pretrained``: nothing is replaced.
    """

    def build(name: str) -> tuple[nn.Module, Any]:
        shape, alphabet = SHAPES[name], esm.Alphabet.from_architecture("ESM-1b")
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model = esm.ESM2(shape.layers, shape.dim, shape.heads, alphabet)
        if weights != "random":
            fill(model, weights)
        return model, alphabet

    if weights == "pretrained":
        yield
    else:
        with patch.object(esm.pretrained, "load_model_and_alphabet_hub", build):
            yield


def fill(model: nn.Module, path: str) -> None:
    """Give a model the weights of a checkpoint in fair-esm's form, which may lack the heads."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        stored = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["model"]
    state = {name.removeprefix("encoder.").removeprefix("sentence_encoder."): stored[name] for name in stored}
    taken = model.load_state_dict(state, strict=False)
    wrong = [*taken.unexpected_keys, *(name for name in taken.missing_keys if not name.startswith(HEADS))]
    if wrong:
        raise RuntimeError(f"{path} and fair-esm's model do not have the same parameters: {wrong[0]}")


def BatchConverter() -> Any:  # a class in the other program
    """fair-esm's: labels and proteins to a `Batch`."""
    return esm.Alphabet.from_architecture("ESM-1b").get_batch_converter()


def pack(entries: Iterable[tuple[str, str]], tokens: int) -> Iterator[Batch]:
    """Padded batches of at most so many tokens, padding included, in their order; one protein may have more."""
    convert, longest = BatchConverter(), 0
    waiting: list[tuple[str, str]] = []
    for entry in entries:
        longest = max(longest, len(entry[1]) + 2)
        if waiting and longest * (len(waiting) + 1) > tokens:
            yield convert(waiting)
            waiting, longest = [], len(entry[1]) + 2
        waiting.append(entry)
    if waiting:
        yield convert(waiting)


def token_budget(esm2: Esm2) -> int:
    """How many tokens a batch has."""
    return BATCH_TOKENS


@dataclass(frozen=True)
class Result:
    """Of a batch: ids, embeddings ``[N, D]`` or of residues ``[R, D]``, float32 on the CPU, residues of each."""

    sequence_ids: Sequence[str]
    embeddings: Tensor
    residues: list[int]


class AsyncInferenceRunner:
    """Runs batches one after the other."""

    def __init__(self, esm2: Esm2, pool: str = "mean"):
        self.esm2, self.pool = esm2, pool

    def run(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """A result for each batch."""
        for labels, proteins, tokens in batches:
            rows, lengths = self.esm2.representations(tokens).float(), [len(each) for each in proteins]
            if self.pool == "mean":
                pooled = mean_of_padded(rows, torch.tensor(lengths, device=rows.device))
            else:
                pooled = torch.cat([row[1 : length + 1] for row, length in zip(rows, lengths, strict=True)])
            yield Result(labels, pooled.cpu(), lengths)


def mean_of_padded(representations: Tensor, lengths: Tensor) -> Tensor:
    """Mean of ``[B, T, D]`` over each row's first `lengths` residues, after BOS: float32 ``[B, D]``."""
    position = torch.arange(representations.shape[1], device=lengths.device)
    residues = (position > 0) & (position <= lengths[:, None])
    return torch.where(residues[..., None], representations.float(), 0.0).sum(1) / lengths[:, None]
