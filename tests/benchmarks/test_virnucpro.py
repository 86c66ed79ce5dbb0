"""The names that benchmarks import from virnucpro, beside commits that lack some or have them elsewhere."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._virnucpro import PLACES, find
from tests.conftest import NEEDS_TRITON

ROOT = Path(__file__).parents[2]
LOADER = "def load_esm2_model(name, precision, weights): ..."
RUNNER = "class AsyncInferenceRunner: ..."
PACK = "def pack(proteins, budget): return [budget]"
BUDGET = "def token_budget(model): return {}"


@pytest.fixture
def ask(tmp_path):
    """What an expression gives, or the last line of why it fails, beside a made-up virnucpro."""

    def call(expression: str, modules: dict[str, str]) -> str:
        for name, source in modules.items():
            path = tmp_path / "virnucpro" / Path(*name.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        for folder in [tmp_path / "virnucpro", *(path for path in tmp_path.rglob("*") if path.is_dir())]:
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]
sys.dont_write_bytecode = True
from benchmarks._virnucpro import *
print(({expression}))
"""
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).strip().splitlines()[-1]

    return call


@pytest.mark.parametrize("name", PLACES)
def test_a_name_is_found_in_this_commit(name):
    if any(place.startswith("virnucpro.models.kernels") for place in PLACES[name]):
        pytest.importorskip("triton", reason=NEEDS_TRITON)
    assert name in ("SHAPES", "PRECISIONS") or find(name).__name__ == name
    assert find(name)


def test_nothing_else_of_the_suite_imports_from_virnucpro():
    found = {
        path.name
        for path in (ROOT / "benchmarks").glob("*.py")
        for statement in ast.walk(ast.parse(path.read_text()))
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in [getattr(statement, "module", None) or "", *(alias.name for alias in statement.names)]
        if name.split(".")[0] == "virnucpro"
    }
    assert found == {"_virnucpro.py"}


@pytest.mark.parametrize(
    "modules, budget",
    [
        ({"data.packing": f"{PACK}\n{BUDGET.format(1)}"}, 1),  # old commits
        ({"data.packing": PACK, "models.token_budget": BUDGET.format(2)}, 2),  # new ones
        ({"data.packing": f"{PACK}\n{BUDGET.format(1)}", "models.token_budget": BUDGET.format(2)}, 2),
    ],
)
def test_a_name_is_found_in_its_new_and_in_its_old_place(ask, modules, budget):
    assert ask("has_packs(), packs([], None)", modules) == f"(True, [{budget}])"


def test_a_commit_from_before_packs_has_none(ask):
    assert ask("has_packs()", {"models.esm2": ""}) == "False"
    assert ask("has_packs()", {"data.tokens": ""}) == "False"


def test_a_module_of_another_virnucpro_is_not_the_commits(ask, tmp_path):
    """An editable install answers for what the first virnucpro on the path lacks."""
    (tmp_path / "elsewhere.py").write_text(PACK)
    finder = f"""type("Finder", (), {{"find_spec": lambda self, name, *_: __import__("importlib").util.
        spec_from_file_location(name, {str(tmp_path / "elsewhere.py")!r}) if "packing" in name else None}})()"""
    assert ask(f"(sys.meta_path.append({finder}), has_packs())[1]", {"data.tokens": ""}) == "False"


def test_a_commit_with_packs_that_lacks_a_name_fails_and_says_which(ask):
    said = ask("has_packs(), packs([], None)", {"data.packing": PACK})
    assert "MissingName: this commit's virnucpro has no token_budget; it was looked for in" in said
    assert "virnucpro.models.token_budget and virnucpro.data.packing" in said


def test_packs_that_cannot_be_imported_are_a_failure(ask):
    said = ask("packs([], None)", {"data.packing": "import no_such_package"})
    assert said == "ModuleNotFoundError: No module named 'no_such_package'"


@pytest.mark.parametrize(
    "modules, missing",
    [
        ({"models.esm2_flash": LOADER}, "has no AsyncInferenceRunner"),
        ({"pipeline.async_inference": RUNNER}, "has no load_esm2_model"),
        (
            {"models.esm2_flash": "def load_esm2_model(name): ...", "pipeline.async_inference": RUNNER},
            "load_esm2_model takes no precision and weights",
        ),
    ],
)
def test_a_commit_from_before_the_api_is_not_available(ask, modules, missing):
    said = ask("inference_api()", modules)
    assert said.startswith("NotImplementedError: this commit")
    assert missing in said


@pytest.mark.parametrize(
    "modules, name, said",
    [
        ({"models.precision": "PRECISIONS = {}"}, "bf16", "None"),
        ({"models.precision": "PRECISIONS = {}"}, "int8", "NotImplementedError: this commit has no INT8"),
        ({"models.esm2_flash": LOADER}, "fp8", "NotImplementedError: this commit has no FP8"),
        ({"models.formats": "", "models.precision": "PRECISIONS = {'int8': 1}"}, "int8", "None"),
    ],
)
def test_a_precision_that_came_later_is_not_available(ask, modules, name, said):
    assert ask(f"require_precision({name!r})", modules) == said


def test_a_commit_from_before_the_embed_command_is_not_available(ask):
    assert ask("require_embed_command()", {"pipeline.embed": ""}) == "None"


def test_a_commit_with_the_embed_command_is_measured(ask):
    assert "NotImplementedError: this commit has no virnucpro embed" in ask("require_embed_command()", {"cli": ""})
