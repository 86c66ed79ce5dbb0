"""Which part of the project imports which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imported_by(folder: str) -> set[str]:
    """The modules that any file of a folder imports, anywhere in it."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("virnucpro", ("benchmarks", "asv_plugin", "asv")),
        ("virnucpro/data", ("virnucpro.models", "virnucpro.pipeline", "virnucpro.store")),
        ("virnucpro/models", ("virnucpro.pipeline", "virnucpro.store")),
        ("virnucpro/store", ("virnucpro.models", "virnucpro.pipeline", "virnucpro.data")),
        ("benchmarks", ("asv_plugin", "asv")),
        ("asv_plugin", ("virnucpro",)),
    ],
)
def test_imports_go_one_way(folder, forbidden):
    modules = imported_by(folder)
    assert modules
    assert not {name for name in modules if any(name == each or name.startswith(f"{each}.") for each in forbidden)}


def test_of_the_store_only_pytorchs_own_files_need_it():
    users = [path.stem for path in (ROOT / "virnucpro/store").glob("*.py") if "import torch" in path.read_text()]
    assert users == ["tensor_files"]


def test_the_command_begins_without_pytorch():
    """So that help, and a mistake in the words, are told at once."""
    ask = "import sys, virnucpro.cli; print(sorted({'torch', 'esm', 'ray'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
