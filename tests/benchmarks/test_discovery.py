"""asv imports every module of the suite, beside commits of all ages and in environments of its own."""

import ast
import subprocess
import sys
from pathlib import Path

from asv_runner.benchmarks import benchmark_types

ROOT = Path(__file__).parents[2]


def test_the_suite_is_imported_without_virnucpro_and_without_what_asvs_environments_lack():
    modules = sorted(f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py"))
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys(["virnucpro", "tabulate", "transformers", "h5py", "pytest", "asv"]))
for name in {modules}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(modules) > 5


def test_only_classes_are_taken_for_benchmarks():
    """asv takes a function of any module for one if its name begins like one, `time_` for example."""
    functions = [
        statement.name
        for path in (ROOT / "benchmarks").glob("*.py")
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.FunctionDef)
    ]
    assert [name for name in functions if any(kind.name_regex.match(name) for kind in benchmark_types)] == []
    assert any(kind.name_regex.match("time_in_turn") for kind in benchmark_types)


def test_the_suites_docstring_names_all_its_files():
    import benchmarks

    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    assert {name for name in files if f"``{name}``" not in benchmarks.__doc__} == set()
