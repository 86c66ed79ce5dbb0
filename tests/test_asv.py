"""The suite in the real asv: a temporary git repository whose commits work, are killed, lack the API, or fail."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from asv_plugin import notes
from asv_plugin.answer import records
from tests.asv_project import drop_in
from tests.limits import PATIENCE

ROOT = Path(__file__).parent.parent
MODEL = "esm2_t6_8M_UR50D"
CELLS = r"Throughput.*8M.*(fp32|tf32).*mixed"
ALL_CELLS = r"(Throughput.*8M.*(fp32|tf32|bf16)|Precision.*8M.*bf16).*mixed"
METRICS = [name for metric, name in records.THROUGHPUT.items() if metric != records.ENERGY]
ENERGY = records.THROUGHPUT[records.ENERGY]
SPEEDUP, SAVING, ERROR, COSINE = records.AGAINST_FP32.values()

KILL = """
def load_esm2_model(*args, _load=load_esm2_model, **kw):
    import os
    if kw.get("precision") == "bf16":
        with open({count!r}, "a") as file:
            file.write("loaded\\n")
        os.kill(os.getpid(), 9)
    return _load(*args, **kw)
load_esm2_model.__signature__ = __import__("inspect").signature(load_esm2_model.__kwdefaults__["_load"])
"""

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def asv(tmp_path_factory):
    """A repository, and what `asv run` over a commit left."""
    return ran(tmp_path_factory.mktemp("asv"), CELLS, ("good",))


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The same of commits that lack the API, do not build, are killed or work, with a second precision."""
    return ran(tmp_path_factory.mktemp("asv"), ALL_CELLS, ("no api", "no build", "killed", "good"))


def ran(folder, cells, names):
    """A repository with these commits, and what `asv run` left of the cells."""
    project = folder / "project"
    drop_in(project)
    shutil.copytree(ROOT / "virnucpro", project / "virnucpro", ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, project)
    (project / ".gitignore").write_text(".asv\nresults\nhtml\n__pycache__\nbuild\n*.egg-info\n")

    env = os.environ | {"HOME": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env.pop("VIRNUCPRO_BENCH_FASTA", None)

    def run(*command: str, code: int | None = 0) -> str:
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(name: str) -> str:
        run("git", "add", "-A")
        run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", name)
        return run("git", "rev-parse", "HEAD").strip()

    loader, counts = project / "virnucpro/models/esm2_flash.py", folder / "loads"
    good, built_by = loader.read_text(), (project / "pyproject.toml").read_text()
    changes = {
        "no api": lambda: loader.unlink(),
        "no build": lambda: (project / "pyproject.toml").write_text(
            built_by.replace('name = "virnucpro"', 'name = "not a name!"')
        ),
        "killed": lambda: loader.write_text(good + KILL.format(count=str(counts))),
        "good": lambda: None,
    }
    run("git", "init", "-qb", "main")
    commits = {"before": commit("before")}
    for name in names:
        changes[name]()
        (project / "name").write_text(name)  # so that no commit is empty
        commits[name] = commit(name)
        loader.write_text(good)
        (project / "pyproject.toml").write_text(built_by)
    run(sys.executable, "-m", "asv_plugin.machine", "--name", "here")
    command = [
        sys.executable,
        "-m",
        "asv",
        "run",
        "--machine",
        "here",
        "--bench",
        cells,
        f"main~{len(names)}..main",
    ]
    said = run(*command, code=0 if names == ("good",) else 2)

    def values(name: str, metric: str) -> dict[str, float | None]:
        (path,) = (project / "results/here").glob(f"{commits[name][:8]}-*.json")
        found = json.loads(path.read_text())
        entry = dict(zip(found["result_columns"], found["results"][metric], strict=False))
        cells = notes.product(entry["params"])
        every = entry["result"] or [None] * math.prod(map(len, entry["params"]))
        return {cell[1]: value for cell, value in zip(cells, every, strict=True) if cell[::2] == (MODEL, "mixed")}

    def noted(name: str) -> notes.Notes:
        (path,) = (project / "results/here").glob(f"{commits[name][:8]}-*.notes")
        return notes.read(path)

    return SimpleNamespace(
        run=run, said=said, project=project, commits=commits, values=values, noted=noted, counts=counts
    )


@pytest.mark.parametrize("metric", METRICS)
def test_a_good_commit_has_every_metric_of_every_cell(asv, metric):
    found = asv.values("good", metric)
    assert found["fp32"] > 0
    assert math.isnan(found["tf32"]) or found["tf32"] > 0


def test_the_metrics_of_a_cell_describe_one_measurement(asv):
    tokens, sequences, seconds = (asv.values("good", metric)["fp32"] for metric in METRICS[:3])
    assert tokens / sequences == pytest.approx(212, rel=1e-4)
    assert sequences * seconds == pytest.approx(5, rel=0.05)  # medians of rates and of times


@pytest.mark.hours
def test_a_precision_is_compared_with_fp32(more):
    assert 0.05 < more.values("good", SPEEDUP)["bf16"] < 20
    assert 0.7 < more.values("good", SAVING)["bf16"] < 2.5  # on a CPU, Python and PyTorch weigh most
    assert 0 < more.values("good", ERROR)["bf16"] < 0.05
    assert 0.9999 < more.values("good", COSINE)["bf16"] < 1


@pytest.mark.hours
def test_fidelity_with_a_massive_channel_is_in_the_record(more):
    (record,) = (
        each for each in records.records(more.project / "results", "here") if each.commit == more.commits["good"]
    )
    assert 0.05 < record.value(records.MASSIVE, MODEL, "bf16", "mixed").median < 0.5


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU, whose energy is measured")
def test_a_cpus_energy_is_not_available_for_a_reason(asv):
    assert all(math.isnan(value) for value in asv.values("good", ENERGY).values())
    said = asv.noted("good")[notes.key(ENERGY, (MODEL, "fp32", "mixed"))]["skipped"]
    assert said == "energy is measured on NVIDIA GPUs"


@pytest.mark.hours
def test_a_killed_cell_is_paid_for_once_and_leaves_the_others_alone(more):
    # once for Throughput, and once for Precision in the process forked to measure its memory
    assert more.counts.read_text().splitlines() == ["loaded"] * 2
    for metric in METRICS:
        found = more.values("killed", metric)
        assert found["bf16"] is None
        assert found["fp32"] > 0
    said = more.noted("killed")[notes.key(min(METRICS), (MODEL, "bf16", "mixed"))]["failed"]
    assert "killed, or out of memory?" in said


@pytest.mark.hours
def test_a_commit_without_the_api_fails_with_the_reason(more):
    for metric in METRICS:
        assert more.values("no api", metric)["fp32"] is None
    said = more.noted("no api")[notes.key(METRICS[0], (MODEL, "fp32", "mixed"))]["failed"]
    assert "this commit's virnucpro has no load_esm2_model; it was looked for in " in said


@pytest.mark.hours
def test_a_commit_that_does_not_build_fails_and_the_others_still_run(more):
    for metric in METRICS:
        assert set(more.values("no build", metric).values()) == {None}
    assert more.noted("no build")[METRICS[0]] == {"failed": "this commit could not be built or installed"}


def test_notes_say_what_was_measured_how(asv):
    measured = asv.noted("good")[notes.key(min(METRICS), (MODEL, "fp32", "mixed"))]
    assert measured["weights"] == "random"
    assert (measured["proteins"], measured["residues"]) == (5, 1050)
    assert {"torch", "fair-esm", "python"} <= set(measured["versions"])


def test_directions_and_units_reach_asvs_record(asv):
    known = json.loads((asv.project / "results/benchmarks.json").read_text())
    ours = [*METRICS, ENERGY, *records.AGAINST_FP32.values()]
    better = {name for name in ours if known[name].get("higher_is_better")}
    assert better == {METRICS[0], METRICS[1], SPEEDUP, SAVING, COSINE}
    assert [known[metric]["unit"] for metric in METRICS] == ["tokens/s", "sequences/s", "seconds", "bytes"]
    assert [known[metric]["compare_factor"] for metric in METRICS] == [1.05, 1.05, 1.05, 1.02]
    assert known[COSINE]["compare_difference"] == 0.0005
    assert known[ERROR]["compare_difference"] == 0.005
    assert known[ENERGY]["unit"] == "J per 1,000 tokens"
    assert [known[metric]["version"] for metric in METRICS] == ["1", "1", "1", "2"]
    judged_as = [known[metric].get("judged_as") for metric in METRICS]
    assert judged_as == [None, "track_tokens_per_second", "track_tokens_per_second", None]


@pytest.mark.hours
def test_compare_prints_a_row_for_every_measured_cell(more):
    said = more.run(sys.executable, "-m", "asv", "compare", more.commits["killed"], more.commits["good"])
    for metric in METRICS:
        for precision in ("fp32", "bf16"):
            assert f"{metric}('{MODEL}', '{precision}', 'mixed')" in said


def test_publish_writes_the_dashboard_with_the_commits(asv):
    asv.run(sys.executable, "-m", "asv", "publish")
    index = json.loads((asv.project / "html/index.json").read_text())
    published = set(index["revision_to_hash"].values())
    assert published == {asv.commits["good"]}
    assert (asv.project / "html/index.html").exists()


def test_show_works(asv):
    assert asv.commits["good"][:8] in asv.run(sys.executable, "-m", "asv", "show", "--machine", "here")


def test_check_works(asv):
    assert "No problems found" in asv.run(sys.executable, "-m", "asv", "check")


def test_the_table_shows_values(asv):
    good = asv.run(sys.executable, "-m", "asv_plugin.answer", "--all", "--commit", asv.commits["good"])
    assert re.search(rf"{MODEL}, mixed \(proteins: 5, residues: 1,050, blocks timed: [3-7]\)", good)
    assert "FAILED" not in good


@pytest.mark.hours
def test_the_table_names_a_killed_cell_and_has_improvements(more):
    table = [sys.executable, "-m", "asv_plugin.answer", "--all", "--commit"]
    assert re.search(r"^BF16 .*\dx", more.run(*table, more.commits["good"]), re.MULTILINE)
    killed = more.run(*table, more.commits["killed"])
    assert "FAILED:\n" in killed
    assert "exited without output (killed, or out of memory?)" in killed
    nothing = more.run(*table, more.commits["no build"], code=1)
    assert "this commit could not be built or installed" in nothing
    assert "has a value" in nothing


def test_the_recorded_machine_has_its_cpu_and_memory(asv):
    machine = json.loads((asv.project / "results/here/machine.json").read_text())
    assert {"cpu", "ram", "os", "num_cpu", "arch"} <= set(machine)
    assert machine["machine"] == "here"


def test_a_run_on_other_hardware_than_the_record_is_stopped(asv):
    path = asv.project / "results/here/machine.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"num_cpu": "999"}))
    try:
        said = asv.run(sys.executable, "-m", "asv", "run", "--machine", "here", "main^!", code=1)
        assert "number of CPUs '999', here" in said
        assert "make bench MACHINE=name" in said
    finally:
        path.write_text(before)
