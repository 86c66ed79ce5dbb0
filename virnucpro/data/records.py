"""Lines of FASTA, however long, to records; what is held of a record is bounded.

Nothing is kept of comments, empty lines, white space and what follows a name in its header.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from virnucpro.errors import FastaError
from virnucpro.names import LONGEST_NAME as LONGEST_SHOWN

BYTE_ORDER_MARK = "\ufeff"
DOS_END = "\x1a"  # as some programs end a file
COMMENTS = (";", "#")
"""How lines begin that are not part of any record."""

CONTROLS = ("\0", "\x1f")
"""What is compressed has them soon, and text does not."""

LONGEST_NAME = 2**20
"""Characters of a name."""

LONGEST_DNA = 2**28
"""Letters of a record, by default: the longest human chromosome has 248,956,422."""

LONG = 2**18
"""Characters of a record, or of a line, from which on it is read part by part."""

PARTS = 4_096  # pieces of a sequence that are joined


@dataclass(frozen=True)
class Held:
    """How much of a record is held.

    `keep`: so many letters; what comes after them is looked through and forgotten. None for all, but at most
    `most`; more are an error, which tells `remedy`. `known`: the letters that are not told as wrong; none where
    that is not asked.
    """

    keep: int | None = None
    most: int = LONGEST_DNA
    remedy: str = "cut it into several"
    known: frozenset[str] = frozenset()


class Record(tuple[str, str]):
    """``(name, sequence)``, which also knows where it stands: in which `file`, its header in which `line`.

    `looked_through`: whether letters that are not `Held.known` were looked for while it was read; `wrong`: the
    line of the first one, and what it is.
    """

    file: str
    line: int
    looked_through: bool
    wrong: tuple[int, str] | None
    _lines: str

    def __new__(
        cls,
        name: str,
        sequence: str,
        file: str,
        line: int,
        lines: str = "",
        looked_through: bool = False,
        wrong: tuple[int, str] | None = None,
    ) -> "Record":
        """`lines`: those after the header, where letters were not looked for."""
        record = super().__new__(cls, (name, sequence))
        record.file, record.line, record._lines = file, line, lines
        record.looked_through, record.wrong = looked_through, wrong
        return record

    def line_of(self, index: int) -> int:
        """The line of a letter of the sequence, where letters were not looked for."""
        return line_of(index, self._lines, self.line + 1)


def line_of(index: int, text: str, number: int) -> int:
    """The line of a letter in a text whose first line is `number`."""
    for line in text.split("\n"):
        index -= len("".join(line.split()))
        if index < 0:
            return number
        number += 1
    raise IndexError(index)


def shown_at(index: int, letters: str) -> str:
    """The letter for a message; a byte that is not UTF-8 is told as its four characters."""
    return f"'{letters[index : index + 4]}'" if letters.startswith("\\x", index) else repr(letters[index])


class Sequence:
    """The letters of a record as they come. ``*`` at the end, also several, is known."""

    def __init__(self, held: Held):
        self._held, self._letters = held, 0
        self._parts, self._small = list[str](), list[str]()
        self._wrong: tuple[int, str] | None = None
        self._stars: tuple[int, str] | None = None

    def add(self, text: str, number: int) -> bool:
        """Take lines, or parts of them; the first is, or goes on in, line `number`. False where it is too long."""
        letters = "".join(text.split())
        if self._held.known and self._wrong is None:
            self._look(letters, text, number)
        if self._held.keep is not None:
            letters = letters[: self._held.keep - self._letters]
        self._letters += len(letters)
        self._small.append(letters)
        if len(self._small) == PARTS:
            self._join()
        return self._held.keep is not None or self._letters <= self._held.most

    def _look(self, letters: str, text: str, number: int) -> None:
        """Note the first letter of the text that is not known."""
        known, body = self._held.known, letters.rstrip("*")
        if body and self._stars is not None:
            self._wrong = self._stars
        elif not known.issuperset(body):
            at = next(at for at, letter in enumerate(body) if letter not in known)
            self._wrong = line_of(at, text, number), shown_at(at, body)
        elif len(body) < len(letters) and self._stars is None:
            self._stars = line_of(len(body), text, number), repr("*")

    def _join(self) -> None:
        self._parts.append("".join(self._small))
        self._small.clear()

    def record(self, name: str, file: str, line: int) -> Record:
        """The record. The letters are given away."""
        self._join()
        parts, self._parts = self._parts, []
        letters = parts[0] if len(parts) == 1 else "".join(parts)
        return Record(name, letters, file, line, looked_through=bool(self._held.known), wrong=self._wrong)


EMPTY, NAME, LETTERS, IGNORED = range(4)
"""What a line has so far: only white space, a header's beginning, letters of a sequence, or what is not kept."""


class Reader:
    """Lines to records, wherever a line is cut.

    `number`: of the line at hand. `name`: of the record at hand; None in front of the first.
    """

    def __init__(self, file: str, held: Held, number: int):
        self.number = number
        self.name: str | None = None
        self._file, self._held = file, held
        self._header, self._sequence = 0, Sequence(held)
        self._line = EMPTY

    def read(self, text: str, whole: bool = True) -> Iterator[Record]:
        """Take text, which goes on in the line at hand; returns the records that end in it.

        `whole`: its last line ends with it, and what comes next begins with a line end.
        """
        if text.isspace() and (self._line != NAME or "\n" in text):
            self.number += text.count("\n")
            self._line = EMPTY if "\n" in text else self._line
            return
        if self.name is not None and self._line in (EMPTY, LETTERS) and not has_marks(text):
            self._add(text)
            _, more, last = text.rpartition("\n")
            self.number += text.count("\n")
            if more or self._line == EMPTY:
                self._line = EMPTY if last.isspace() or not last else LETTERS
            return
        lines = text.split("\n")
        for index, line in enumerate(lines):
            if index:
                self.number += 1
                self._line = EMPTY
            if not line or self._line == IGNORED:
                continue
            if self._line == EMPTY:
                if line.startswith(COMMENTS):
                    self._line = IGNORED
                    continue
                line = stripped(line)
                if not line:
                    continue
                if line.startswith(">"):
                    yield from self.end()
                    self.name, self._header, self._sequence = "", self.number, Sequence(self._held)
                    self._line, line = NAME, lines[index].partition(">")[2]
                elif line.startswith(COMMENTS) or line == DOS_END:
                    self._line = IGNORED
                    continue
                else:
                    self._line = LETTERS
            if self._line == NAME:
                self._name(line if index == len(lines) - 1 and not whole else line.rstrip())
            else:
                self._letters(line)

    def end(self) -> Iterator[Record]:
        """The record at hand, if there is one, which has ended."""
        if self.name is not None:
            yield self._sequence.record(self.name or f"line{self._header}", self._file, self._header)

    def _name(self, text: str) -> None:
        """A header goes on."""
        assert self.name is not None
        word, space, _ = (text if self.name else text.lstrip(" \t")).replace("\t", " ").partition(" ")
        self.name += word.replace("\0", "\\x00")
        if len(self.name) > LONGEST_NAME:
            raise FastaError(
                f"{self._file} has a name of more than {LONGEST_NAME:,} characters in line {self.number}: "
                "shorten it"
            )
        if space and self.name:
            self._line = IGNORED

    def _letters(self, text: str) -> None:
        """A line of a sequence goes on."""
        if self.name is None:
            raise not_fasta(self._file, text)
        if ">" in text:
            inside = name_in(text.partition(">")[2])
            raise FastaError(
                f"{self._file} has a '>' inside the sequence of {self._shown()} in line {self.number}, where "
                f"{inside[:LONGEST_SHOWN]!r} seems to begin, as when files are joined without a line end: put one "
                "before it"
            )
        if any(control in text for control in CONTROLS):
            raise FastaError(
                f"{self._file} has binary data in line {self.number}, in the sequence of {self._shown()}: "
                "the file is damaged, or another that is compressed was joined to it"
            )
        self._add(text)

    def _add(self, text: str) -> None:
        if not self._sequence.add(text, self.number):
            raise FastaError(
                f"{self._file} has more than {self._held.most:,} letters in the sequence of {self._shown()}, "
                f"which begins in line {self._header}: {self._held.remedy}"
            )

    def _shown(self) -> str:
        return repr((self.name or f"line{self._header}")[:LONGEST_SHOWN])


def has_marks(text: str) -> bool:
    """Whether lines are not simply part of a sequence."""
    return (
        ">" in text or ";" in text or "#" in text or BYTE_ORDER_MARK in text or DOS_END in text
        or "\0" in text or "\x1f" in text
    )  # fmt: skip


def not_fasta(file: str, text: str) -> FastaError:
    """What to say of a file that begins with this."""
    return FastaError(f"{file} is not FASTA: it starts with {text.strip()[:20]!r}, and a record with '>name'")


def stripped(line: str) -> str:
    """A line without white space and byte order marks around it."""
    text = line.strip()
    while text.startswith(BYTE_ORDER_MARK):
        text = text[1:].lstrip()
    return text


def name_in(header: str) -> str:
    """The name in what follows a header's '>': up to the first space or tab. Empty where there is none."""
    words = header.strip(" \t\r\n").replace("\t", " ")
    return words.partition(" ")[0].replace("\0", "\\x00")
