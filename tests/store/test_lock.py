"""The lock of an output: whatever two processes do at the same moment, one of them has it."""

import contextlib
import fcntl
import multiprocessing
import os

import numpy as np
import pytest

from tests.limits import PATIENCE
from virnucpro.store.disk import is_at
from virnucpro.store.errors import StoreError
from virnucpro.store.place import folder_of
from virnucpro.store.run import LOCK, OutputFolder, Run

CONTEXT = multiprocessing.get_context("fork")
RACES = 6
REAL_LOCK = fcntl.flock


def remove_and_lock(folder):
    """`fcntl.flock`, before which the lock's file is removed once, as who had the lock before does."""
    once = [True]

    def flock(descriptor, how):
        if once:
            once.clear()
            with contextlib.suppress(BlockingIOError):
                REAL_LOCK(descriptor, how)
                if is_at(folder / LOCK, descriptor):
                    (folder / LOCK).unlink()
                REAL_LOCK(descriptor, fcntl.LOCK_UN)
        return REAL_LOCK(descriptor, how)

    return flock


def start(output, barrier, answers, ended):
    """Lock `output`; tell whether that worked, and keep it until all have told."""
    fcntl.flock = remove_and_lock(folder_of(output))
    barrier.wait()
    try:
        with Run(output, resume=True):
            answers.put("has it")
            ended.wait(60)
    except StoreError as error:
        answers.put(str(error))
    except BaseException as error:
        answers.put(repr(error))


def race(output):
    """What two processes say that start on `output` at the same moment."""
    barrier, answers, ended = CONTEXT.Barrier(2), CONTEXT.Queue(), CONTEXT.Event()
    both = [CONTEXT.Process(target=start, args=(output, barrier, answers, ended)) for _ in range(2)]
    for process in both:
        process.start()
    said = sorted(answers.get(timeout=PATIENCE) for _ in both)
    ended.set()
    for process in both:
        process.join(60)
    return said


@pytest.mark.parametrize("race_number", range(RACES))
def test_of_two_processes_one_wins_though_the_lock_is_removed(tmp_path, race_number):
    said = race(tmp_path / "out.h5")
    assert said == [f"another process is writing {tmp_path}/out.h5: wait for it, or name another file", "has it"]
    assert list(tmp_path.iterdir()) == []


def test_who_finds_its_lock_removed_does_not_remove_that_of_another(tmp_path, monkeypatch):
    """The first one makes the folder, and another process has it before the first one has locked it."""
    output, others = tmp_path / "out.h5", []

    def flock(descriptor, how):
        if not others:
            others.append(None)
            (folder_of(output) / LOCK).unlink()
            others.append(OutputFolder(output))
        return REAL_LOCK(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match="another process is writing"):
        OutputFolder(output)
    with others[1], pytest.raises(StoreError, match="another process is writing"):
        OutputFolder(output)
    assert not folder_of(output).exists()


def test_a_folder_that_another_process_locked_meanwhile_is_not_removed(tmp_path, monkeypatch):
    output, others = tmp_path / "out.h5", []
    real = os.open

    def no_file_left(path, *more):
        if os.fspath(path).endswith(LOCK) and not others:
            others.append(None)
            others.append(OutputFolder(output))
            raise OSError(24, "Too many open files")
        return real(path, *more)

    monkeypatch.setattr(os, "open", no_file_left)
    with pytest.raises(StoreError, match="Too many open files"):
        OutputFolder(output)
    with others[1], pytest.raises(StoreError, match="another process is writing"):
        OutputFolder(output)


def test_a_folder_that_cannot_be_locked_does_not_stay(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match=r"cannot lock .*No locks available"):
        OutputFolder(tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["an output", "an unfinished run"])
def test_what_another_process_left_before_the_lock_was_taken_stays(tmp_path, left):
    """`check_output` comes minutes earlier: a model is loaded in between."""
    output = tmp_path / "out.h5"
    if left == "an output":
        output.write_text("of another process")
    else:
        with Run(output, resume=False) as run:
            run.begin({})
            writer = run.writer("float32")
            writer.append(0, [], [], np.empty((0, 4), np.float32), "")
            writer.commit()
    before = sorted(tmp_path.rglob("*"))
    for refused in (
        lambda: Run(output, resume=False, force=False),
        lambda: OutputFolder(output, may_replace=False),
    ):
        with pytest.raises(StoreError, match=r"exists: give another name|holds an unfinished run"):
            refused()
    assert sorted(tmp_path.rglob("*")) == before
    Run(output, resume=True, force=False).__exit__()
