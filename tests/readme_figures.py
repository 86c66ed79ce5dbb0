"""Every figure of the README beside what the committed files say: results/ first, then the code that defines it.

The README names its sources: under its table the commits and their device, with each comparison its model,
precision and device. A figure is found by the words around it. A number that no check recomputes is reported too,
so whoever adds a claim adds its check, or names it in `NOT_MEASURED`.
"""

import ast
import functools
import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asv import util

from asv_plugin import notes
from asv_plugin.answer import summary
from asv_plugin.answer.advice import LARGEST_ERROR
from asv_plugin.answer.numbers import HIGHER_IS_BETTER, format_quantity
from asv_plugin.answer.records import (
    BENCHMARKS,
    ENERGY,
    FIDELITY,
    MASSIVE,
    Record,
    Value,
    machines,
    read_suite,
    records,
)
from benchmarks.suite.workloads import LENGTHS
from tests.made_up import ROOT

RESULTS = ROOT / "results"

ROWS = {metric: metric for metric in BENCHMARKS} | {
    "runtime": "total runtime",
    "J per 1,000 tokens": ENERGY,
    "speedup, timed in turn": "speed-up, same process",
    MASSIVE: MASSIVE,
    "with a massive channel": MASSIVE,
}
"""How a row of the README's table is called, to the metric that it shows."""

VERSIONS = {
    "PyTorch": "torch",
    "Python": "python",
    "CUDA": "cuda",
    "Transformers": "transformers",
    "driver": "driver",
}
"""What the README calls a version, to its name in the notes of a cell."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

COMMIT = r"(?=[a-f]*[0-9])[0-9a-f]{7,40}"

NOT_MEASURED = (
    r"\bESM-2\b",
    r"\bHDF5\b",
    r"\bper 1,000 tokens\b",
    r"up to 11 GB\b",  # what fair-esm's servers hold
    r"by 10 to 30 % by themselves",  # what docs/reading-results.md says of shared machines in general
)
"""Numbers that no file under results/ can give: names, a unit, and two rules of thumb."""

HELD_TO_FAIR_ESM = ("tests/models/test_esm2_packed.py", "test_fp32_equals_fair_esm_at_every_layer")
"""The test whose tolerance the README gives as the engine's distance from fair-esm."""


@dataclass(frozen=True)
class Figure:
    """`said` is the README's text from `start` to `end`, `expected` what `source` gives for it."""

    start: int
    end: int
    said: str
    expected: str
    source: str


@dataclass(frozen=True)
class Cell:
    """One cell of a Markdown table."""

    start: int
    end: int
    text: str

    def figure(self, expected: str, source: str) -> Figure:
        """The cell beside what it should say."""
        return Figure(self.start, self.end, self.text, expected, source)


@dataclass(frozen=True, eq=False)
class File:
    """A commit's results on a machine, and what asv knows about that."""

    record: Record
    machine: dict[str, Any]
    results: Path

    def __str__(self) -> str:
        return f"results/{self.record.machine}/{self.record.commit[:8]}-*.json"

    def noted(self, name: str) -> str:
        """What the notes of all measured cells say of `name`."""
        return " and ".join(sorted({note[name] for note in self.measured}))

    def version(self, name: str) -> str:
        """The version of `name` with which all cells were measured."""
        return " and ".join(sorted({note["versions"].get(name, "none") for note in self.measured}))

    @functools.cached_property
    def measured(self) -> list[dict[str, Any]]:
        """The notes of the cells that were measured."""
        return [note for note in self.record.notes.values() if "device" in note]

    @functools.cached_property
    def device(self) -> set[str]:
        """The words of the device's name."""
        return words_of(self.noted("device"))

    @functools.cached_property
    def models(self) -> list[str]:
        """The models with a value."""
        return sorted({cell[0] for cells in self.record.values.values() for cell in cells})

    @functools.cached_property
    def minutes(self) -> float:
        """How long asv ran for the commit."""
        total = 0.0
        for path in (self.results / self.record.machine).glob(f"{self.record.commit[:8]}-*.json"):
            known = json.loads(path.read_text())
            place = known["result_columns"].index("duration")
            total += sum(row[place] or 0 for row in known["results"].values() if len(row) > place)
        return total / 60

    @functools.cache  # noqa: B019 - as long as `files` keeps them
    def table(self, model: str, workload: str) -> summary.Table:
        """The table that `make precision` prints."""
        return summary.table(self.record, model, workload)


@dataclass(frozen=True)
class Group:
    """The rows of one model on one machine, by name, and what the file that they are of gives for them."""

    rows: list[tuple[str, list[Cell]]]
    file: File | None
    model: str
    figures: list[Figure]


@dataclass(frozen=True)
class Source:
    """Commits that the README names on one device, from `start` to `end`, with their files."""

    start: int
    end: int
    files: list[File]
    figures: list[Figure]


def problems(text: str, results: Path = RESULTS) -> list[str]:
    """What is wrong with a README, a line each: figures that differ, and numbers that nothing recomputes."""
    readme = Readme(text, results)
    wrong = [
        f"line {readme.line(figure.start)}: {figure.said!r} should be {figure.expected!r} ({figure.source})"
        for figure in readme.figures
        if figure.said != figure.expected
    ]
    checked = [(figure.start, figure.end) for figure in readme.figures]
    checked += [match.span() for each in NOT_MEASURED for match in readme.find(each)]
    places = {place for start, end in checked for place in range(start, end)}
    unchecked = [
        f"line {readme.line(number.start())}: nothing recomputes {number[0]!r} in "
        f"'{' '.join(text[max(0, number.start() - 40) : number.end() + 40].split())}'"
        for number in readme.numbers()
        if not places.issuperset(range(*number.span()))
    ]
    return wrong + unchecked


def words_of(text: str) -> set[str]:
    """The words and numbers of a name."""
    return set(re.findall(r"[A-Za-z0-9.]+", text))


@functools.cache
def files(results: Path) -> list[File]:
    """All commits' results on all machines."""
    known = machines(results)
    return [File(record, known[machine], results) for machine in known for record in records(results, machine)]


@functools.cache
def suite(results: Path) -> tuple[list[str], list[str]]:
    """The present suite's precisions, as people write them, and its models, from benchmarks.json."""
    known = util.load_json(str(results / "benchmarks.json"))
    params = (
        dict(zip(known[name]["param_names"], known[name]["params"], strict=True)) for name in BENCHMARKS.values()
    )
    models = sorted({model.strip("'") for each in params for model in each["model"]})
    return [name.upper() for name in read_suite(results).precisions], models


def written(metric: str, value: float) -> str:
    """A value as the README's table writes it: three digits, rates in full, a unit where the row has none."""
    if metric in HIGHER_IS_BETTER and value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return format_quantity(metric, value).removesuffix("x").removesuffix(" J")


class Readme:
    """A README's text beside the committed results."""

    def __init__(self, text: str, results: Path = RESULTS):
        self.text, self.results = text, results
        code_and_targets = re.compile(r"^```.*?^```$|(?<=\])\([^)\s]*\)", re.MULTILINE | re.DOTALL)
        # as long as the text, so that places in one are places in the other
        self.prose = code_and_targets.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)

    def line(self, place: int) -> int:
        """The number of the line of a place."""
        return self.text.count("\n", 0, place) + 1

    def find(self, words: str, start: int = 0, end: int | None = None) -> Iterator[re.Match[str]]:
        """Where the prose says so, from `start` to `end`; a space also stands for the end of a line."""
        pattern = re.compile(words.replace(" ", r"\s+"))
        return pattern.finditer(self.prose, start, len(self.prose) if end is None else end)

    def numbers(self) -> Iterator[re.Match[str]]:
        """All numbers in digits, and from two on in words in the introduction and the results."""
        yield from re.finditer(r"\d+(?:[.,]\d+)*", self.prose)
        spelled = re.compile(rf"\b(?:{'|'.join(NUMBERS[2:])})\b", re.IGNORECASE)
        for section in (r"\A.*?(?=^## |\Z)", r"^## Results$.*?(?=^## |\Z)"):
            for found in re.finditer(section, self.prose, re.MULTILINE | re.DOTALL):
                yield from spelled.finditer(self.prose, *found.span())

    @functools.cached_property
    def figures(self) -> list[Figure]:
        """All figures that a check recomputes."""
        checks = (
            self.header(), self.workload_figures(), self.advice(), self.limit(), self.watt_hours(),
            self.variation(), self.peers(), self.tolerance(), self.names(), self.versions(), self.commits(),
            self.minutes(),
        )  # fmt: skip
        of_table = [
            *(figure for source in self.sources for figure in source.figures),
            *(figure for group in self.groups for figure in group.figures),
        ]
        return of_table + [figure for check in checks for figure in check]

    # The table, and the commits under it

    @functools.cached_property
    def sources(self) -> list[Source]:
        """The commits that the README names: "COMMIT[, COMMIT and COMMIT] on DEVICE (VERSIONS)", or alone."""
        named = rf"\b({COMMIT}(?:(?:, | and ){COMMIT})*) on (an?|{'|'.join(NUMBERS)}) ([^()]+?) \(([^()]*)\)"
        found = [self.source(match) for match in self.find(named)]
        alone = [
            match
            for match in self.find(rf"\b{COMMIT}\b")
            if not any(source.start <= match.start() < source.end for source in found)
        ]
        found += [
            Source(*match.span(), *self.commit(match.start(), match[0], files(self.results))) for match in alone
        ]
        return sorted(found, key=lambda source: source.start)

    def commit(self, start: int, name: str, candidates: list[File]) -> tuple[list[File], list[Figure]]:
        """The files of a commit, and its figure."""
        found = [file for file in candidates if file.record.commit.startswith(name)]
        expected = name if found else "a commit recorded on such a device"
        return found, [Figure(start, start + len(name), name, expected, "the names of files in results/")]

    def source(self, match: re.Match[str]) -> Source:
        """The files of the commits of one such sentence, and what they say of its device and versions."""
        device = words_of(match[3])
        exact = {word for word in device if re.search(r"\d", word)}
        capital = {word for word in device if word[0].isupper()}
        fit = [
            file
            for file in files(self.results)
            for known in [file.device | words_of(file.record.machine)]
            if exact <= known and capital & known
            if match[2] not in NUMBERS or file.machine.get("num_gpu") == str(number_of(match[2]))
        ]
        found: list[File] = []
        figures: list[Figure] = []
        for commit in re.finditer(COMMIT, match[1]):
            here, figure = self.commit(match.start(1) + commit.start(), commit[0], fit)
            found += here
            figures += figure
        where = listed(found)
        told = self.prose[match.start(2) : match.end(3)]
        known_as = "a device of these commits, by their notes, machine's name and num_gpu"
        figures.append(Figure(match.start(2), match.end(3), told, told if found else known_as, where))
        for version in re.finditer(r"([\w-]+)\s+(\d\S*?)(?=,|$)", match[4]):
            given = {file.version(VERSIONS.get(version[1], version[1])) for file in found}
            if "+" not in version[2]:  # the build may be left out
                given = {each.partition("+")[0] for each in given}
            start, end = match.start(4) + version.start(2), match.start(4) + version.end(2)
            figures.append(Figure(start, end, version[2], " and ".join(sorted(given)), where))
        return Source(*match.span(), found, figures)

    @functools.cached_property
    def tables(self) -> list[list[list[Cell]]]:
        """The tables whose columns are precisions, a list of cells for each line."""
        found = []
        for block in re.finditer(r"(?:^\|.*\|$\n?)+", self.prose, re.MULTILINE):
            lines = re.finditer(r"^\|(.*)\|$", block[0], re.MULTILINE)
            found.append([list(cells_of(line[1], block.start() + line.start(1))) for line in lines])
        return [table for table in found if [cell.text for cell in table[0][:3]] == ["", "", "FP32"]]

    def header(self) -> Iterator[Figure]:
        """The columns are the suite's precisions, in its order."""
        precisions, _ = suite(self.results)
        for head, *_ in self.tables:
            said = " ".join(cell.text for cell in head[2:])
            yield Figure(head[2].start, head[-1].end, said, " ".join(precisions), "results/benchmarks.json")

    @functools.cached_property
    def groups(self) -> list[Group]:
        """The rows of the tables; those whose first cell is empty belong to the one before."""
        found: list[tuple[Cell, list[tuple[str, list[Cell]]]]] = []
        for table in self.tables:
            for label, name, *cells in table[2:]:
                if label.text:
                    found.append((label, []))
                found[-1][1].append((name.text, [name, *cells]))
        return [self.group(label, rows) for label, rows in found]

    def group(self, label: Cell, rows: list[tuple[str, list[Cell]]]) -> Group:
        """The group beside the file, of those named under the table, that gives most of its cells.

        All rows of a group are of one file: a figure of another one differs.
        """
        device, _, size = label.text.strip("*").rpartition(", ")
        named = [file for source in self.sources for file in source.files]
        candidates = [
            Group(rows, file, model, [label.figure(label.text, str(file)), *self.cells(rows, file, model)])
            for file in named
            if device and words_of(device) <= file.device
            for model in file.models
            if f"_{size}_" in model
        ]
        if not candidates:
            return Group(
                rows, None, "", [label.figure("a device and a model of the commits named below", listed(named))]
            )
        return min(candidates, key=lambda each: sum(figure.said != figure.expected for figure in each.figures))

    def cells(self, rows: list[tuple[str, list[Cell]]], file: File, model: str) -> Iterator[Figure]:
        """What a file gives for each cell; the tokens/s of the precision that the advice names are bold."""
        best = file.table(model, self.workload).best
        for name, (first, *cells) in rows:
            if name not in ROWS:
                yield first.figure(f"one of {', '.join(ROWS)}", "tests/readme_figures.py")
                continue
            precisions = file.record.precisions
            whole = len(cells) == len(precisions)
            yield first.figure(name if whole else f"{name} and {len(precisions)} cells", str(file))
            for cell, precision in zip(cells, precisions, strict=False):
                expected = expected_text(file.record, ROWS[name], (model, precision, self.workload), cell.text)
                if name == "tokens/s" and precision == best:
                    expected = f"**{expected}**"
                yield cell.figure(expected, f"{file}: {ROWS[name]} of {model} in {precision.upper()}")

    def values(self, group: Group, metric: str) -> list[tuple[str, Value]]:
        """The precisions that have a value in a group's file, with it."""
        if group.file is None:
            return []
        record = group.file.record
        found = ((each, record.value(metric, group.model, each, self.workload)) for each in record.precisions)
        return [(precision, value) for precision, value in found if value is not None]

    # The sentences

    @functools.cached_property
    def workload(self) -> str:
        """The workload that the table is of."""
        named = next(self.find(r"on the workload `(\w+)`"), None)
        return named[1] if named else ""

    def workload_figures(self) -> Iterator[Figure]:
        """As in "with random weights on the workload `mixed` (five proteins of 58 to 362 residues)"."""
        sentence = r"with (\w+) weights on the workload `(\w+)` \((\w+) proteins of (\d+) to (\d+) residues\)"
        for match in self.find(sentence):
            weights = {group.file.noted("weights") for group in self.groups if group.file}
            yield Figure(*match.span(1), match[1], " and ".join(sorted(weights)), "the notes of the table's files")
            lengths = LENGTHS.get(match[2], [0])
            for number, expected in ((3, NUMBERS[len(lengths)]), (4, str(min(lengths))), (5, str(max(lengths)))):
                yield Figure(*match.span(number), match[number], expected, "benchmarks/suite/workloads.py")

    def advised(self, size: str) -> Group | None:
        """The first group of the table whose model has this size."""
        return next((group for group in self.groups if f"_{size}_" in group.model), None)

    def advice(self) -> Iterator[Figure]:
        """The advice for a model, as printed but for what "..." leaves out, and as it is with ESM-2's weights."""
        told = r"The advice \(bold\) for (\w+): \*([^*]+)\*"
        trained = r"(?: With pretrained weights it recommends: \*([^*]+)\*)?"
        for match in self.find(told + trained):
            group = self.advised(match[1])
            if group is None or group.file is None:
                yield Figure(*match.span(1), match[1], "a model of the table", "the table")
                continue
            sentence = group.file.table(group.model, self.workload).advice
            for number, whole in ((2, sentence), (3, sentence.replace("Fastest:", "Use", 1))):
                if match[number]:
                    said = " ".join(match[number].split())
                    kept = ".*".join(map(re.escape, said.split("...")))
                    expected = said if re.fullmatch(kept, whole) else whole
                    yield Figure(*match.span(number), said, expected, str(group.file))

    def limit(self) -> Iterator[Figure]:
        """As in "FP8 moves embeddings by more than the limit of 5 %": of the model that the advice is for."""
        sizes = [match[1] for match in self.find(r"The advice \(bold\) for (\w+)")]
        for match in self.find(r"(\w+) moves embeddings by more than \[the limit of ([\d.]+) %\]"):
            groups = filter(None, map(self.advised, sizes))
            beyond = {
                p.upper() for group in groups for p, error in self.values(group, FIDELITY) if unfaithful(error)
            }
            yield Figure(*match.span(1), match[1], " and ".join(sorted(beyond)), "the errors in the table's files")
            yield Figure(*match.span(2), match[2], f"{100 * LARGEST_ERROR:g}", "asv_plugin/answer/advice.py")

    def watt_hours(self) -> Iterator[Figure]:
        """As in "4.68 J per 1,000 tokens are 1.3 Wh per million": of a cell of the table."""
        for match in self.find(r"([\d.]+) J per 1,000 tokens are ([\d.]+) Wh per million"):
            shown = [group for group in self.groups if any(ROWS.get(name) == ENERGY for name, _ in group.rows)]
            joules = [value.median for group in shown for _, value in self.values(group, ENERGY)]
            of_text = {written(ENERGY, value): value for value in reversed(joules)}
            expected = match[1] if match[1] in of_text else f"one of {', '.join(of_text)}"
            yield Figure(*match.span(1), match[1], expected, "the energy in the table's files")
            hours = f"{of_text[match[1]] * 1000 / 3600:.2g}" if match[1] in of_text else "?"
            yield Figure(*match.span(2), match[2], hours, f"{match[1]} J per 1,000 tokens, and 3,600 J per Wh")

    def variation(self) -> Iterator[Figure]:
        """As in "a shared machine whose rows vary by 10 %": the largest ± in the rows of the commit before."""
        for match in self.find(r"whose rows vary by (\d+) %"):
            before = [source.files for source in self.sources if source.end <= match.start()]
            shown = [group for group in self.groups if before and group.file in before[-1]]
            spreads = [
                value.spread / value.median
                for group in shown
                for name, _ in group.rows
                for _, value in self.values(group, ROWS.get(name, ""))
                if value.spread is not None
            ]
            source = f"the largest ± in {listed(before[-1] if before else [])}"
            yield Figure(*match.span(1), match[1], f"{100 * max(spreads, default=0):.0f}", source)

    def peers(self) -> Iterator[Figure]:
        """As in "2.60 times as fast as fair-esm (3B, FP16, H100)": by the newest engine table of that case."""
        factor = r"([\d.]+) times(?: as fast as)? ([a-zA-Z][\w-]*)"
        for match in self.find(rf"{factor}(?:(?:, |,? and ){factor})* \((\w+), (\w+), ([^()]+)\)"):
            size, precision, device = match.groups()[-3:]
            for peer in self.find(factor, *match.span()):
                factors = engine_factors(self.results, size, precision.lower(), device, peer[2])
                if factors:
                    path = newest(factors)
                    source = str(path.relative_to(self.results.parent))
                    yield Figure(*peer.span(1), peer[1], factors[path], source)
                else:
                    yield Figure(*peer.span(), peer[0], "of a case in an engine table", "results/*/*.txt")

    def tolerance(self) -> Iterator[Figure]:
        """As in "equal to it within 1e-5 in FP32": no measurement but what a test asserts."""
        file, name = HELD_TO_FAIR_ESM
        for match in self.find(r"equal to it within (\S+) in FP32"):
            asserted = sorted(asserted_floats(ROOT / file, name))
            expected = " and ".join(f"{each:.0e}".replace("e-0", "e-") for each in asserted)
            yield Figure(*match.span(1), match[1], expected, f"{file}: {name}")

    # Names, versions, and what results/ counts

    def names(self) -> Iterator[Figure]:
        """Precisions and sizes of models are the suite's, devices those of the records."""
        precisions, models = suite(self.results)
        devices = sorted(set().union(*(file.device for file in files(self.results))))
        for kind, known in (
            (r"\b(?:FP|TF|BF|INT)\d+\b", precisions),
            (r"\b\d+[MB]\b", [model.split("_")[-2] for model in models]),
            (r"\b[A-Z]\d+\b", devices),
        ):
            for match in self.find(kind):
                expected = match[0] if match[0] in known else f"one of {', '.join(known)}"
                yield Figure(*match.span(), match[0], expected, "results/")

    def versions(self) -> Iterator[Figure]:
        """The Python that is needed and the PyTorch that is installed."""
        for match in self.find(r"Python ([\d.]+\d) or newer"):
            yield Figure(*match.span(1), match[1], oldest_python(), "pyproject.toml")
        for match in self.find(r"installs PyTorch ([\d.]+\d)"):
            yield Figure(*match.span(1), match[1], pinned_torch(), "asv.conf.json and the Makefile")

    def commits(self) -> Iterator[Figure]:
        """As in "nine commits on an H100": of the machine with such a device that has most, or of all together."""
        for match in self.find(r"(\w+) commits on an? (\w+)"):
            found: dict[str, set[str]] = {}
            for file in files(self.results):
                if match[2] in file.device:
                    found.setdefault(file.record.machine, set()).add(file.record.commit)
            counts = {max(map(len, found.values()), default=0), len(set().union(*found.values()))}
            allowed = [NUMBERS[count] if count < len(NUMBERS) else str(count) for count in sorted(counts)]
            expected = match[1] if match[1] in allowed else " or ".join(allowed)
            yield Figure(*match.span(1), match[1], expected, f"the files of {match[2]}s in results/")

    def minutes(self) -> Iterator[Figure]:
        """As in "On two CPU cores the first `make bench` takes some seven minutes plus ..., later ones five".

        The files say how long asv ran. `make bench` also builds the commit and publishes, and at first installs,
        so both are held to be between once and twice that.
        """
        told = r"On (\w+) CPU cores the first `make bench` takes some (\w+) minutes [^,.]*, later ones (\w+)\."
        for match in self.find(told):
            device = {str(number_of(match[1])), "cores"}
            named = [file for source in self.sources for file in source.files if device <= file.device]
            ran = ", ".join(f"{file.minutes:.1f}" for file in named)
            source = f"asv's minutes by {listed(named)}"
            for number in (2, 3):
                said = number_of(match[number])
                fits = any(file.minutes <= said <= 2 * file.minutes for file in named)
                yield Figure(
                    *match.span(number), match[number], match[number] if fits else f"{ran} to twice that", source
                )


def cells_of(line: str, start: int) -> Iterator[Cell]:
    """The cells of a line of a table without its outer bars; `start`: its place."""
    for part in line.split("|"):
        text = part.strip()
        begin = start + (len(part) - len(part.lstrip()) if text else 0)
        yield Cell(begin, begin + len(text), text)
        start += len(part) + 1


def listed(named: list[File]) -> str:
    """Files as messages name them."""
    return ", ".join(map(str, named)) or "no file in results/"


def number_of(word: str) -> int:
    """The number that a word stands for; -1 for another word."""
    return NUMBERS.index(word) if word in NUMBERS else -1


def unfaithful(error: Value) -> bool:
    """Whether an error over distance is beyond the advice's limit."""
    return error.median > LARGEST_ERROR


@functools.cache
def oldest_python() -> str:
    """The lower bound in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")


@functools.cache
def pinned_torch() -> str:
    """The version that asv and the Makefile install."""
    found = re.findall(r'"torch": \["([^"]+)"\]', (ROOT / "asv.conf.json").read_text())
    found += re.findall(r"^TORCH\s*\?= torch==(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return " and ".join(sorted(set(found)))


def expected_text(record: Record, metric: str, cell: tuple[str, ...], said: str) -> str:
    """What a cell should say: the value; where it was skipped "n/a" or nothing, and where it failed "failed"."""
    value = record.value(metric, *cell)
    if value is not None:
        return written(metric, value.median)
    note = record.notes.get(notes.key(BENCHMARKS.get(metric, BENCHMARKS[FIDELITY]), cell), {})
    if "failed" in note:
        return "failed"
    return "n/a" if "skipped" in note and said else ""


def engine_factors(results: Path, size: str, precision: str, device: str, peer: str) -> dict[Path, str]:
    """How many times as fast as a peer's fastest form the engine is, in each committed table of the case."""
    found = {}
    for path in sorted(results.glob("*/*.txt")):
        about, _, rest = path.read_text().partition("\n")
        if not words_of(device) <= words_of(about.partition(";")[0]):
            continue
        for table in rest.split("\n\n"):
            head, *rows = table.strip().splitlines() or [""]
            name, *columns = re.split(r"\s{2,}", head)
            if "virnucpro is" not in columns or not re.fullmatch(rf"\w+_{size}_\w+, {precision}", name):
                continue
            place = columns.index("virnucpro is")
            cells = [re.split(r"\s{2,}", row) for row in rows if re.match(rf"{peer}\b", row)]
            if cells:
                found[path] = min((each[1 + place] for each in cells), key=float)
    return found


def newest(paths: Iterable[Path]) -> Path:
    """The file of the commit that git says is newest; git is asked only where there are several."""
    paths = list(paths)
    if len(paths) == 1:
        return paths[0]

    def date(path: Path) -> int:
        commit = path.name.partition("-")[0]
        asked = ["git", "-C", str(path.parent), "show", "--no-patch", "--format=%ct", commit]
        return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)

    return max(paths, key=date)


@functools.cache
def asserted_floats(path: Path, test: str) -> set[float]:
    """The floating-point constants in a test's assertions."""
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    asserted = [
        node for each in functions if each.name == test for node in ast.walk(each) if isinstance(node, ast.Assert)
    ]
    nodes = (node for each in asserted for node in ast.walk(each))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, float)}
