"""`make ab` with the real asv, on a repository whose commits carry their numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import sample_of
from tests.limits import PATIENCE

ROOT = Path(__file__).parents[3]
BENCHMARKS = """
import math
import os
import time
from pathlib import Path

import numbers_of_this_commit as it


def again(what):
    # how often this was asked at this commit before
    path = Path("/PROJECT/counts", f"{what}-{it.name}")
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(".")
        return file.tell() - 1


def fail():
    if it.broken:
        raise ValueError("broken")


def track_speed(model):
    return it.speed

track_speed.params = ["a", "b"]
track_speed.higher_is_better = True
track_speed.compare_factor = 1.05


def track_memory():
    return it.memory

track_memory.compare_factor = 1.05


def track_noisy():
    return 1000 * math.exp(0.06 * (-1) ** again("noisy")) if it.name == "same" else 1000

track_noisy.compare_factor = 1.05
track_noisy.takes_turns = True


def track_greedy():
    os.mkdir("/PROJECT/room-for-one")
    try:
        time.sleep(0.2)
        return it.memory
    finally:
        os.rmdir("/PROJECT/room-for-one")

track_greedy.takes_turns = True


def track_raises():
    fail()
    return 1


def track_raises_in_half():
    if again("half") % 2:
        fail()
    return 1


def track_raises_in_half_of_its_turns():
    if again("turns") % 2:
        fail()
    return 1

track_raises_in_half_of_its_turns.takes_turns = True


def track_killed():
    if it.broken:
        os.kill(os.getpid(), 9)
    return 1


def track_not_a_number():
    return math.nan if it.broken else 1


def track_where():
    import sys
    with open("/PROJECT/where", "a") as file:
        file.write(f"{it.broken} {sys.prefix}\\n")
    return 1


class Skips:
    def setup(self):
        if it.broken:
            raise NotImplementedError("not here")

    def track_it(self):
        return 1


class BothSkip:
    def setup(self):
        raise NotImplementedError("not on this machine")

    def track_it(self):
        return 1


class Prepared:
    def setup_cache(self):
        fail()
        return "something"

    def track_it(self, something):
        return 1


def track_both_raise():
    raise ValueError("always broken")


def track_new():
    if not it.broken:
        raise ValueError("not yet")
    return 1


def track_zero():
    return 0

track_zero.compare_difference = 0.5


def track_from_zero():
    return int(it.broken)

track_from_zero.compare_difference = 0.5


def track_embedding():
    import json
    folder = Path("outputs")
    for name, rows in it.rows.items():
        output = {"of": name} | ({"bound": 0.01, "rows": rows} if rows else {"failed": "ValueError: no rows"})
        (folder / f"{name}.json").write_text(json.dumps(output))
    return it.speed

track_embedding.higher_is_better = True
track_embedding.compare_factor = 1.05


class Measured:
    def track_tokens_per_second(self):
        return it.speed

    def track_runtime(self):
        return 1 / it.speed

    def track_sequences_per_second(self):
        fail()
        return it.speed

    track_tokens_per_second.higher_is_better = True
    track_tokens_per_second.compare_factor = 1.05
    track_sequences_per_second.judged_as = track_runtime.judged_as = "track_tokens_per_second"
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
    "launch_method": "forkserver",
}
pytestmark = pytest.mark.slow


def rows_of(name: str) -> dict[str, list[list[float]]]:
    """What a commit embeds in two precisions: three proteins, 1 apart; `wrong` moves one, in INT8 only."""
    fp32 = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    if name == "rounded":
        return {"m in FP32": [[x + 0.005 for x in row] for row in fp32], "m in INT8": fp32}
    int8 = {"wrong": [[0.0, 0.5], *fp32[1:]], "no-rows": []}.get(name, fp32)
    return {"m in FP32": fp32, "m in INT8": int8}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Commits to compare by `ab`.

    `base`, `same`, `slower` (and smaller), `wrong` (and faster), `rounded`, `no-rows`, `broken`, `no-import`,
    `no-build`.
    """
    project = tmp_path_factory.mktemp("ab")
    (project / "benchmarks").mkdir()
    (project / "benchmarks/__init__.py").write_text(BENCHMARKS.replace("/PROJECT", str(project)))
    (project / "asv.conf.json").write_text(json.dumps(CONF))
    (project / ".gitignore").write_text("*\n!numbers_of_this_commit.py\n")
    who = {f"GIT_{role}_{what}": "t@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = os.environ | who | {"HOME": str(project), "PYTHONPATH": str(ROOT), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Two commits' numbers may have one size and be installed within a second: bytecode would pass for the other's
    env["PYTHONDONTWRITEBYTECODE"] = "1"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=project, env=env, check=True, capture_output=True, text=True
        ).stdout

    def numbers(name: str, speed: int, memory: int) -> None:
        text = f"name, speed, memory, broken = {name!r}, {speed}, {memory}, {name == 'broken'}\n"
        text += f"rows = {rows_of(name)}\n"
        (project / "numbers_of_this_commit.py").write_text(text)

    def commit(name: str) -> None:
        git("add", "-A")
        git("commit", "--allow-empty", "-qm", name)
        git("tag", name)

    git("init", "-qb", "main")
    for name, speed, memory in (
        ("base", 1000, 1000),
        ("same", 1000, 1000),
        ("slower", 900, 800),
        ("wrong", 1300, 1000),
        ("rounded", 1000, 1000),
        ("no-rows", 1000, 1000),
        ("broken", 1000, 1000),
    ):
        numbers(name, speed, memory)
        commit(name)
    (project / "numbers_of_this_commit.py").write_text("raise ImportError('gone')\n")
    commit("no-import")
    (project / "numbers_of_this_commit.py").rename(project / "elsewhere.py")
    commit("no-build")
    git("checkout", "-q", "broken")
    subprocess.run(
        [sys.executable, "-m", "asv", "machine", "--yes"], cwd=project, env=env, check=True, capture_output=True
    )

    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "asv_plugin.compare", *arguments]

    def ab(*arguments: str) -> SimpleNamespace:
        found = project / "found.json"
        found.unlink(missing_ok=True)
        shutil.rmtree(project / "counts", ignore_errors=True)
        done = subprocess.run(
            command(*arguments, "--json", str(found)),
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        said = json.loads(found.read_text()) if found.exists() else {"comparisons": []}
        cells = {each["cell"]: each for each in said["comparisons"]}
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, cells=cells, json=said)

    return SimpleNamespace(ab=ab, command=command, project=project, env=env, numbers=numbers, git=git)


FEW = "track_(raises|not_a_number|both_raise|new|from_zero)$|BothSkip"


@pytest.fixture(scope="module", params=sample_of([FEW, "^(?!.*(noisy|greedy))"], FEW), ids=["few", "all"])
def broken(toy, request):
    """A comparison of `base` with `broken`, in a few benchmarks, or in all but what is noisy or greedy."""
    return toy.ab("base", "broken", "--rounds", "2", "--bench", request.param)


@pytest.mark.parametrize(
    "cell, verdict, reason",
    [
        ("track_raises", "failed", "HEAD: ValueError: broken, in 2 of 2 pairs"),
        ("track_killed", "failed", "HEAD: its process exited without output (killed, or out of memory?)"),
        ("track_not_a_number", "failed", "HEAD: it gave no finite number"),
        ("Skips.track_it", "failed", "HEAD: not here"),
        ("Prepared.track_it", "failed", "HEAD: ValueError: broken"),
        ("track_both_raise", "failed", "ValueError: always broken"),
        ("track_raises_in_half_of_its_turns", "failed", "HEAD: ValueError: broken"),
        ("BothSkip.track_it", "not measured", "not on this machine"),
        ("track_new", "new", "BASE: ValueError: not yet"),
        ("track_zero", "unchanged", ""),
        ("track_from_zero", "worse", ""),
        ("track_speed(a)", "unchanged", ""),
        ("Measured.track_sequences_per_second", "failed", "HEAD: ValueError: broken"),
        ("Measured.track_runtime", "unchanged", ""),
    ],
)
def test_each_cell_of_a_broken_commit_gets_its_word_and_its_reason(broken, cell, verdict, reason):
    if cell not in broken.cells and len(broken.cells) < 10:
        pytest.skip("in the comparison of all benchmarks only")
    assert broken.cells[cell]["verdict"] == verdict
    assert broken.cells[cell]["reason"].startswith(reason)
    assert bool(broken.cells[cell]["reason"]) == bool(reason)
    if verdict != "not measured":
        assert any(line.strip("(").startswith(verdict) for line in lines_of(broken.out, cell))


def lines_of(table: str, cell: str) -> list[str]:
    """The lines of a table that are about a cell."""
    return [line for line in table.splitlines() if line.endswith(f"  {cell}")]


def test_what_failed_wins_over_what_is_worse_and_the_reasons_are_listed(broken):
    assert broken.code == broken.json["exit_code"] == 11
    assert broken.out.splitlines()[-1] == "exit code 11: failed, or HEAD does not build"
    assert "Failed:\n- " in broken.out
    assert "- not on this machine (BothSkip.track_it)" in broken.out
    assert "- BASE: ValueError: not yet (track_new)" in broken.out


def test_a_difference_from_zero_has_an_estimate(broken):
    found = broken.cells["track_from_zero"]
    assert (found["scale"], found["estimate"], found["low"], found["high"]) == ("difference", 1, 1, 1)
    assert "+1" in lines_of(broken.out, "track_from_zero")[0]


@pytest.mark.exhaustive
def test_head_that_cannot_be_imported_has_failed_in_every_cell(toy):
    done = toy.ab("base", "no-import", "--rounds", "2", "--bench", "track_speed")
    assert done.code == 11
    assert {each["verdict"] for each in done.cells.values()} == {"failed"}
    assert {each["reason"] for each in done.cells.values()} == {"HEAD: ImportError: gone, in 2 of 2 pairs"}
    assert {each["base"] for each in done.cells.values()} == {1000}


@pytest.mark.exhaustive
def test_head_that_raises_in_half_of_its_pairs_has_failed(toy):
    done = toy.ab("base", "broken", "--rounds", "4", "--bench", "track_raises_in_half$")
    assert (done.code, done.cells["track_raises_in_half"]["verdict"]) == (11, "failed")
    assert ", in 2 of 4 pairs" in done.cells["track_raises_in_half"]["reason"]


@pytest.mark.parametrize(
    "base, head, options, code, words",
    [
        ("base", "slower", ["--bench", "track_speed"], 10, "worse"),
        pytest.param(
            *("base", "same", ["--bench", "track_speed"], 0, "nothing is worse and nothing failed"),
            marks=pytest.mark.exhaustive,
        ),
        pytest.param(
            *("base", "same", ["--bench", "track_noisy"], 0, "nothing is worse and nothing failed"),
            marks=pytest.mark.exhaustive,
        ),
        ("base", "wrong", ["--bench", "track_embedding"], 15, "changed embeddings"),
        ("base", "wrong", ["--bench", "track_embedding", "--allow-changed"], 0, "nothing is worse"),
        ("base", "rounded", ["--bench", "track_embedding"], 0, "nothing is worse and nothing failed"),
        ("base", "no-rows", ["--bench", "track_embedding"], 11, "failed, or HEAD does not build"),
        ("base", "broken", ["--bench", "BothSkip"], 13, "nothing could be judged"),
        ("base", "no-build", ["--bench", "track_speed"], 11, "failed, or HEAD does not build"),
        ("no-build", "base", ["--bench", "track_speed"], 12, "BASE does not build"),
        ("base", "same", ["--bench", "no such cell"], 2, "wrong use"),
    ],
)
def test_the_exit_code_says_what_was_found(toy, base, head, options, code, words):
    done = toy.ab(base, head, "--rounds", "2", *options)
    assert done.code == code, done.err
    assert done.out.splitlines()[-1].startswith(f"exit code {code}: {words}")


def test_changed_embeddings_are_named_by_model_and_precision_though_the_commit_is_better(toy):
    done = toy.ab("base", "wrong", "--rounds", "2", "--bench", "track_embedding")
    assert done.cells["track_embedding"]["verdict"] == "better"
    changed = done.cells["embeddings of m in INT8"]
    assert (changed["verdict"], changed["estimate"]) == ("changed embeddings", 0.5)
    assert lines_of(done.out, "embeddings of m in INT8")[0].split() == [
        *("changed", "embeddings", "+0.5", "n/a", "n/a", "n/a", "1", "embeddings", "of", "m", "in", "INT8")
    ]
    assert "- moved by 0.5 of the distance between proteins; rounding explains 0.01 (embeddings of m in INT8)" in (
        done.out
    )
    assert "- m in FP32: moved by 0 of the distance" in done.out
    assert "0 failed, 1 changed embeddings, 0 worse, 0 inconclusive, 1 better" in done.out
    assert done.json["embeddings"] == [
        {"of": "m in FP32", "moved": 0.0, "bound": 0.01},
        {"of": "m in INT8", "moved": 0.5, "bound": 0.01},
    ]


def test_embeddings_that_only_head_lacks_have_failed(toy):
    done = toy.ab("base", "no-rows", "--rounds", "2", "--bench", "track_embedding")
    assert done.cells["embeddings of m in INT8"]["verdict"] == "failed"
    assert done.cells["embeddings of m in INT8"]["reason"].startswith("HEAD: ValueError: no rows")


@pytest.mark.exhaustive
def test_what_is_inconclusive_says_how_many_more_rounds_would_probably_decide_and_fails_if_strict(toy):
    noisy = ("base", "same", "--bench", "track_noisy", "--strict")
    done = toy.ab(*noisy, "--rounds", "2")
    more = done.cells["track_noisy"]["more_rounds"]
    assert (done.code, done.cells["track_noisy"]["verdict"]) == (14, "inconclusive")
    assert f"- track_noisy: about {more} more round" in done.out
    assert done.out.splitlines()[-1] == "exit code 14: inconclusive"
    done = toy.ab(*noisy, "--rounds", str(2 + more))
    assert (done.code, done.cells["track_noisy"]["verdict"]) == (0, "unchanged")


@pytest.mark.exhaustive
def test_the_views_of_one_measurement_are_counted_once(toy):
    done = toy.ab("base", "slower", "--rounds", "2", "--bench", "Measured")
    judge = "Measured.track_tokens_per_second"
    assert {cell: each["judged_as"] for cell, each in done.cells.items()} == {
        judge: None,
        "Measured.track_runtime": judge,
        "Measured.track_sequences_per_second": judge,
    }
    assert {each["verdict"] for each in done.cells.values()} == {"worse"}
    assert done.cells["Measured.track_runtime"]["estimate"] == pytest.approx(1 / 0.9)
    assert "0 failed, 0 changed embeddings, 1 worse, 0 inconclusive" in done.out
    assert lines_of(done.out, "Measured.track_runtime")[0].startswith("(worse)")


@pytest.mark.exhaustive
def test_neither_environment_is_always_heads(toy):
    where = {"BASE": set(), "HEAD": set()}
    (toy.project / "where").unlink(missing_ok=True)
    toy.ab("base", "broken", "--rounds", "2", "--bench", "track_where")
    for line in (toy.project / "where").read_text().splitlines():
        commit, environment = line.split()
        where["HEAD" if commit == "True" else "BASE"].add(environment)
    assert where["BASE"] == where["HEAD"]
    assert len(where["HEAD"]) == 2


def test_a_slower_commit_is_worse_and_a_smaller_one_better(toy):
    done = toy.ab("base", "slower", "--rounds", "3", "--bench", "track_(speed|memory)")
    assert done.code == 10, done.err
    assert done.cells["track_speed(a)"]["verdict"] == done.cells["track_speed(b)"]["verdict"] == "worse"
    assert done.cells["track_memory"]["verdict"] == "better"
    assert done.cells["track_speed(a)"]["estimate"] == pytest.approx(0.9)
    assert done.out.splitlines()[2].startswith("worse")
    assert "round 3 of 3" in done.err
    assert "min left" in done.err
    assert not (toy.project / "results").exists()


@pytest.mark.exhaustive
def test_a_factor_of_the_command_line_says_what_a_change_is(toy):
    done = toy.ab("base", "slower", "--rounds", "2", "--bench", "track_speed", "--factor", "1.5")
    assert done.code == 0, done.err
    assert {each["verdict"] for each in done.cells.values()} == {"unchanged"}
    assert "a change is a factor of 1.5" in done.out
    assert toy.ab("base", "slower", "--factor", "0.9").code == 2


@pytest.mark.exhaustive
def test_uncommitted_changes_can_be_the_head_and_stay_uncommitted(toy):
    toy.numbers("worktree", 1300, 1000)
    try:
        done = toy.ab("base", "worktree", "--rounds", "2", "--bench", "track_speed")
        assert done.cells["track_speed(a)"]["estimate"] == pytest.approx(1.3)
        assert set(done.cells) == {"track_speed(a)", "track_speed(b)"}
        assert toy.git("stash", "list") == ""
        assert "1300" in (toy.project / "numbers_of_this_commit.py").read_text()
    finally:
        toy.git("checkout", "-q", "--", ".")


@pytest.mark.exhaustive
def test_processes_that_cannot_live_at_once_are_measured_one_after_the_other(toy):
    done = toy.ab("base", "slower", "--rounds", "2", "--bench", "track_greedy")
    assert done.cells["track_greedy"]["verdict"] == "better"
    assert done.err.count("track_greedy failed where BASE and HEAD ran at the same time") == 1


@pytest.mark.exhaustive
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
    out, err = running.communicate(timeout=PATIENCE)
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
    assert done.code == 2
    assert said in done.err
