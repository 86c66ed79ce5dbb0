"""The proteins that are embedded: seeded sets, the same on every machine, and the user's own FASTA."""

import bz2
import importlib
import io
import itertools
import lzma
import os
import random
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Protein = tuple[str, str]
"""A label and its residues."""

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = AMINO_ACIDS + "XBUZO.-"  # what ESM-2's alphabet has

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

WORKLOADS = (*LENGTHS, "fasta")

FASTA_VARIABLE = "VIRNUCPRO_BENCH_FASTA"
LONGEST = 10_000
"""A protein with more residues is refused: attention grows with the square, and one would outweigh the set."""

FASTA_RESIDUES = {"cpu": 2_000, "cuda": 32_000}
"""About how many residues of the user's file are used."""

BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
"""The most padded tokens in a batch, unless one protein alone has more."""


def proteins(workload: str, device: str) -> list[Protein]:
    """The proteins of a workload; `device` (``cpu`` or ``cuda``) only sets how much of a FASTA is used."""
    if workload == "fasta":
        return sample(read_fasta(from_project(os.environ[FASTA_VARIABLE])), FASTA_RESIDUES[device])
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
    """All proteins of a FASTA file, plain or compressed, upper-cased, ``*`` at the end removed.

    What `virnucpro embed` reads is read in the same way; a copy, because benchmarks run against old commits.
    Raises ValueError naming the file and the sequence, with the remedy, for a file that cannot be read or
    holds no protein, a letter that is no amino acid, or a protein that is empty or longer than `LONGEST`.
    """
    try:
        text = unpacked(path.read_bytes()).decode("utf-8-sig", "backslashreplace")
    except (OSError, EOFError, ImportError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or f"it is damaged, or zstd without its library ({error})"
        raise ValueError(f"{FASTA_VARIABLE}: cannot read {path}: {reason}") from error
    found: list[tuple[str, list[str]]] = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        line = line.strip()
        while line.startswith("\ufeff"):  # a byte order mark, of a file that was joined
            line = line[1:].lstrip()
        if line.startswith(">"):
            name = line[1:].strip(" \t\r\n").replace("\t", " ").partition(" ")[0].replace("\0", "\\x00")
            found.append((name or f"line{number}", []))
        elif line.startswith((";", "#")) or line in ("", "\x1a"):
            continue
        elif not found:
            raise ValueError(f"{FASTA_VARIABLE}: {path} is not a FASTA file: line {number} comes before any '>'")
        elif ">" in line:
            raise ValueError(
                f"{FASTA_VARIABLE}: {path}: '>' inside a sequence in line {number}: put a line end there"
            )
        else:
            found[-1][1].append("".join(line.split()))
    if not found:
        raise ValueError(f"{FASTA_VARIABLE}: {path} holds no protein: a FASTA record starts with '>name'")
    entries = [(label, upper("".join(parts)).rstrip("*")) for label, parts in found]
    labels = Counter(label for label, _ in entries)
    for label, protein in entries:
        check(label, protein, path)
        if labels[label] > 1:
            raise ValueError(
                f"{FASTA_VARIABLE}: {path}: {labels[label]} sequences are called {label!r}; rename them"
            )
    return entries


def upper(sequence: str) -> str:
    """In upper case; what is not ASCII stays, because the upper case of ß is SS."""
    return sequence.upper() if sequence.isascii() else sequence


def unpacked(data: bytes) -> bytes:
    """What a file's bytes stand for; compressed members one after the other are one file."""
    if decompressor(data) is None:
        return data
    whole = b""
    while data:
        member = decompressor(data)
        if member is None:
            raise EOFError("what follows the compressed data is not compressed")
        whole += member.decompress(data)
        if not member.eof:
            raise EOFError("it ends in the middle")
        data = member.unused_data.lstrip(b"\0")
    return whole


def decompressor(data: bytes) -> Any:
    """What unpacks data that begin so; None for what is not compressed."""
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor()
    if data.startswith(b"\x28\xb5\x2f\xfd") or (data[1:4] == b"\x2a\x4d\x18" and data[0] >> 4 == 5):
        if sys.version_info >= (3, 14):
            return importlib.import_module("compression.zstd").ZstdDecompressor()
        return importlib.import_module("zstandard").ZstdDecompressor().decompressobj()
    return None


def check(label: str, protein: str, path: Path) -> None:
    """Raise ValueError for a protein that cannot be benchmarked."""
    wrong = sorted(set(protein) - set(LETTERS))
    if wrong:
        what, remedy = f"has {' '.join(map(repr, wrong))}, no amino acids", "replace them by X"
    elif not protein:
        what, remedy = "is empty", "remove it"
    elif len(protein) > LONGEST:
        what, remedy = f"has {len(protein):,} residues, more than {LONGEST:,}", "remove or cut it"
    else:
        return
    raise ValueError(f"{FASTA_VARIABLE}: {path}: sequence {label!r} {what}; {remedy}")


def tokens_in(entries: Sequence[Protein]) -> int:
    """Logical tokens: residues, BOS and EOS. Padding is never counted."""
    return sum(len(protein) + 2 for _, protein in entries)


def copies_in_a_pass(entries: Sequence[Protein], tokens: int) -> int:
    """How often the set is repeated in one timed pass: at most so many tokens, and at least once."""
    return max(1, tokens // tokens_in(entries))


def joined(entries: Sequence[Protein], copies: int) -> list[Protein]:
    """One pass over the set: its copies together, sorted by length."""
    return sorted(list(entries) * copies, key=lambda entry: len(entry[1]))


def token_batches(ordered: Sequence[Protein], convert: Callable[[list[Protein]], Any], device: str) -> list[Any]:
    """Proteins, sorted by length, as token batches on the CPU, cut to a budget."""
    return [convert(chunk) for chunk in chunks(ordered, BATCH_TOKENS[device])]


def chunks(ordered: Sequence[Protein], budget: int) -> Iterator[list[Protein]]:
    """Cut proteins, sorted by length, into batches of at most `budget` padded tokens; one alone may exceed it."""
    chunk: list[Protein] = []
    for entry in ordered:
        if chunk and (len(chunk) + 1) * (len(entry[1]) + 2) > budget:
            yield chunk
            chunk = []
        chunk.append(entry)
    if chunk:
        yield chunk
