"""`make ab` with the real asv, on a repository whose commits carry their numbers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[3]
BENCHMARKS = """
import os
import random
import time
import numbers_of_this_commit as it

def noisy(value):
    return value * random.gauss(1, 0.005)

def track_speed(model):
    if it.speed == 0:
        raise ValueError("broken")
    return noisy(it.speed)

track_speed.params = ["a", "b"]
track_speed.higher_is_better = True
track_speed.compare_factor = 1.05

def track_memory():
    return noisy(it.memory)

track_memory.compare_factor = 1.05

def track_greedy():
    os.mkdir("/PROJECT/room-for-one")
    try:
        time.sleep(0.5)
        return noisy(it.memory)
    finally:
        os.rmdir("/PROJECT/room-for-one")

track_greedy.takes_turns = True
"""
INSTALL = "import shutil, site; shutil.copy('numbers_of_this_commit.py', site.getsitepackages()[0])"
CONF = {
    "version": 1,
    "project": "toy",
    "repo": ".",
    "branches": ["HEAD"],
    "environment_type": "virtualenv",
    "build_command": [],
    "install_command": [f'in-dir={{build_dir}} python -c "{INSTALL}"'],
    "uninstall_command": [],
    "env_dir": ".asv/env",
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Commits `base`, `slower` (and smaller), `broken`; an uncommitted change that is slower still."""
    project = tmp_path_factory.mktemp("ab")
    (project / "benchmarks").mkdir()
    (project / "benchmarks/__init__.py").write_text(BENCHMARKS.replace("/PROJECT", str(project)))
    (project / "asv.conf.json").write_text(json.dumps(CONF))
    (project / ".gitignore").write_text("*\n!numbers_of_this_commit.py\n")
    who = {f"GIT_{role}_{what}": "t@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = os.environ | who | {"HOME": str(project), "PYTHONPATH": str(ROOT), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=project, env=env, check=True, capture_output=True, text=True
        ).stdout

    def numbers(speed: int, memory: int) -> None:
        (project / "numbers_of_this_commit.py").write_text(f"speed, memory = {speed}, {memory}\n")

    git("init", "-qb", "main")
    for name, speed, memory in (("base", 1000, 1000), ("slower", 800, 800), ("broken", 0, 1000)):
        numbers(speed, memory)
        git("add", "-A")
        git("commit", "-qm", name)
        git("tag", name)
    subprocess.run(
        [sys.executable, "-m", "asv", "machine", "--yes"], cwd=project, env=env, check=True, capture_output=True
    )

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "asv_plugin.compare", *arguments]

    def ab(*arguments: str) -> SimpleNamespace:
        found = project / "found.json"
        found.unlink(missing_ok=True)
        done = subprocess.run(
            command(*arguments, "--json", str(found)),
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            timeout=200,
        )
        cells = {each["cell"]: each for each in json.loads(found.read_text())} if found.exists() else {}
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, cells=cells)

    return SimpleNamespace(ab=ab, command=command, project=project, env=env, numbers=numbers, git=git)


def test_a_slower_commit_is_worse_and_a_smaller_one_better(toy):
    done = toy.ab("base", "slower", "--rounds", "3", "--bench", "speed|memory")
    assert done.code == 1, done.err
    assert done.cells["track_speed(a)"]["verdict"] == done.cells["track_speed(b)"]["verdict"] == "worse"
    assert done.cells["track_memory"]["verdict"] == "better"
    assert done.cells["track_speed(a)"]["ratio"] == pytest.approx(0.8, rel=0.03)
    assert done.out.splitlines()[2].startswith("worse")
    assert "round 3 of 3" in done.err
    assert "min left" in done.err
    assert not (toy.project / "results").exists()


def test_a_factor_of_the_command_line_says_what_a_change_is(toy):
    done = toy.ab("base", "slower", "--rounds", "2", "--bench", "speed", "--factor", "1.5")
    assert done.code == 0, done.err
    assert {each["verdict"] for each in done.cells.values()} == {"no change"}
    assert "a change is a factor of 1.5" in done.out
    assert toy.ab("base", "slower", "--factor", "0.9").code == 2


def test_uncommitted_changes_can_be_the_head_and_stay_uncommitted(toy):
    toy.numbers(1300, 1000)
    try:
        done = toy.ab("base", "worktree", "--rounds", "2", "--bench", "track_speed")
        assert done.cells["track_speed(a)"]["ratio"] == pytest.approx(1.3, rel=0.03)
        assert set(done.cells) == {"track_speed(a)", "track_speed(b)"}
        assert toy.git("stash", "list") == ""
        assert "1300" in (toy.project / "numbers_of_this_commit.py").read_text()
    finally:
        toy.git("checkout", "-q", "--", ".")


def test_a_cell_that_fails_is_not_measured_and_the_others_are_judged(toy):
    done = toy.ab("base", "broken", "--rounds", "2", "--bench", "speed|memory")
    assert done.code == 0
    assert "- HEAD: ValueError: broken (track_speed(a); track_speed(b))" in done.out
    assert done.cells["track_speed(a)"]["verdict"] == "not measured"
    assert done.cells["track_memory"]["verdict"] == "no change"


def test_processes_that_cannot_live_at_once_are_measured_one_after_the_other(toy):
    done = toy.ab("base", "slower", "--rounds", "2", "--bench", "track_greedy")
    assert done.cells["track_greedy"]["verdict"] == "better"
    assert done.err.count("track_greedy failed where BASE and HEAD ran at the same time") == 1


def test_ctrl_c_prints_what_the_complete_rounds_say(toy):
    running = subprocess.Popen(
        toy.command("base", "slower", "--rounds", "50", "--bench", "track_speed"),
        cwd=toy.project,
        env=toy.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell starts what runs in its background with SIGINT ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in running.stderr:
        if line.startswith("round 4 of"):
            break
    time.sleep(0.5)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "interrupted" in err
    assert "track_speed(a)" in out
    assert "2 worse" in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("base", "nonsense"), "git knows no commit 'nonsense'"),
        (("base", "worktree"), "there are no uncommitted changes of tracked files"),
        (("base", "slower", "--rounds", "1"), "an interval needs at least 2"),
    ],
)
def test_what_cannot_be_compared_is_said_at_once(toy, arguments, said):
    done = toy.ab(*arguments)
    assert done.code != 0
    assert said in done.err
