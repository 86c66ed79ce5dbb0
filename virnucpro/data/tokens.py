"""Protein strings to ESM-2 tokens."""

from collections.abc import Sequence

import esm
import numpy as np
import torch
from torch import Tensor

ALPHABET = esm.Alphabet.from_architecture("ESM-1b")
"""ESM-2's alphabet (fair-esm uses ESM-1b's): 33 tokens, BOS (``<cls>``) in front, EOS at the end."""

RESIDUES = "".join(ALPHABET.standard_toks)
"""Every letter that ESM-2 knows: the 20 amino acids, X B U Z O, and the gaps ``.`` and ``-``."""

MASK_LETTER = "#"  # stands for <mask> while letters are looked up
UNKNOWN = -1
INDEX_OF_BYTE = np.full(256, UNKNOWN, dtype=np.int64)
INDEX_OF_BYTE[list(RESIDUES.encode())] = [ALPHABET.get_idx(letter) for letter in RESIDUES]
INDEX_OF_BYTE[ord(MASK_LETTER)] = ALPHABET.mask_idx


def encode(label: str, protein: str) -> np.ndarray:
    """Tokens of one protein: int64 ``[residues + 2]``, BOS, residues, EOS; ``<mask>`` is one residue.

    Raises ValueError, naming the sequence, for an empty protein or a letter that ESM-2 does not know.
    """
    letters = protein.replace("<mask>", MASK_LETTER) if "<" in protein else protein
    tokens = np.empty(len(letters) + 2, dtype=np.int64)
    tokens[0], tokens[-1] = ALPHABET.cls_idx, ALPHABET.eos_idx
    tokens[1:-1] = INDEX_OF_BYTE[np.frombuffer(letters.encode("latin-1", "replace"), dtype=np.uint8)]
    if not letters or tokens.min() == UNKNOWN or MASK_LETTER in protein:
        raise ValueError(what_is_wrong(label, protein))
    return tokens


def what_is_wrong(label: str, protein: str) -> str:
    """Why ESM-2 cannot take this protein, and what to do."""
    if not protein:
        return f"sequence {label!r} is empty: ESM-2 needs at least one residue; leave it out"
    unknown = sorted(set(protein.replace("<mask>", "")) - set(RESIDUES))
    return (
        f"sequence {label!r} has {' '.join(map(repr, unknown))}, which ESM-2 does not know; "
        f"it knows {RESIDUES} (upper case) and <mask>: replace other letters by X"
    )


class BatchConverter(esm.BatchConverter):
    """fair-esm's batch converter, faster, and with errors that name the sequence.

    ``converter([(label, protein), ...])`` returns ``(labels, proteins, tokens)``; ``tokens`` is an int64
    CPU tensor ``[B, T]``, each row BOS, residues, EOS, padding. An empty batch gives tokens ``[0, 2]``.
    Raises ValueError, naming the sequence, for an empty protein or a letter that ESM-2 does not know.
    """

    def __init__(self, truncation_seq_length: int | None = None):
        super().__init__(ALPHABET, truncation_seq_length)

    def __call__(self, raw_batch: Sequence[tuple[str, str]]) -> tuple[list[str], list[str], Tensor]:
        """Tokens of `raw_batch`; see the class."""
        rows = [encode(label, protein) for label, protein in raw_batch]
        if self.truncation_seq_length:
            rows = [shortened(row, self.truncation_seq_length) for row in rows]
        width = max(map(len, rows), default=2)
        tokens = np.full((len(rows), width), ALPHABET.padding_idx, dtype=np.int64)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = row
        return [label for label, _ in raw_batch], [protein for _, protein in raw_batch], torch.from_numpy(tokens)


def shortened(tokens: np.ndarray, residues: int) -> np.ndarray:
    """Tokens of a protein's first residues."""
    return tokens if len(tokens) <= residues + 2 else np.concatenate((tokens[: residues + 1], tokens[-1:]))
