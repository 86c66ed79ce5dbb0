"""A run that is killed at any of its calls to the system: what it left is whole, or is continued."""

import os
import shutil

import pytest

from tests.conftest import EXHAUSTIVE
from tests.store.faulty_disk import FaultyDisk
from tests.store.test_proofs import Made, content, model, quick, rows_of, run  # noqa: F401 - fixtures: nothing is computed
from virnucpro.pipeline import embed as embed_module
from virnucpro.pipeline import prefetch
from virnucpro.pipeline.resuming import Stopped
from virnucpro.store.formats import format_of
from virnucpro.store.merge import merge
from virnucpro.store.place import folder_of

KILLED = 9


class KillingDisk(FaultyDisk):
    """Ends the process, as SIGKILL does, at the call of this number; before it, or with `after` after it."""

    after = False

    def call(self, name, *args, **keywords):
        counts = self.ours(args[0]) and not (name == "open" and not args[1] & os.O_CREAT)
        self.calls[name] += counts
        if counts and self.calls.total() == self.failing and not self.after:
            os._exit(KILLED)
        try:
            return self.real[name](*args, **keywords)
        finally:
            if counts and self.calls.total() == self.failing:
                os._exit(KILLED)


def killed(root, failing, after, work):
    """Do `work` in a process that is killed at a call; False where it came to its end before."""
    child = os.fork()
    if not child:
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                KillingDisk(patch, root, failing).after = after
                work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):  # noqa: F811
    return Made(tmp_path_factory.mktemp("kills") / "mean", model, "mean")


@pytest.fixture(autouse=True)
def many_commits(monkeypatch):
    monkeypatch.setattr(prefetch, "COMMIT_SECONDS", 0.0)


def points(step, first=1):
    """The calls at which a run is killed: before and after each."""
    return ((number, after) for number in range(first, 10_000, step) for after in (False, True))


STEPS = [pytest.param(37, id="some"), pytest.param(1, id="all", marks=pytest.mark.exhaustive)]


OLDER = [
    *(pytest.param(each, marks=[EXHAUSTIVE, pytest.mark.hours]) for each in ("no output", "a shorter output")),
    *("an output", "an unfinished run"),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("older", OLDER)
def test_a_run_that_is_killed_anywhere_is_continued_to_the_same_bytes(made, tmp_path, step, older):
    expected, shorter = content(made.whole), content(made.shorter)
    folder = tmp_path / "work"
    output = folder / "out.h5"
    how = {"force": True} if older == "an output" else {"resume": True}
    for failing, after in points(step):
        folder.mkdir()
        if older == "an unfinished run":
            shutil.copytree(made.partial, folder_of(output))
        elif older != "no output":
            shutil.copy(made.shorter, output)
        ended = not killed(folder, failing, after, lambda: run(made.fasta, output, made.model, "mean", **how))
        assert not output.exists() or content(output) in (expected, shorter)
        assert output.exists() or "output" not in older or older == "no output"
        run(made.fasta, output, made.model, "mean", resume=True)
        assert content(output) == expected, (failing, after)
        assert [path.name for path in folder.iterdir()] == ["out.h5"], (failing, after)
        shutil.rmtree(folder)
        if ended:
            break
    assert failing > 25
    print(older, "killed at", failing, "calls")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["out.h5", "out.parquet"])
def test_a_merge_that_is_killed_anywhere_is_made_again(made, tmp_path, step, name):
    if name == "out.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    folder = tmp_path / "work"
    output, format = folder / name, format_of(tmp_path / name)
    for failing, after in points(step):
        folder.mkdir()
        ended = not killed(folder, failing, after, lambda: merge(output, made.parts, format))
        assert ended or not output.exists() or rows_of(output) == made.rows
        merge(output, made.parts, format, force=True)
        assert rows_of(output) == made.rows
        assert [path.name for path in folder.iterdir()] == [name]
        shutil.rmtree(folder)
        if ended:
            break
    print(name, "killed at", failing, "calls")


@pytest.mark.parametrize("name", ["journal", "names", "rows"])
def test_a_worker_that_lives_on_after_its_run_ended_harms_nothing(made, tmp_path, name):
    """It has its files open, and one of them may be the output by now."""
    output = tmp_path / "out.h5"

    def stop(*_):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(embed_module, "write_output", stop)
        run(made.fasta, output, made.model, "mean")
    opened = [path.open("ab") for path in folder_of(output).glob(f"segments/*/*/{name}")]
    run(made.fasta, output, made.model, "mean", resume=True)
    assert (name == "rows") == any(os.path.samestat(os.fstat(file.fileno()), output.stat()) for file in opened)
    for file in opened:
        file.write(b"\n12345678 more" * 100)
        file.close()
    assert content(output) == content(made.whole) and rows_of(output) == made.rows
    assert opened
