"""Commits that ask for other packages, in the real asv: each has its own, whatever was installed before."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.limits import PATIENCE
from tests.wheels import write_wheel

ROOT = Path(__file__).parents[2]
BENCHMARKS = """
import importlib.util
import sys


def track_toy():
    import measured, toy
    extra = importlib.util.find_spec("extra") is not None
    with open("/PROJECT/seen", "a") as file:
        file.write(f"{measured.commit} {toy.version} {extra} {sys.prefix}\\n")
    return toy.version
"""
OURS = json.loads(re.sub(r"^ *//.*$", "", (ROOT / "asv.conf.json").read_text(), flags=re.MULTILINE))
CONF = {
    "version": 1,
    "project": "measured",
    "repo": ".",
    "branches": ["HEAD"],
    "environment_type": "virtualenv",
    "build_command": [f"python '{ROOT}/tests/wheels.py' {{build_cache_dir}} {{build_dir}}/wheel.json"],
    "install_command": [each.replace("{conf_dir}", str(ROOT)) for each in OURS["install_command"]],
    "env_dir": ".asv/env",
    "launch_method": "forkserver",
}
COMMITS = {
    "any": ["toy"],
    "same": ["toy", "nowhere; extra == 'test'"],
    "old": ["toy<2", "extra"],
    "impossible": ["toy>2"],
}

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Commits whose wheels require what `COMMITS` says, `ab` and `run` for them, and what the benchmark saw."""
    folder = tmp_path_factory.mktemp("install")
    project, wheels = folder / "a project", folder / "wheels"
    (project / "benchmarks").mkdir(parents=True)
    (project / "benchmarks/__init__.py").write_text(BENCHMARKS.replace("/PROJECT", str(project)))
    (project / "asv.conf.json").write_text(json.dumps(CONF))
    (project / ".gitignore").write_text("*\n!wheel.json\n")
    wheels.mkdir()
    for version in (1, 2):
        write_wheel(wheels, "toy", version, text=f"version = {version}\n")
    write_wheel(wheels, "extra", 1)
    env = os.environ | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    env["PIP_FIND_LINKS"] = f"{os.environ.get('PIP_FIND_LINKS', '')} {wheels}".strip()

    def run(*command, code=0):
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def git(*arguments):
        return run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments).stdout

    def without_index():
        env.update(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder / "nothing"))

    def measure(*command, code=0):
        seen = project / "seen"
        seen.unlink(missing_ok=True)
        done = run(sys.executable, "-m", *command, code=code)
        lines = seen.read_text().splitlines() if seen.exists() else []
        found = {tuple(line.split(maxsplit=3)) for line in lines}
        return SimpleNamespace(out=done.stdout, err=done.stderr, seen=found)

    def ab(base, head, **more):
        return measure("asv_plugin.compare", base, head, "--rounds", "2", "--json", "found.json", **more)

    git("init", "-qb", "main")
    for name, needs in COMMITS.items():
        wheel = {"name": "measured", "version": "1", "needs": needs, "text": f"commit = {name!r}\n"}
        (project / "wheel.json").write_text(json.dumps(wheel))
        git("add", "-A")
        git("commit", "-qm", name)
        git("tag", name)
    run(sys.executable, "-m", "asv", "machine", "--yes", "--machine", "here")
    return SimpleNamespace(
        ab=ab,
        asv_run=lambda name: measure("asv", "run", "--machine", "here", f"{name}^!"),
        path=project,
        without_index=without_index,
    )


@pytest.fixture(scope="module")
def compared(project):
    """A comparison with a commit that asks for an older package, and one more."""
    done = project.ab("any", "old")
    done.json = json.loads((project.path / "found.json").read_text())
    return done


def packages(done) -> set[tuple[str, ...]]:
    """What the benchmark saw at each commit, in whichever environment."""
    return {each[:3] for each in done.seen}


def test_each_commit_has_the_packages_that_it_asks_for_in_both_environments(compared):
    assert packages(compared) == {("any", "2", "False"), ("old", "1", "True")}
    assert len(compared.seen) == 4


def test_the_packages_of_both_sides_are_recorded_and_a_difference_is_said_before_the_first_round(compared):
    base, head = compared.json["packages"]["base"], compared.json["packages"]["head"]
    assert (base["toy"], head["toy"], head["extra"]) == ("2", "1", "1")
    assert "extra" not in base
    assert base["asv-runner"] == head["asv-runner"]
    said, _, _ = compared.err.partition("round 1 of 2")
    assert "packages differ: extra none (BASE) and 1 (HEAD); toy 2 (BASE) and 1 (HEAD)\n" in said


@pytest.mark.hours
@pytest.mark.usefixtures("compared")
def test_what_ran_before_leaves_nothing_and_no_index_is_needed_again(project):
    project.without_index()
    assert packages(project.asv_run("old")) == {("old", "1", "True")}
    done = project.ab("any", "same")
    assert packages(done) == {("any", "2", "False"), ("same", "2", "False")}
    assert "packages differ" not in done.err
    assert packages(project.asv_run("any")) == {("any", "2", "False")}


@pytest.mark.hours
@pytest.mark.usefixtures("compared")
def test_a_commit_that_asks_for_what_cannot_be_had_does_not_build_and_harms_no_other(project):
    project.without_index()
    done = project.ab("any", "impossible", code=11)
    assert "HEAD does not build" in done.err
    done = project.ab("old", "any", code=10)
    assert packages(done) == {("any", "2", "False"), ("old", "1", "True")}
    assert "the environments differ" not in done.err


@pytest.mark.hours
@pytest.mark.usefixtures("compared")
def test_environments_that_differ_with_one_commit_are_warned_of(project):
    project.without_index()
    (site,) = project.path.glob(".asv/env-head/*/lib/python*/site-packages")
    (site / "changed_by_hand-3.dist-info").mkdir()
    (site / "changed_by_hand-3.dist-info/METADATA").write_text("Name: changed_by.hand\nVersion: 3\n")
    said = "with one commit the environments differ: changed-by-hand none (env) and 3 (env-head)\n"
    assert said in project.ab("any", "same").err
