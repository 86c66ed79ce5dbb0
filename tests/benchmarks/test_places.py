"""The names that benchmarks import from virnucpro, beside commits that lack some or have them elsewhere."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suite.places import PLACES, find
from tests.conftest import NEEDS_TRITON

ROOT = Path(__file__).parents[2]
LOADER = "def load_esm2_model(name, precision, weights): ..."
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
from benchmarks.suite.places import *
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
        for path in (ROOT / "benchmarks").rglob("*.py")
        for statement in ast.walk(ast.parse(path.read_text()))
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in [getattr(statement, "module", None) or "", *(alias.name for alias in statement.names)]
        if name.split(".")[0] == "virnucpro"
    }
    assert found == {"places.py"}


NEW = {"models.token_budget": BUDGET.format(2)}
"""What no commit from before 0.4.0 has."""


def test_a_name_is_found_in_its_place(ask):
    assert ask("find('token_budget')(None)", NEW) == "2"


def test_a_name_that_has_moved_is_found_in_its_old_place_where_the_new_one_is_missing(ask):
    moved = "PLACES.update(pack=('virnucpro.data.new', 'virnucpro.data.packing')), find('pack')([], 1)"
    assert ask(f"[{moved}][1]", {**NEW, "data.packing": PACK}) == "[1]"
    assert ask(f"[{moved}][1]", {**NEW, "data.packing": PACK, "data.new": "def pack(*_): return 3"}) == "3"


def test_a_commit_from_before_the_floor_is_not_available(ask):
    said = "NotImplementedError: this commit is older than 0.4.0, the oldest that is measured"
    assert ask("find('load_esm2_model')", {"models.esm2_flash": LOADER}) == said


OWN = {"models.esm2_flash": "def load_esm2_model(model_name, device='cuda', enable_fp16=None): ..."}
"""VirNucPro's own program."""


def test_virnucpros_own_program_is_measured_in_padded_batches(ask):
    assert ask("[find('token_budget')(None), *find('PRECISIONS')]", OWN) == "[2048, 'fp32', 'fp16']"


def test_what_virnucpros_own_program_lacks_is_not_available(ask):
    assert ask("missing('pack', 'Fasta')", OWN) == "VirNucPro's own program has no Fasta"
    assert ask("missing('pack')", OWN) == "None"
    assert ask("find('attend')", OWN) == "NotImplementedError: VirNucPro's own program has no attend"


def test_a_commit_without_a_loader_is_not_available(ask):
    said = "NotImplementedError: this commit has neither virnucpro.models.token_budget nor load_esm2_model in "
    assert ask("find('pack')", {"models.other": ""}) == f"{said}virnucpro.models.esm2_flash"


def test_a_module_of_another_virnucpro_is_not_the_commits(ask, tmp_path):
    """An editable install answers for what the first virnucpro on the path lacks."""
    (tmp_path / "elsewhere.py").write_text(PACK)
    finder = f"""type("Finder", (), {{"find_spec": lambda self, name, *_: __import__("importlib").util.
        spec_from_file_location(name, {str(tmp_path / "elsewhere.py")!r}) if "packing" in name else None}})()"""
    asked = f"(sys.meta_path.append({finder}), exists('virnucpro.data.packing'))[1]"
    assert ask(asked, {"data.tokens": ""}) == "False"


def test_a_commit_that_lacks_a_name_fails_and_says_which(ask):
    said = ask("find('pack')", {**NEW, "data.packing": ""})
    assert said.endswith(
        "MissingName: this commit's virnucpro has no pack; it was looked for in virnucpro.data.packing"
    )


def test_a_module_that_cannot_be_imported_is_a_failure(ask):
    said = ask("find('pack')", {**NEW, "data.packing": "import no_such_package"})
    assert said == "ModuleNotFoundError: No module named 'no_such_package'"
