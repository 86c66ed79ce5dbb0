"""asv imports every module of the suite, beside commits of all ages and in environments of its own."""

import ast
import subprocess
import sys
from pathlib import Path

from asv_runner.benchmarks import benchmark_types
from asv_runner.discovery import disc_benchmarks

import benchmarks

ROOT = Path(__file__).parents[2]


BENCHMARKS = {"throughput", "precision", "engine", "pipeline", "scaling", "workers"}
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))


def test_the_suite_is_imported_without_virnucpro_and_without_what_asvs_environments_lack():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys(["virnucpro", "tabulate", "transformers", "h5py", "pytest", "asv"]))
for name in {modules}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "benchmarks.suite.cell" in modules


def test_only_classes_are_taken_for_benchmarks():
    """asv takes a function of any module for one if its name begins like one, `time_` for example."""
    functions = [
        statement.name
        for path in FILES
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.FunctionDef)
    ]
    assert [name for name in functions if any(kind.name_regex.match(name) for kind in benchmark_types)] == []
    assert any(kind.name_regex.match("time_in_turn") for kind in benchmark_types)


def test_no_benchmark_is_found_below_the_files_on_top():
    found = {benchmark.name.partition(".")[0] for benchmark in disc_benchmarks("benchmarks")}
    assert found == {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    assert found == BENCHMARKS


def test_the_suites_docstring_names_all_its_files():
    names = {path.parent.name if path.name == "__init__.py" else path.stem for path in FILES} - {"benchmarks"}
    assert {name for name in names if f"``{name}``" not in benchmarks.__doc__} == set()
