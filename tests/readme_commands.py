"""What the README tells people to type and to open: whether it exists.

Commands of this project are asked themselves, without running anything: make by its dry run, `virnucpro` by its
parser, Python by its signatures.
"""

import ast
import contextlib
import functools
import importlib
import inspect
import io
import json
import os
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from asv_plugin import notes
from tests.made_up import ROOT
from virnucpro.cli.arguments import parser, refuse_contradictions
from virnucpro.models.esm2 import SHAPES

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = re.compile(r"\bVIRNUCPRO_\w+")
VARIABLE = re.compile(r"(\w+)=(.*)", re.DOTALL)


def problems(text: str) -> list[str]:
    """What a README names and is not there, a line each."""
    blocks = [(block[1], block[2]) for block in BLOCK.finditer(text)]
    prose = BLOCK.sub("", text)
    found = [each for language, code in blocks if not language for each in typed(code)]
    found += [each for language, code in blocks if language == "python" for each in written_in_python(code)]
    found += [each for span in re.findall(r"`([^`]+)`", prose) for each in mentioned(" ".join(span.split()))]
    found += [each for target in re.findall(r"\]\(([^)\s]*)\)", prose) for each in linked(target, text)]
    found += [f"no code reads {name}" for name in sorted({*re.findall(ENVIRONMENT, text)} - environment())]
    return found + [f"ESM-2 has no model {name}" for name in re.findall(r"\besm2_\w+", text) if name not in SHAPES]


def typed(code: str) -> Iterator[str]:
    """What is wrong with the lines of a shell."""
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        while words and VARIABLE.fullmatch(words[0]):  # of the environment
            words.pop(0)
        if words and words[0] == "make":
            yield from made(words[1:])
        elif words and words[0] == "virnucpro":
            yield from parsed(*words[1:])
        elif words and words[0] != "git":
            yield f"nothing checks the command {words[0]}"


def mentioned(code: str) -> Iterator[str]:
    """What is wrong with code inside a sentence: a command, an option or a place; other words may stand there."""
    words = shlex.split(code)
    if words[0] == "make":
        yield from made(words[1:])
    elif words[0] == "virnucpro":
        yield from parsed(*words[1:], "--help")
    elif words[0].startswith("--"):
        if not any(re.search(rf"(?<!\S){re.escape(words[0])}\b", usage) for usage in helps()):
            yield f"virnucpro has no option {words[0]}"
    elif code.endswith("/") or code.startswith("."):
        ignored = (ROOT / ".gitignore").read_text()  # what commands make
        if not (ROOT / code).exists() and f"/{Path(code).parts[0]}/" not in ignored:
            yield f"there is no {code}"


def made(words: list[str]) -> Iterator[str]:
    """What is wrong with a call of make: each variable must change what the targets would run."""
    targets = [word for word in words if not VARIABLE.fullmatch(word)]
    given = {match[1]: match[2] for word in words if (match := VARIABLE.fullmatch(word))}
    returned, output = dry_run(*targets, *(f"{name}=readme-{name}-" for name in given))
    if returned:
        yield f"make {' '.join(targets)} does not work: {output.strip()}"
        return
    for name, value in given.items():
        if f"readme-{name}-" not in output:
            yield f"make {' '.join(targets)} does not use {name}"
        if name == "BENCH" and not any(re.search(value, cell) for cell in suite_cells()):
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
def helps() -> list[str]:
    """The help of each of `virnucpro`'s commands."""
    (commands,) = (action for action in parser()._actions if action.choices)
    assert isinstance(commands.choices, dict)
    return [command.format_help() for command in commands.choices.values()]


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


def linked(target: str, text: str) -> Iterator[str]:
    """What is wrong with a link's target; pages elsewhere are not asked."""
    if re.match(r"https?://", target):
        return
    path, _, anchor = target.partition("#")
    if path and not (ROOT / path).is_file():
        yield f"there is no {path}"
    elif anchor and anchor not in (anchors_in(path) if path else anchors(text)):
        yield f"{path or 'README.md'} has no heading #{anchor}"


@functools.cache
def anchors_in(path: str) -> set[str]:
    """The anchors of a page of this project."""
    return anchors((ROOT / path).read_text())


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
    folders = ("virnucpro", "benchmarks", "asv_plugin")
    code = (path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {name for each in code for name in re.findall(ENVIRONMENT, each)}
