"""What of a FASTA file is embedded, and as what; what is not is counted and named."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from virnucpro.data.fasta import Fasta
from virnucpro.data.records import LONGEST_DNA, Held, Record, shown_at
from virnucpro.data.six_frame import NUCLEOTIDES, STANDARD, has_known_codon, translate
from virnucpro.data.tokens import RESIDUES
from virnucpro.errors import FastaError
from virnucpro.names import Names, shown

logger = logging.getLogger(__name__)

NAMES_KEPT = 10

UNKNOWN_RESIDUE, NO_NUCLEOTIDE = "letters that ESM-2 does not know", "letters that are no nucleotides"
SHORTEST_DNA, SHARE_OF_DNA = 30, 0.95
"""What looks like DNA: at least so many letters, and this share of them A C G T U N. In UniProt's composition
these are three residues of ten."""


LONGEST_PROTEIN = 2**24
"""Residues that are embedded of a protein at most; the longest that is known has 85,000."""

LEAST_HELD = 2**20
"""Letters of a longer protein that are held at least, however few are embedded."""


class RecordError(FastaError):
    """A record cannot be embedded, or has the name of another, and `strict` does not let it be skipped."""


@dataclass(frozen=True)
class Skipped:
    """A record that gave no row. `detail`: the letter and the place; `file` and `line`, where they are known."""

    name: str
    reason: str
    detail: str = ""
    file: str = ""
    line: int | None = None


@dataclass
class Tally:
    """How many, and the names of the first; `details` tells more of each of these."""

    count: int = 0
    names: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def add(self, name: str, detail: str = "") -> None:
        """One more."""
        self.count += 1
        if len(self.names) < NAMES_KEPT:
            self.names.append(shown(name))
            self.details.append(detail)

    def __str__(self) -> str:
        named = [
            f"{name} ({detail})" if detail else name for name, detail in zip(self.names, self.details, strict=True)
        ]
        more = f" and {self.count - len(self.names):,} more" if self.count > len(self.names) else ""
        return f"{self.count:,}: {', '.join(named)}{more}"

    def summary(self) -> dict[str, Any]:
        """The count and the names, for JSON."""
        return {"count": self.count, "names": self.names}


class ProteinReader:
    """The proteins to embed, ``(name, protein)``, from records as `Fasta` yields them. Iterate once.

    Letters are upper-cased and ``*`` at the end is removed. A record without residues, or with a letter that ESM-2
    does not know, is skipped; ESM-2 knows the 20 amino acids, X B U Z O and the gaps ``-`` and ``.``, which stay.
    `max_length` residues from the front are kept of a longer protein. Records with the same name are all kept.
    With `chunk` the records are DNA, and `six_frame.translate` makes the proteins, by the `genetic_code`.

    `records` is how many were read: the sum of `embedded` (those that gave at least one protein), of the counts of
    `skipped`, by reason, and of that of `without_open_frame`. `truncated`, `repeated` and `like_dna` tell of the
    others. `on_skip` is called for each record that gave no protein. Of a share of the input only what is `own` is
    counted and told: that is asked after a record's proteins were taken. `all_records` counts those of all shares.
    With `strict`, a record that gives no protein, and a name that comes again, raises RecordError.
    """

    def __init__(
        self,
        records: Iterable[tuple[str, str]],
        max_length: int | None = None,
        chunk: int | None = None,
        strict: bool = False,
        on_skip: Callable[[Skipped], None] = lambda skipped: None,
        genetic_code: int = STANDARD,
    ):
        self._source, self._max_length, self._chunk, self._strict = records, max_length, chunk, strict
        self._known = known_letters(chunk)
        if isinstance(records, Fasta):
            records.hold(held_for(max_length, chunk))
        self._on_skip, self._genetic_code = on_skip, genetic_code
        self.own: Callable[[], bool] = lambda: True
        self.records = self.embedded = self.all_records = 0
        self.skipped: dict[str, Tally] = {}
        self.without_open_frame, self.truncated, self.repeated, self.like_dna = Tally(), Tally(), Tally(), Tally()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        names = Names()
        for record in self._source:
            name, sequence = record
            self.all_records += 1
            letters = sequence.upper() if sequence.isascii() else sequence  # the upper case of ß is SS
            letters = letters.rstrip("*")
            skipped = self._what_is_wrong(record, letters)
            again = skipped is None and not names.add(name)  # what is skipped needs no room there
            if again and self._strict:
                raise RecordError(f"two sequences are called {shown(name)!r}{within(record)}: rename one")
            if skipped is not None:
                self._skip(skipped)
            elif self._chunk is None:
                yield name, self._cut(letters)
                if self.own():
                    self.embedded += 1
                    self._look_for_dna(name, letters)
                    self._tell_of_cut(name, letters)
            else:
                open_frames = 0
                for frame, protein in translate(name, letters, self._chunk, self._genetic_code):
                    open_frames += 1
                    yield frame, self._cut(protein)
                    if self.own():
                        self._tell_of_cut(frame, protein)
                if not open_frames:
                    self._skip_translated(record, letters)
                elif self.own():
                    self.embedded += 1
            if self.own():
                self.records += 1
                if again:
                    self.repeated.add(name)

    def _what_is_wrong(self, record: tuple[str, str], letters: str) -> Skipped | None:
        reason = UNKNOWN_RESIDUE if self._chunk is None else NO_NUCLEOTIDE
        if isinstance(record, Record) and record.looked_through:
            if record.wrong is not None:
                return skipped_in_line(reason, record, *record.wrong)
        elif not self._known.issuperset(letters):
            unknown = (at for at, letter in enumerate(letters) if letter not in self._known)
            return skipped_as(reason, record, next(unknown))
        if not letters:
            return skipped_as("empty", record)
        if self._chunk is not None and len(letters) < 3:
            return skipped_as("under three nucleotides", record)
        return None

    def _skip(self, skipped: Skipped, tally: Tally | None = None) -> None:
        """Count and tell it; `tally`: another one than that of its reason."""
        if self._strict:
            detail = f" ({skipped.detail})" if skipped.detail else ""
            raise RecordError(f"sequence {shown(skipped.name)!r} cannot be embedded: {skipped.reason}{detail}")
        if not self.own():
            return
        tally = tally or self.skipped.setdefault(skipped.reason, Tally())
        tally.add(skipped.name, skipped.detail)
        self._on_skip(skipped)

    def _skip_translated(self, record: tuple[str, str], letters: str) -> None:
        """DNA none of whose frames gave a protein."""
        assert self._chunk is not None
        if has_known_codon(letters, self._chunk, self._genetic_code):
            self._skip(skipped_as("no open reading frame", record), self.without_open_frame)
        else:
            self._skip(skipped_as("no codon that is known", record))

    def _cut(self, protein: str) -> str:
        return protein[: self._max_length]

    def _tell_of_cut(self, name: str, protein: str) -> None:
        if self._max_length is not None and len(protein) > self._max_length:
            self.truncated.add(name)

    def _look_for_dna(self, name: str, letters: str) -> None:
        if len(letters) < SHORTEST_DNA or sum(map(letters.count, "ACGTUN")) < SHARE_OF_DNA * len(letters):
            return
        self.like_dna.add(name)
        if self.like_dna.count == 1:
            logger.warning(
                "%s looks like DNA and is embedded as a protein: should this be --translate six-frame?",
                shown(name),
            )

    def summary(self) -> dict[str, Any]:
        """The counts and names, for JSON."""
        return {
            "records": self.records,
            "embedded_records": self.embedded,
            "skipped": {reason: tally.summary() for reason, tally in self.skipped.items()},
            "without_open_frame": self.without_open_frame.summary(),
            "truncated": self.truncated.summary(),
            "repeated_names": self.repeated.summary(),
            "like_dna": self.like_dna.summary(),
        }


def skipped_as(reason: str, record: tuple[str, str], letter: int | None = None) -> Skipped:
    """The skipped record with its place; `letter`: index in its sequence of the one that is wrong."""
    name, sequence = record
    wrong = "" if letter is None else shown_at(letter, sequence)
    if not isinstance(record, Record):
        return Skipped(name, reason, f"{wrong} in place {letter + 1}" if letter is not None else "")
    return skipped_in_line(reason, record, record.line if letter is None else record.line_of(letter), wrong)


def skipped_in_line(reason: str, record: Record, line: int, wrong: str) -> Skipped:
    """The skipped record with the line of what is `wrong` with it, if that is a letter."""
    detail = f"{wrong} in line {line} of {record.file}" if wrong else f"line {line} of {record.file}"
    return Skipped(record[0], reason, detail, record.file, line)


def known_letters(chunk: int | None) -> frozenset[str]:
    """The letters, in either case, of proteins or, with `chunk`, of DNA."""
    letters = RESIDUES if chunk is None else "".join(NUCLEOTIDES)
    return frozenset(letters + letters.lower())


def held_for(max_length: int | None, chunk: int | None) -> Held:
    """What is held of a record of a file."""
    known = known_letters(chunk)
    if chunk is not None:
        return Held(None, LONGEST_DNA, "cut it into several", known)
    if max_length is not None and max_length < LONGEST_PROTEIN:
        return Held(max(max_length + 1, LEAST_HELD), known=known)
    remedy = "as a protein embed only its beginning, by --max-length or max_length"
    return Held(None, LONGEST_PROTEIN, remedy, known)


def within(record: tuple[str, str]) -> str:
    """Where a record is, for a sentence; empty for one that is in no file."""
    return f", the second in line {record.line} of {record.file}" if isinstance(record, Record) else ""
