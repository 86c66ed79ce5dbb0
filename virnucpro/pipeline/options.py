"""What is computed and kept of each sequence."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from virnucpro.data.six_frame import GENETIC_CODES, STANDARD
from virnucpro.data.windows import Window
from virnucpro.errors import ArgumentError
from virnucpro.models.esm2 import ESM2
from virnucpro.pipeline.async_inference import DTYPES, ON_NAN, POOLS, AsyncInferenceRunner, layer_index

DEDUPE_TOKENS = 2**19
"""Of the proteins, one after the other, among which `dedupe` looks for equal ones, at most."""

MOST = 2**31 - 1  # of any number: tokens in a pack are counted in 32 bits


@dataclass(frozen=True)
class Options:
    """What is computed and kept of each sequence.

    `pool`: ``mean`` over the residues, ``bos`` or ``residue``, as for `AsyncInferenceRunner`. `layers` as fair-esm
    counts them: 0 to the number of layers, or from -1 down. `max_length`: residues embedded of a longer protein;
    None for all. `chunk`: None for proteins; for DNA the nucleotides of the fragments that are translated in six
    frames, by NCBI's `genetic_code`. `dtype` of the file: ``float32`` or ``float16``. `token_budget`: most tokens
    in a pack; None for what suits the device. `strict`: raise FastaError for a record that would be skipped.
    `on_nan`: ``error`` for embeddings that have NaN or Inf, or ``skip`` to leave their sequences out, which
    `strict` does not allow. `long`: all residues of a protein that is longer than such a window are embedded, in
    windows, instead of `max_length`. `dedupe`: compute equal proteins once, among `DEDUPE_TOKENS` of the input.
    """

    pool: str = "mean"
    layers: tuple[int, ...] = (-1,)
    max_length: int | None = 1022
    chunk: int | None = None
    dtype: str = "float32"
    token_budget: int | None = None
    strict: bool = False
    on_nan: str = "error"
    genetic_code: int = STANDARD
    long: Window | None = None
    dedupe: bool = False

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ArgumentError(f"unknown pool {self.pool!r}; choose from {', '.join(POOLS)}")
        if self.dtype not in DTYPES:
            raise ArgumentError(f"unknown dtype {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if self.on_nan not in ON_NAN:
            raise ArgumentError(f"unknown on_nan {self.on_nan!r}; choose from {', '.join(ON_NAN)}")
        numbers = {"max_length": self.max_length, "token_budget": self.token_budget, "chunk": self.chunk}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ArgumentError(f"{name} {value}: at least 1 is needed")
            if value is not None and value > MOST:
                raise ArgumentError(f"{name} {value}: at most {MOST:,} is possible")
        if self.chunk is not None and self.chunk < 3:
            raise ArgumentError(f"chunk {self.chunk}: a codon has 3 nucleotides")
        if self.genetic_code not in GENETIC_CODES:
            known = ", ".join(map(str, GENETIC_CODES))
            raise ArgumentError(f"unknown genetic_code {self.genetic_code}: NCBI's are {known}")
        if self.chunk is None and self.genetic_code != STANDARD:
            raise ArgumentError(f"genetic_code {self.genetic_code} is for DNA, and there is no chunk to translate")
        if self.long is not None and self.max_length is not None:
            raise ArgumentError(
                f"max_length {self.max_length} cuts a longer protein, and {self.long} embeds all of it: choose one"
            )
        if self.long is not None and self.pool == "bos":
            raise ArgumentError(f"pool 'bos': with {self.long} a long protein has a BOS for each window; use mean")
        if not self.layers:
            raise ArgumentError("no layers: name at least one")


def runner_for(model: ESM2, options: Options, pinned: bool = True) -> AsyncInferenceRunner:
    """A runner that pools the layers of `options`, side by side where there are several.

    `pinned`: as for `AsyncInferenceRunner`; results are taken to be written, and not kept. Windows stay float32:
    `Whole` adds them up before it rounds.
    """
    layers = [layer_index(model, layer) for layer in options.layers]
    one = len(layers) == 1
    return AsyncInferenceRunner(
        model if one else Layers(model, layers),
        pool=options.pool,
        layer=layers[0] if one else -1,
        on_nan="error" if options.strict else options.on_nan,
        dtype="float32" if options.long else options.dtype,
        pinned=pinned,
    )


def shape_of_row(model: ESM2, options: Options) -> tuple[int, ...]:
    """``(D,)``, or ``(layers, D)`` for several layers."""
    count = len(options.layers)
    return (model.embed_dim,) if count == 1 else (count, model.embed_dim)


class Layers(nn.Module):
    """A model whose representation is that of several layers side by side: ``[T, K D]``."""

    def __init__(self, model: ESM2, layers: Sequence[int]):
        super().__init__()
        self.model, self.layers = model, list(layers)
        self.num_layers, self.embed_dim = model.num_layers, len(layers) * model.embed_dim

    def forward_packed(
        self, input_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int, repr_layers: Sequence[int]
    ) -> dict[str, dict[int, Tensor]]:
        """As ESM2's, but for whatever layer is asked for all are returned, side by side."""
        found = self.model.forward_packed(input_ids, cu_seqlens, max_seqlen, repr_layers=self.layers)
        together = torch.cat([found["representations"][layer] for layer in self.layers], dim=-1)
        return {"representations": {repr_layers[0]: together}}
