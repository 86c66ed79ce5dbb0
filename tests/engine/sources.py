"""Whether the code that computes rows is that of the tracked table `sources.txt`, and how the table is renewed.

It imports neither PyTorch nor virnucpro, so that any Python runs it.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = Path("tests", "engine", "sources.txt")
PROVENANCE = Path("virnucpro", "pipeline", "provenance.py")

FOLDERS = (Path("virnucpro", "models"), Path("virnucpro", "models", "kernels"))
NOT_IN_ROWS = (
    *("apart.py", "checkpoint.py", "esm2_flash.py", "fair_esm_form.py", "huggingface.py"),
    *("layerwise.py", "stored.py", "token_budget.py", "weights.py"),
)
"""Of virnucpro/models, what loads weights or chooses settings: a run records these, and compares them."""

BESIDE = (
    *(Path("virnucpro", "data", name) for name in ("tokens.py", "packing.py", "windows.py")),
    *(Path("virnucpro", "pipeline", name) for name in ("async_inference.py", "options.py", "parts.py")),
)
"""Beside the models, what turns letters into rows; a run compares the tokens that come out of other readers."""

FILES, LOG = "[files]", "[log]"
UNCHANGED, NEW = "results unchanged: ", "new version: "
NO_CODE = f"{UNCHANGED}comments only"
COMMAND = ".venv/bin/python -m tests.engine"
REMEDY = f"""\
Compare rows before and after. Where they are equal, say what was compared, on which device ("comments only" needs
no comparison), as in
    {COMMAND} "{UNCHANGED}FP32 and INT8 8M, bytes equal, CPU (AVX2)"
Else raise ENGINE in {PROVENANCE}, and say why:
    {COMMAND} --new-version "BF16 sums in another order"\
"""


class TableError(Exception):
    """The table is not that of the sources, or a line must not be added to it; says what to do."""


@dataclass(frozen=True)
class Line:
    """A line of the log: the engine's version, the hash of all files then, and what changed."""

    version: int
    hash: str
    reason: str

    def __str__(self) -> str:
        return f"{self.version}  {self.hash}  {self.reason}"


@dataclass(frozen=True)
class Table:
    """What `sources.txt` says. `header`: its comments; `files`: path to hash."""

    header: str
    files: Mapping[str, str]
    log: Sequence[Line]

    @classmethod
    def read(cls, root: Path = ROOT) -> "Table":
        """The table of a tree; TableError for a line that is none, as after a merge conflict."""
        header, _, rest = (root / TABLE).read_text("utf-8").partition(f"{FILES}\n")
        files, _, log = rest.partition(f"{LOG}\n")
        entries = [fields(line, r"([0-9a-f]{16})  (\S+)") for line in files.splitlines() if line]
        lines = [fields(line, r"(\d+)  ([0-9a-f]{16})  (.+)") for line in log.splitlines() if line]
        return cls(
            header,
            {path: digest for digest, path in entries},
            [Line(int(version), digest, reason) for version, digest, reason in lines],
        )

    def write(self, root: Path = ROOT) -> None:
        """Write it to a tree."""
        files = "".join(f"{digest}  {path}\n" for path, digest in self.files.items())
        log = "".join(f"{line}\n" for line in self.log)
        (root / TABLE).write_text(f"{self.header}{FILES}\n{files}\n{LOG}\n{log}", "utf-8")


def fields(line: str, pattern: str) -> tuple[str | Any, ...]:
    """The groups of a line."""
    found = re.fullmatch(pattern, line)
    if not found:
        raise TableError(
            f"{TABLE}: {line!r} is no line of it. After a merge conflict keep the lines of both sides' {LOG}, "
            "the newer side's last, and anything under [files]; then run the command"
        )
    return found.groups()


def computing(root: Path = ROOT) -> dict[str, str]:
    """Path to hash of each file that decides the bytes of rows."""
    models = [path for folder in FOLDERS for path in (root / folder).glob("*.py") if path.name not in NOT_IN_ROWS]
    paths = sorted([*models, *(root / path for path in BESIDE if (root / path).exists())])
    # Comments count: of 40 commits that changed these files only 3 changed nothing else, and what ast and tokenize
    # make of a source differs between versions of Python
    return {path.relative_to(root).as_posix(): hash_of(path.read_text("utf-8")) for path in paths}


def hash_of(text: str) -> str:
    """Of text, 16 digits."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def hash_of_all(files: Mapping[str, str]) -> str:
    """Of all files' paths and hashes."""
    return hash_of("".join(f"{digest}  {path}\n" for path, digest in sorted(files.items())))


def engine_of(root: Path = ROOT) -> int:
    """The version in provenance.py."""
    found = re.search(r'^ENGINE = "(\d+)"$', (root / PROVENANCE).read_text("utf-8"), re.MULTILINE)
    if not found:
        raise TableError(f'{PROVENANCE} has no line ENGINE = "a number"')
    return int(found[1])


def changes(table: Table, root: Path = ROOT) -> list[str]:
    """The files that are not as in the table, each with what happened to it."""
    now = computing(root)
    return [
        f"{path} {'is new' if path not in table.files else 'is gone' if path not in now else 'has changed'}"
        for path in sorted({*now, *table.files})
        if now.get(path) != table.files.get(path)
    ]


def check(root: Path = ROOT) -> None:
    """Raise TableError unless the table is that of the sources and of ENGINE, and its log tells each change."""
    table = Table.read(root)
    if changed := changes(table, root):
        raise TableError("\n".join(["What computes rows is not as in the table:", *changed, REMEDY]))
    version = 0
    for number, line in enumerate(table.log):
        problem = what_is_wrong(line, version, first=number == 0)
        if problem:
            raise TableError(f"{TABLE}: {problem}: {line}")
        version = line.version
    if not table.log or table.log[-1].hash != hash_of_all(table.files):
        raise TableError(f"{TABLE}: the last line of {LOG} is not of these files.\n{REMEDY}")
    if version != engine_of(root):
        raise TableError(
            f"ENGINE in {PROVENANCE} is {engine_of(root)}, and the table's version {version}.\n{REMEDY}"
        )


def what_is_wrong(line: Line, before: int, first: bool = False) -> str:
    """With a line after one of version `before`; nothing: ""."""
    if line.version < before:
        return f"the version falls from {before}"
    if line.version > before:
        return "" if line.reason.startswith(NEW) else f"version {line.version} does not begin with {NEW!r}"
    if not line.reason.startswith(UNCHANGED):
        return f"a line of the same version does not begin with {UNCHANGED!r}"
    if line.reason != NO_CODE and not re.search(r"\b[CG]PUs?\b", line.reason):
        return "it does not say on which device rows were compared, a CPU or a GPU"
    return ""


def add(reason: str, new_version: bool, root: Path = ROOT) -> Line:
    """Renew the table and add a line to its log; TableError where there is no reason for it, or a wrong one."""
    table, version = Table.read(root), engine_of(root)
    before = table.log[-1].version if table.log else 0
    files = computing(root)
    line = Line(version, hash_of_all(files), f"{NEW}{reason}" if new_version else reason)
    if new_version and version <= before:
        raise TableError(f'raise ENGINE in {PROVENANCE} first: it is "{version}", as the last line\'s')
    if not new_version and version != before:
        raise TableError(
            f"ENGINE in {PROVENANCE} is {version}, and was {before}: use --new-version, or put it back"
        )
    if not new_version and table.log[-1].hash == line.hash and not changes(table, root):
        raise TableError("nothing that computes rows has changed: no line is needed")
    if problem := what_is_wrong(line, before):
        raise TableError(f"{problem}: {line.reason}")
    Table(table.header, files, [*table.log, line]).write(root)
    return line
