"""What of a FASTA file is embedded, and as what; what is not is counted and named."""

import hashlib
import logging
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from virnucpro.data.fasta import FastaError
from virnucpro.data.six_frame import NUCLEOTIDES, translate
from virnucpro.data.tokens import RESIDUES

logger = logging.getLogger(__name__)

AMINO_ACIDS = frozenset(RESIDUES)
NAMES_KEPT = 10
LONGEST_NAME = 80  # characters shown of a name


@dataclass
class Tally:
    """How many, and the names of the first."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < NAMES_KEPT:
            self.names.append(shown(name))

    def __str__(self) -> str:
        more = f" and {self.count - len(self.names):,} more" if self.count > len(self.names) else ""
        return f"{self.count:,} ({', '.join(self.names)}{more})"


class ProteinReader:
    """The proteins to embed, ``(name, protein)``, from records as `Fasta` yields them. Iterate once.

    Letters are upper-cased and ``*`` at the end is removed. A record without residues, or with a letter that ESM-2
    does not know, is skipped; ESM-2 knows the 20 amino acids, X B U Z O and the gaps ``-`` and ``.``, which stay.
    `max_length` residues from the front are kept of a longer protein. Records with the same name are all kept.
    With `chunk` the records are DNA, and `six_frame.translate` makes the proteins.

    `records` is how many were read; `skipped`, `truncated` and `repeated` tell of the rest, by what the matter is.
    With `strict`, what would be skipped, and a name that comes again, raises FastaError.
    """

    def __init__(
        self,
        records: Iterable[tuple[str, str]],
        max_length: int | None = None,
        chunk: int | None = None,
        strict: bool = False,
    ):
        self._source, self._max_length, self._chunk, self._strict = records, max_length, chunk, strict
        self.records = 0
        self.skipped: dict[str, Tally] = {}
        self.truncated, self.repeated = Tally(), Tally()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        names = Names()
        for name, sequence in self._source:
            self.records += 1
            if not names.add(name):
                if self._strict:
                    raise FastaError(
                        f"two sequences are called {shown(name)!r}: rename one, or leave out --strict"
                    )
                self.repeated.add(name)
            letters = sequence.upper() if sequence.isascii() else sequence  # the upper case of ß is SS
            reason = self._what_is_wrong(letters := letters.rstrip("*"))
            if reason:
                self._skip(name, reason)
            elif self._chunk is None:
                self._look_for_dna(name, letters)
                yield name, self._cut(name, letters)
            else:
                for frame, protein in translate(name, letters, self._chunk):
                    yield frame, self._cut(frame, protein)

    def _what_is_wrong(self, letters: str) -> str | None:
        known = AMINO_ACIDS if self._chunk is None else NUCLEOTIDES
        if not letters:
            return "empty"
        if known.issuperset(letters):
            return None
        return "letters that ESM-2 does not know" if self._chunk is None else "letters that are no nucleotides"

    def _skip(self, name: str, reason: str) -> None:
        if self._strict:
            raise FastaError(f"sequence {shown(name)!r}: {reason}; mend it, or leave out --strict to skip it")
        self.skipped.setdefault(reason, Tally()).add(name)

    def _cut(self, name: str, protein: str) -> str:
        if self._max_length is None or len(protein) <= self._max_length:
            return protein
        self.truncated.add(name)
        return protein[: self._max_length]

    def _look_for_dna(self, name: str, letters: str) -> None:
        if self.records == 1 and len(letters) >= 50 and set(letters) <= set("ACGTUN"):
            logger.warning(
                "%s looks like DNA and is embedded as a protein: should this be --translate six-frame?",
                shown(name),
            )

    def summary(self) -> dict[str, Any]:
        """The counts and names, for JSON."""
        return {
            "records": self.records,
            "skipped": {reason: vars(tally) for reason, tally in self.skipped.items()},
            "truncated": vars(self.truncated),
            "repeated_names": vars(self.repeated),
        }


class Names:
    """Tells which names were seen before, by 64 bits of a hash of each: 16 to 32 bytes a name, however long.

    Of ten million names two share a hash with a probability of 3 in a million; one would then be called repeated.
    """

    def __init__(self) -> None:
        self._slots = array("Q", [0]) * 1024  # open addressing; 0 is a free slot
        self._count = 0

    def add(self, name: str) -> bool:
        """Remember `name`; False where it had been added before."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if not self._place(int.from_bytes(digest, "little") or 1):
            return False
        self._count += 1
        if 2 * self._count > len(self._slots):
            old = self._slots
            self._slots = array("Q", [0]) * (2 * len(old))
            for key in old:
                if key:
                    self._place(key)
        return True

    def _place(self, key: int) -> bool:
        slots, last = self._slots, len(self._slots) - 1
        slot = key & last
        while slots[slot]:
            if slots[slot] == key:
                return False
            slot = (slot + 1) & last
        slots[slot] = key
        return True


def shown(name: str) -> str:
    """`name`, shortened for a message."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... ({len(name):,} characters)"
