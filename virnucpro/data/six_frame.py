"""DNA to proteins as VirNucPro does it: fragments, six reading frames of each, those without a stop codon.

Fragments and names are those of VirNucPro's own programs (github.com/Li-Jing-1997/VirNucPro), so that its
classifier sees what it was trained on.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

BASES = "TCAG"
GENETIC_CODES = {
    1: "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    2: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNKKSS**VVVVAAAADDEEGGGG",
    3: "FFLLSSSSYY**CCWWTTTTPPPPHHQQRRRRIIMMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    4: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    5: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNKKSSSSVVVVAAAADDEEGGGG",
    6: "FFLLSSSSYYQQCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    9: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNNKSSSSVVVVAAAADDEEGGGG",
    10: "FFLLSSSSYY**CCCWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    11: "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    12: "FFLLSSSSYY**CC*WLLLSPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    13: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNKKSSGGVVVVAAAADDEEGGGG",
    14: "FFLLSSSSYYY*CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNNKSSSSVVVVAAAADDEEGGGG",
    15: "FFLLSSSSYY*QCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    16: "FFLLSSSSYY*LCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    21: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIMMTTTTNNNKSSSSVVVVAAAADDEEGGGG",
    22: "FFLLSS*SYY*LCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    23: "FF*LSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    24: "FFLLSSSSYY**CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSSKVVVVAAAADDEEGGGG",
    25: "FFLLSSSSYY**CCGWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    26: "FFLLSSSSYY**CC*WLLLAPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    27: "FFLLSSSSYYQQCCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    28: "FFLLSSSSYYQQCCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    29: "FFLLSSSSYYYYCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    30: "FFLLSSSSYYEECC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    31: "FFLLSSSSYYEECCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    32: "FFLLSSSSYY*WCC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    33: "FFLLSSSSYYY*CCWWLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSSKVVVVAAAADDEEGGGG",
}
"""NCBI's genetic codes by their numbers: the residues of the codons in the order TTT, TTC, TTA, ... GGG.

Codons that codes 27, 28 and 31 read as a residue or as a stop, by what comes after them, are the residue, as with
NCBI (ncbi.nlm.nih.gov/Taxonomy/Utils/wprintgc.cgi).
"""
STANDARD = 1

MEANINGS = {
    "A": "A", "C": "C", "G": "G", "T": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
"""IUPAC's letters and the bases they stand for; U is read as T."""

NUCLEOTIDES = frozenset("".join(MEANINGS) + "U")


@functools.cache
def table_of(genetic_code: int) -> np.ndarray:
    """Residues of codons by the indices of their letters in `MEANINGS`; X for several: uint8 ``[15, 15, 15]``."""
    code = dict(zip(itertools.product(BASES, repeat=3), GENETIC_CODES[genetic_code], strict=True))
    table = np.empty((len(MEANINGS),) * 3, dtype=np.uint8)
    for index in itertools.product(range(len(MEANINGS)), repeat=3):
        bases = (list(MEANINGS.values())[number] for number in index)
        residues = {code[codon] for codon in itertools.product(*bases)}
        table[index] = ord(residues.pop() if len(residues) == 1 else "X")
    return table


INDEX_OF_BYTE = np.zeros(256, dtype=np.intp)
INDEX_OF_BYTE[list("".join(MEANINGS).encode())] = range(len(MEANINGS))
INDEX_OF_BYTE[ord("U")] = list(MEANINGS).index("T")

COMPLEMENT = np.array([list(MEANINGS).index(letter) for letter in "TGCAYRSWMKVHDBN"])
"""Index of each letter's complement."""


def translate(name: str, dna: str, chunk: int, genetic_code: int = STANDARD) -> Iterator[tuple[str, str]]:
    """The proteins of a sequence, as ``(name_chunk_2F1, protein)``: fragment 2, frame 1 of the forward strand.

    `dna`: upper-case letters of `NUCLEOTIDES`. `chunk`: nucleotides of a fragment. `genetic_code`: one of
    `GENETIC_CODES`. Frames come in the order F1 F2
    F3 R1 R2 R3. Left out are frames with a stop codon, without a codon, and with no codon that is known. A codon
    that could mean several residues becomes X; VirNucPro's programs drop such a codon.
    """
    for number, (start, end) in enumerate(fragments(len(dna), chunk), start=1):
        proteins = six_frames(dna[start:end], genetic_code)
        for frame, protein in zip(("F1", "F2", "F3", "R1", "R2", "R3"), proteins, strict=True):
            if "*" not in protein and protein.strip("X"):
                yield f"{name}_chunk_{number}{frame}", protein


def has_known_codon(dna: str, chunk: int, genetic_code: int = STANDARD) -> bool:
    """Whether any frame that `translate` looks at has a codon that means one residue or stop."""
    return any(
        protein.strip("X")
        for start, end in fragments(len(dna), chunk)
        for protein in six_frames(dna[start:end], genetic_code)
    )


def fragments(length: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Where VirNucPro cuts a sequence: ``(start, end)`` of each of ``ceil(length / chunk)`` fragments.

    Neighbours overlap by amounts that differ by one at most, the larger overlaps first, so that all have `chunk`
    nucleotides; where there are few fragments for much overlap, VirNucPro's rule leaves the last one shorter. A
    sequence shorter than `chunk` is one fragment.
    """
    count = -(-length // chunk)
    surplus = count * chunk - length
    overlap = surplus // count if count else 0
    larger = surplus - overlap * (count - 1)
    start = 0
    for gap in range(count):
        yield start, min(start + chunk, length)
        start += chunk - overlap - (gap < larger)


def six_frames(dna: str, genetic_code: int = STANDARD) -> list[str]:
    """The translations of three frames forward and three of the reverse complement, stop codons as ``*``."""
    forward = INDEX_OF_BYTE[np.frombuffer(dna.encode("ascii"), dtype=np.uint8)]
    table = table_of(genetic_code)
    proteins = []
    for strand in (forward, COMPLEMENT[forward][::-1]):
        residues = table[strand[:-2], strand[1:-1], strand[2:]]
        proteins += [residues[frame::3].tobytes().decode("ascii") for frame in range(3)]
    return proteins
