"""What VirNucPro embeds: the six-frame proteins of contigs of 500 bases, which are one fragment each.

VirNucPro (github.com/Li-Jing-1997/VirNucPro) translates each fragment in six frames by the standard code and keeps
the frames without a stop codon, whole. A fragment of 500 bases has 166 codons in each frame, so all proteins have
166 residues; fragments of 300 bases would give 100 and 99, reads of 150 bases 50 and 49, which is `short`.

The suite translates by itself, so that the proteins are the same beside every commit. They are those that
``virnucpro embed --translate six-frame --chunk 500`` makes of the same contigs.
"""

import itertools
import random
from collections.abc import Iterator

BASES = 500
RESIDUES = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
"""NCBI's genetic code 1: the residues of the codons in the order TTT, TTC, TTA, ... GGG."""

CODE = dict(zip(map("".join, itertools.product("TCAG", repeat=3)), RESIDUES, strict=True))
COMPLEMENT = str.maketrans("ACGT", "TGCA")

CONTIGS = (119, 270, 549)
"""The first of the seeded contigs, by number, of which a frame has no stop codon: about one of 300 has. Looking
for them takes 0.3 s, which each cell would."""


def fragments() -> list[tuple[str, str]]:
    """Labels as VirNucPro's, and proteins."""
    return [protein for number in CONTIGS for protein in translated(f"fragments{number}", contig(number))]


def contig(number: int) -> str:
    """A seeded contig of random bases."""
    rng = random.Random(f"virnucpro contig {number}")
    return "".join("ACGT"[int(4 * rng.random())] for _ in range(BASES))


def translated(name: str, dna: str) -> Iterator[tuple[str, str]]:
    """The proteins of a fragment: frames F1 F2 F3 R1 R2 R3, those without a stop codon."""
    for strand, letter in ((dna, "F"), (dna.translate(COMPLEMENT)[::-1], "R")):
        for frame in range(3):
            residues = (CODE[strand[at : at + 3]] for at in range(frame, len(strand) - 2, 3))
            protein = "".join(residues)
            if "*" not in protein:
                yield f"{name}_chunk_1{letter}{frame + 1}", protein
