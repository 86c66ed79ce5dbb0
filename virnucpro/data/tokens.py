"""Protein strings to padded ESM-2 tokens."""

from collections.abc import Sequence

import esm
import torch
from torch import Tensor

ALPHABET = esm.Alphabet.from_architecture("ESM-1b")
"""ESM-2's alphabet (fair-esm uses ESM-1b's): 33 tokens, BOS (``<cls>``) in front, EOS at the end."""

RESIDUES = "".join(ALPHABET.standard_toks)
"""Every letter that ESM-2 knows: the 20 amino acids, X B U Z O, and the gaps ``.`` and ``-``."""


class BatchConverter(esm.BatchConverter):
    """fair-esm's batch converter, with errors that name the sequence.

    ``converter([(label, protein), ...])`` returns ``(labels, proteins, tokens)``; ``tokens`` is an int64
    CPU tensor ``[B, T]``, each row BOS, residues, EOS, padding. An empty batch gives tokens ``[0, 2]``.
    Raises ValueError, naming the sequence, for an empty protein or a letter that ESM-2 does not know.
    """

    def __init__(self, truncation_seq_length: int | None = None):
        super().__init__(ALPHABET, truncation_seq_length)

    def __call__(self, raw_batch: Sequence[tuple[str, str]]) -> tuple[list[str], list[str], Tensor]:
        """Tokens of `raw_batch`; see the class."""
        if not raw_batch:
            return [], [], torch.empty((0, 2), dtype=torch.int64)
        for label, protein in raw_batch:
            check_protein(label, protein)
        return super().__call__(raw_batch)


def check_protein(label: str, protein: str) -> None:
    """Raise ValueError unless `protein` has residues and only tokens that ESM-2 knows."""
    if not protein:
        raise ValueError(f"sequence {label!r} is empty: ESM-2 needs at least one residue; leave it out")
    unknown = sorted(set(protein.replace("<mask>", "")) - set(RESIDUES))
    if unknown:
        raise ValueError(
            f"sequence {label!r} has {' '.join(map(repr, unknown))}, which ESM-2 does not know; "
            f"it knows {RESIDUES} (upper case) and <mask>: replace other letters by X"
        )
