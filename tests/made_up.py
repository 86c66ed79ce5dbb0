"""Made-up results in asv's own format, for what reads results."""

import datetime
import json
import math
import subprocess
import sys
from pathlib import Path

from asv.results import Results
from asv.runner import BenchmarkResult

from asv_plugin import notes
from asv_plugin.answer.records import BENCHMARKS, FIDELITY

ROOT = Path(__file__).parent.parent
M8, M650 = "esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D"

Cells = dict[tuple[str, str, str], dict[str, float | list[float]]]
"""(model, precision, workload) to metric to value or samples."""


def benchmarks() -> dict[str, dict]:
    """Of the suite's benchmarks.json, as asv discovers it, what `record` records."""
    code = "import sys; from asv_runner.discovery import _discover; _discover(('benchmarks', sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "/dev/stdout"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {entry["name"]: entry for entry in json.loads(done.stdout) if entry["name"] in BENCHMARKS.values()}


def machine(results: Path, name: str, known: dict[str, dict], **about: str) -> None:
    """Record a machine."""
    (results / name).mkdir(parents=True, exist_ok=True)
    about = {"machine": name, "cpu": "a CPU", "ram": str(24 * 2**30), "os": "Linux", "version": 1} | about
    (results / name / "machine.json").write_text(json.dumps(about))
    (results / "benchmarks.json").write_text(json.dumps(known | {"version": 2}))


def record(
    results: Path,
    name: str,
    commit: str,
    date: int,
    cells: Cells,
    known: dict[str, dict],
    device: str = "a chip",
    started: datetime.datetime = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC),
) -> Path:
    """Record a commit on a machine: what is in `cells` has a value, the rest is n/a. Returns the file."""
    about = json.loads((results / name / "machine.json").read_text())
    params = {key: value for key, value in about.items() if key != "version"} | {"python": "3.11"}
    result = Results(params, {}, commit, date, "3.11", "virtualenv-py3.11", {})
    for metric, benchmark in BENCHMARKS.items():
        values, samples, numbers = [], [], []
        for cell in notes.product(known[benchmark]["params"]):
            value = cells.get(cell, {}).get(metric, math.nan)
            several = isinstance(value, list)
            values.append(True if several else value)
            samples.append(value if several else None)
            numbers.append(1 if several else None)
        outcome = BenchmarkResult(values, samples, numbers, 0, "", None)
        result.add_result(known[benchmark], outcome, started_at=started)
    result.save(str(results))
    path = results / result._filename
    about_cells = {
        notes.key(BENCHMARKS["tokens/s"], cell): {
            "device": device,
            "weights": "random",
            "versions": {"torch": "2.13.0"},
            "proteins": 5,
            "residues": 1050,
            "settled": True,
        }
        for cell in cells
    }
    notes.notes_path(path).write_text(json.dumps(about_cells))
    return path


def cells(model: str, workload: str, speeds: dict[str, float], errors: dict[str, float]) -> Cells:
    """A model and workload whose precisions have these tokens/s and these largest errors over distance."""
    size = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
    found: Cells = {}
    for precision, speed in speeds.items():
        found[model, precision, workload] = {
            "tokens/s": [speed * (1 + 0.01 * n) for n in range(-3, 4)],
            "sequences/s": speed / 212,
            "total runtime": 1060 / speed,
            "peak memory": size[precision] * 700 * 2.0**20,
        }
        if precision != "fp32" and "fp32" in speeds:
            found[model, precision, workload] |= {
                "speed-up, same process": speed / speeds["fp32"],
                "memory saving, alone": 4 / size[precision],
            }
        if precision in errors:
            found[model, precision, workload] |= {FIDELITY: errors[precision], "min cosine to FP32": 0.99991}
    return found
