"""What the pages tell people to type and to open: whether it exists.

Commands of this project are asked themselves, without running anything: make by its dry run, `virnucpro` by its
parser, Python by its signatures. Words in capitals, in <> or with ... stand for something else.
"""

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import itertools
import json
import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asv

from asv_plugin import notes
from tests.made_up import ROOT
from virnucpro.cli.arguments import parser, refuse_contradictions
from virnucpro.models.esm2 import SHAPES

FOLDERS = ("virnucpro", "benchmarks", "asv_plugin")
PYTHON = (".venv/bin/python", "python")
FOREIGN = ("cp", "git", "ln", "pip", "pre-commit", "printf", "ray", "zcat")
"""Commands that are not this project's."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = re.compile(r"\bVIRNUCPRO_\w+")
VARIABLE = re.compile(r"(\w+)=(.*)", re.DOTALL)
PLACEHOLDER = re.compile(r"<|\.\.\.|(?<![A-Za-z0-9.-])[A-Z]+(?![\w-]|\.md)")
PLACE = re.compile(r"\.?[\w*-]+/(?:[\w.*-]+/)*(?:[\w*-]+\.\w+)?|\.\w[\w./-]*/[\w./-]*")
"""A folder with its slash, or a file with its ending in a folder."""


def problems(text: str, folder: Path = ROOT) -> list[str]:
    """What a page in a folder names and is not there, a line each."""
    blocks = [(block[1], block[2]) for block in BLOCK.finditer(text)]
    prose = BLOCK.sub("", text)
    found = [each for language, code in blocks if not language for each in typed(code)]
    found += [each for language, code in blocks if language == "python" for each in written_in_python(code)]
    found += [each for span in re.findall(r"`([^`]+)`", prose) for each in mentioned(" ".join(span.split()))]
    found += [each for target in re.findall(r"\]\(([^)\s]*)\)", prose) for each in linked(target, text, folder)]
    found += [f"no code reads {name}" for name in sorted({*re.findall(ENVIRONMENT, text)} - environment())]
    models = re.findall(r"\besm2_t\w+", text)
    return found + [f"ESM-2 has no model {name}" for name in models if name not in SHAPES]


def typed(code: str) -> Iterator[str]:
    """What is wrong with the lines of a shell; a block without any command that is known here is no such lines."""
    commands = [words for line in code.splitlines() for words in commands_in(line)]
    if not any(words[0] in ("make", "virnucpro", *PYTHON, *FOREIGN) for words in commands):
        return
    for first, *words in commands:
        if first == "make":
            yield from made(words)
        elif first == "virnucpro":
            yield from parsed(*words)
        elif first in PYTHON:
            yield from run(words)
        elif first not in (*FOREIGN, "cd"):
            yield f"nothing checks the command {first}"


def commands_in(line: str) -> Iterator[list[str]]:
    """The commands of a line of a shell, without variables of the environment and redirections."""
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in ("|", "&&", ";"):
            words.append(word)
            continue
        words = list(itertools.dropwhile(VARIABLE.fullmatch, itertools.takewhile(lambda each: each != ">", words)))
        if words:
            yield words
        words = []


def run(words: list[str]) -> Iterator[str]:
    """What is wrong with a call of Python: a module, and the files it is given."""
    if words[:1] == ["-m"]:
        found = None
        with contextlib.suppress(ModuleNotFoundError):  # of the package that it is in
            found = importlib.util.find_spec(words[1])
        if found is None:
            yield f"there is no module {words[1]}"
    yield from (f"there is no {word}" for word in words[2:] if "/" in word and not (ROOT / word).exists())


def mentioned(code: str) -> Iterator[str]:
    """What is wrong with code inside a sentence: a command, an option or a place; other words may stand there."""
    words = shlex.split(code) if code.startswith(("make ", "virnucpro ")) else code.split()
    if words[0] == "make":
        yield from made(["setup" if word == "..." else word for word in words[1:]])
    elif words[0] in PYTHON:
        yield from run(words[1:])
    elif words[0] == "virnucpro" and not words[-1].isdigit():  # a format has a version
        yield from parsed(*words[1:], "--help")
    elif re.fullmatch(r"--[a-z][a-z-]+", words[0]):
        if words[0] not in options():
            yield f"no command has an option {words[0]}"
    elif PLACE.fullmatch(code) and not PLACEHOLDER.search(code):
        ignored = (ROOT / ".gitignore").read_text().split()  # what commands make
        found = itertools.chain(ROOT.glob(code), *((ROOT / folder).rglob(code) for folder in FOLDERS))
        if not {f"/{Path(code).parts[0]}/", f"/{Path(code).parts[0]}/*"} & {*ignored} and not any(found):
            yield f"there is no {code}"


def made(words: list[str]) -> Iterator[str]:
    """What is wrong with a call of make: the targets must take each variable from the environment."""
    targets = [word for word in words if not VARIABLE.fullmatch(word)]
    given = {match[1]: match[2] for word in words if (match := VARIABLE.fullmatch(word))}
    returned, output = dry_run(*targets)
    if returned:
        yield f"make {' '.join(targets)} does not work: {output.strip()}"
        return
    for name, value in given.items():
        if not re.search(rf"\$\{{?{name}\b", output):
            yield f"make {' '.join(targets)} does not use {name}"
        is_regex = name == "BENCH" and not PLACEHOLDER.search(value)
        if is_regex and not any(re.search(value, cell) for cell in suite_cells()):
            yield f"no benchmark matches {name}={value}"


@functools.cache
def dry_run(*words: str) -> tuple[int, str]:
    """What make would run, and whether it would."""
    outside = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *words],
        cwd=ROOT,
        env=outside,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@functools.cache
def suite_cells() -> list[str]:
    """The cells of the suite, as BENCH finds them."""
    suite = json.loads((ROOT / "results" / "benchmarks.json").read_text())
    entries = (entry for entry in suite.values() if isinstance(entry, dict))
    return [notes.key(entry["name"], cell) for entry in entries for cell in notes.product(entry["params"])]


@functools.cache
def parsed(*words: str) -> list[str]:
    """What `virnucpro` says against its words."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            refuse_contradictions(parser().parse_args(words))
    except SystemExit as left:
        if left.code:
            return [f"virnucpro {' '.join(words)}: {said.getvalue().strip().splitlines()[-1]}"]
    return []


@functools.cache
def options() -> set[str]:
    """The options of this project's commands and of asv's."""
    folders = [*(ROOT / folder for folder in FOLDERS), Path(asv.__file__).parent]
    code = (path.read_text() for folder in folders for path in folder.rglob("*.py"))
    return {option for each in code for option in re.findall(r"""["'](--[a-z-]+)["']""", each)}


def written_in_python(code: str) -> Iterator[str]:
    """What is wrong with a block of Python: names, arguments, and the array that a comment promises."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        yield f"Python does not parse {error.text}"
        return
    modules = {
        alias.asname or alias.name: importlib.import_module(alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            yield from (
                f"there is no {node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)
            )
    literals = {
        ast.unparse(node.targets[0]): node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, name = ast.unparse(node.func.value), node.func.attr
            if owner in modules:
                yield from called(getattr(modules[owner], name, None), node, literals, code)


def called(function: object, call: ast.Call, literals: dict[str, ast.expr], code: str) -> Iterator[str]:
    """What is wrong with a call of this project's Python API."""
    told = ast.unparse(call)
    if not callable(function):
        yield f"there is no {ast.unparse(call.func)}"
        return

    def value(node: ast.expr) -> object:
        return ast.literal_eval(literals.get(ast.unparse(node), node))

    named = {keyword.arg: value(keyword.value) for keyword in call.keywords if keyword.arg}
    try:
        bound = inspect.signature(function).bind(*map(value, call.args), **named)
    except TypeError as error:
        yield f"{told}: {error}"
        return
    bound.apply_defaults()
    promised = re.search(r"# (\w+) \[(\d+), (\d+)\]", code)
    sequences, model = bound.arguments.get("sequences"), bound.arguments.get("model")
    if promised and isinstance(sequences, dict) and model in SHAPES:
        shape = ("float32", str(len(sequences)), str(SHAPES[model].dim))
        if promised.groups() != shape:
            yield f"{told} gives {shape}, not {promised.groups()}"


def linked(target: str, text: str, folder: Path) -> Iterator[str]:
    """What is wrong with a link's target; pages elsewhere are not asked."""
    if re.match(r"https?://", target):
        return
    path, _, anchor = target.partition("#")
    if path and not (folder / path).exists():
        yield f"there is no {path}"
    elif anchor and anchor not in (anchors_in(folder / path) if path else anchors(text)):
        yield f"{path or 'this page'} has no heading #{anchor}"


@functools.cache
def anchors_in(path: Path) -> set[str]:
    """The anchors of a page of this project."""
    return anchors(path.read_text())


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    shown = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in shown]
    repeated = {f"{name}-{number}" for name, count in Counter(names).items() for number in range(1, count)}
    return {*names, *repeated}


@functools.cache
def environment() -> set[str]:
    """The project's environment variables, as its code names them."""
    code = (
        path.read_text() for folder in (*FOLDERS, "tests/benchmarks") for path in (ROOT / folder).rglob("*.py")
    )
    return {name for each in code for name in re.findall(ENVIRONMENT, each)}
