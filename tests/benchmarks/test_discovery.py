"""asv imports every module of the suite, beside commits of all ages and in environments of its own."""

import subprocess
import sys
from pathlib import Path

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
