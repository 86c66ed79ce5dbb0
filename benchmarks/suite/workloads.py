"""The proteins that are embedded: seeded sets, the same on every machine, and the user's own FASTA."""

import itertools
import os
import random
from collections.abc import Sequence
from pathlib import Path

from .fragments import fragments
from .places import find

Protein = tuple[str, str]
"""A label and its residues."""

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"

LENGTHS = {
    "short": [50] * 8,
    "medium": [150] * 3,
    "long": [300] * 2,
    "mixed": [58, 134, 210, 286, 362],  # the middles of five equal parts of 20 to 400
    "full": [1022],  # the most residues that ESM-2 saw in training
}
"""Residues of each protein of the seeded workloads: so few that a pass takes about a second or less on two CPU
cores in the slowest precision. A GPU is filled by joining copies of the set (`joined`)."""

FIDELITY_LENGTHS = [50 + round(350 * index / 63) for index in range(64)]
"""Residues of each protein by which fidelity is judged: 50 to 400, evenly spread."""

UNIPROT_PERCENT = {
    **{
        "A": 8.25,
        "R": 5.53,
        "N": 4.06,
        "D": 5.46,
        "C": 1.38,
        "Q": 3.93,
        "E": 6.72,
        "G": 7.07,
        "H": 2.27,
        "I": 5.91,
    },
    **{
        "L": 9.65,
        "K": 5.80,
        "M": 2.41,
        "F": 3.86,
        "P": 4.74,
        "S": 6.65,
        "T": 5.36,
        "W": 1.10,
        "Y": 2.92,
        "V": 6.86,
    },
}
"""Amino acids in UniProtKB/Swiss-Prot: its release statistics, https://web.expasy.org/docs/relnotes/relstat.html"""

CONCENTRATION = 100
"""Of the Dirichlet distribution: the larger, the more alike are compositions. With 100, proteins lie as far apart
as real ones; with letters drawn uniformly their median distance is half of that, which doubles the figure."""

FRAGMENTS = "fragments"
"""VirNucPro's own proteins: three of 166 residues."""

WORKLOADS = (*LENGTHS, FRAGMENTS, "fasta")

FASTA_VARIABLE = "VIRNUCPRO_BENCH_FASTA"
LONGEST = 10_000
"""A protein with more residues is refused: attention grows with the square, and one would outweigh the set."""

FASTA_RESIDUES = {"cpu": 2_000, "cuda": 32_000}
"""About how many residues of the user's file are used."""


def proteins(workload: str, device: str) -> list[Protein]:
    """The proteins of a workload; `device` (``cpu`` or ``cuda``) only sets how much of a FASTA is used."""
    if workload == "fasta":
        return sample(read_fasta(from_project(os.environ[FASTA_VARIABLE])), FASTA_RESIDUES[device])
    if workload == FRAGMENTS:
        return fragments()
    rng = random.Random(f"virnucpro {workload}")
    return [
        (f"{workload}{index}", "".join(AMINO_ACIDS[int(20 * rng.random())] for _ in range(length)))
        for index, length in enumerate(LENGTHS[workload])
    ]


def fidelity_proteins(workload: str) -> list[Protein]:
    """Different proteins that are as far apart as real ones: the same set for all workloads but the user's own.

    The seeded set: `FIDELITY_LENGTHS` residues, each protein with a composition of its own, drawn from a Dirichlet
    distribution around UniProt's. Of the user's file: `sample_different`.
    """
    if workload == "fasta":
        return sample_different(read_fasta(from_project(os.environ[FASTA_VARIABLE])))
    rng = random.Random("virnucpro fidelity")
    found = []
    for index, length in enumerate(FIDELITY_LENGTHS):
        composition = [
            rng.gammavariate(CONCENTRATION * UNIPROT_PERCENT[letter] / 100, 1) for letter in AMINO_ACIDS
        ]
        found.append((f"fidelity{index}", "".join(rng.choices(AMINO_ACIDS, composition, k=length))))
    return found


def sample_different(everything: Sequence[Protein]) -> list[Protein]:
    """A seeded sample of proteins that all differ: as many as the seeded set has, fewer where they are long."""
    different = list({residues: (label, residues) for label, residues in everything}.values())
    drawn = random.Random("virnucpro fidelity").sample(different, min(len(different), len(FIDELITY_LENGTHS)))
    before = itertools.accumulate((len(residues) for _, residues in drawn), initial=0)
    return [
        entry
        for index, (entry, so_far) in enumerate(zip(drawn, before, strict=False))
        if index < len(FIDELITY_LENGTHS) // 2 or so_far < sum(FIDELITY_LENGTHS)
    ]


def from_project(path: str) -> Path:
    """A path as the user wrote it beside asv.conf.json; asv runs each cell in a folder of its own."""
    return Path(os.environ.get("ASV_CONF_DIR", ""), path)


def sample(everything: Sequence[Protein], residues: int) -> list[Protein]:
    """A seeded sample: proteins drawn without replacement until they have `residues` residues together."""
    shuffled = random.Random("virnucpro fasta").sample(everything, len(everything))
    before = itertools.accumulate((len(protein) for _, protein in shuffled), initial=0)
    return [entry for entry, so_far in zip(shuffled, before, strict=False) if so_far < residues]


def read_fasta(path: Path) -> list[Protein]:
    """All proteins of a FASTA file, as the commit's own reader gives them to ``virnucpro embed``.

    Raises ValueError naming the file and the sequences, with the remedy, for a file that cannot be read, a record
    that would be skipped, a name that comes again, or a protein that is longer than `LONGEST`.
    """
    try:
        with find("Fasta")(path) as fasta:
            reader = find("ProteinReader")(fasta)
            entries = list(reader)
    except ValueError as error:
        raise ValueError(f"{FASTA_VARIABLE}: {error}") from error
    for reason, tally in [*reader.skipped.items(), ("a name that came before", reader.repeated)]:
        if tally.count:
            raise ValueError(f"{FASTA_VARIABLE}: {path}: {reason}: {tally}; mend or remove these sequences")
    for label, protein in entries:
        if len(protein) > LONGEST:
            what = f"sequence {label!r} has {len(protein):,} residues, more than {LONGEST:,}"
            raise ValueError(f"{FASTA_VARIABLE}: {path}: {what}; remove or cut it")
    return entries


def tokens_in(entries: Sequence[Protein]) -> int:
    """Logical tokens: residues, BOS and EOS. Padding is never counted."""
    return sum(len(protein) + 2 for _, protein in entries)


def copies_in_a_pass(entries: Sequence[Protein], tokens: int) -> int:
    """How often the set is repeated in one timed pass: at most so many tokens, and at least once."""
    return max(1, tokens // tokens_in(entries))


def joined(entries: Sequence[Protein], copies: int) -> list[Protein]:
    """One pass over the set: its copies together, sorted by length."""
    return sorted(list(entries) * copies, key=lambda entry: len(entry[1]))
