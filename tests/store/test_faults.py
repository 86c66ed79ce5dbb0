"""Writes that fail, one after the other: what is reported complete is complete, and what is counted is on disk."""

import contextlib
import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.store.faulty_disk import FaultyDisk, fault_points
from tests.store.rows import SEQUENCES, append, datasets, finish, partial, rows_in, whole_run
from virnucpro.store import parquet
from virnucpro.store import run as run_module
from virnucpro.store.errors import WriteError
from virnucpro.store.place import folder_of
from virnucpro.store.rows import bytes_of
from virnucpro.store.run import LEAST_BYTES, OutputFolder, has_work, size_of


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


@pytest.fixture
def expected(tmp_path):
    return datasets(whole_run(tmp_path / "whole.h5"))


@pytest.mark.parametrize(
    "begun",
    [pytest.param(0, id="from the beginning"), pytest.param(2, id="resumed", marks=pytest.mark.exhaustive)],
)
@pytest.mark.parametrize(
    "error, dead, torn, power_fails",
    [
        pytest.param(errno.EIO, False, False, False, id="EIO once", marks=pytest.mark.exhaustive),
        pytest.param(errno.EIO, True, True, True, id="EIO from then on, in half a write, and the power fails"),
        pytest.param(errno.ENOSPC, False, True, True, id="ENOSPC once, in half a write, and the power fails"),
        pytest.param(*(errno.ENOSPC, True, False, False), id="ENOSPC from then on", marks=pytest.mark.exhaustive),
    ],
)
def test_whatever_fails_the_output_is_complete_or_absent_and_can_be_continued(
    tmp_path, expected, error, dead, torn, power_fails, begun
):
    def start(output):
        if begun:
            with partial(output) as run:
                append(run, range(begun))
                run.commit()

    start(tmp_path / "counted.h5")
    points = fault_points(tmp_path, lambda: whole_run(tmp_path / "counted.h5", resume=True))
    assert points > 30
    for failing in range(1, points + 1):
        output = tmp_path / f"{failing}.h5"
        start(output)
        with pytest.MonkeyPatch.context() as patch:
            disk = FaultyDisk(patch, tmp_path, failing, error, dead, torn)
            try:
                whole_run(output, resume=True)
            except WriteError as told:
                assert os.strerror(error) in str(told)
            else:  # making a folder that is there
                assert begun and datasets(output) == expected
            assert disk.failed
        folder = folder_of(output)
        if output.exists():
            assert datasets(output) == expected  # the rename succeeded, and syncing it failed
        assert has_work(folder) or not folder.exists()
        if power_fails:
            disk.lose_power(folder)
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, tmp_path)
            assert datasets(whole_run(output, resume=True)) == expected
        assert not folder.exists()


def test_after_each_write_that_failed_nothing_is_committed(output):
    points = fault_points(output.parent, lambda: whole_run(output))
    output.unlink()
    for failing in range(1, points + 1):
        with pytest.MonkeyPatch.context() as patch:
            disk = FaultyDisk(patch, output.parent, failing)
            try:
                run = partial(output)
            except WriteError:
                assert not folder_of(output).exists()
                continue
            steps = [lambda run: append(run, range(5)), lambda run: run.commit()]
            with run:
                try:
                    for step in steps:
                        step(run)
                except WriteError:
                    calls = disk.calls.total()
                    for step in (*steps, finish):
                        with pytest.raises(WriteError, match="Input/output error"):
                            step(run)
                    assert disk.calls.total() == calls
        output.unlink(missing_ok=True)


def test_an_older_output_stays_or_is_replaced_as_a_whole(tmp_path, expected):
    output = tmp_path / "out.h5"
    points = fault_points(tmp_path, lambda: whole_run(output))
    for failing in range(1, points + 1):
        with partial(output) as run:
            append(run, [4])
            finish(run)
        older = datasets(output)
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, tmp_path, failing)
            with pytest.raises(WriteError):
                whole_run(output)
        assert datasets(output) in (older, expected)


def test_an_older_folder_stays_where_the_new_one_cannot_take_its_place(tmp_path):
    """Also where nothing of the run stays, as when parts are merged."""
    output = tmp_path / "out.parquet"

    def put():
        def write(path):
            path.mkdir()
            return bool((path / "part-00000.parquet").write_text("new"))

        with OutputFolder(output, holds=parquet.HOLDS) as folder:
            folder.put(write, 0)

    for failing in itertools.count(1):
        output.mkdir(exist_ok=True)
        (output / "part-00000.parquet").write_text("old")
        with pytest.MonkeyPatch.context() as patch:
            disk = FaultyDisk(patch, tmp_path, failing)
            with contextlib.suppress(WriteError):
                put()
        assert (output / "part-00000.parquet").read_text() in ("old", "new")
        assert list(tmp_path.iterdir()) == [output]
        if not disk.failed:
            break
    assert failing > 5


def test_the_first_failure_is_told_of_again(output):
    with partial(output) as run:
        append(run, [0])
        run.commit()
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, output.parent, 1, errno.ENOSPC)
            with pytest.raises(WriteError, match=r"No space left on device: .* is free"):
                append(run, [1])
        for later in (lambda: append(run, [2]), run.commit, lambda: finish(run)):
            with pytest.raises(WriteError, match="No space left on device"):
                later()
    with partial(output, resume=True) as run:
        assert run.counts.sequences == 1


def test_a_disk_that_is_too_full_for_the_copy_is_told_what_is_missing(output, monkeypatch):
    with partial(output) as run:
        append(run, range(5))
        monkeypatch.setattr("virnucpro.store.run.free_bytes", lambda folder: 123)
        with pytest.raises(WriteError, match=r"needs 3\d\.\d\d kB, 123 bytes is free: 3\d\.\d\d kB are missing"):
            finish(run)
    monkeypatch.undo()
    whole_run(output, resume=True)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_the_copy_needs_no_more_than_was_reckoned(output, count, ragged):
    rows = sum(range(1, count + 1)) if ragged else count
    with partial(output) as run:
        values = np.ones((rows, 4), np.float32)
        run.append(0, [f"protein {n}" for n in range(count)], list(range(1, count + 1)), values, "digest")
        reckoned = size_of(rows_in(run)) + bytes_of(rows_in(run))
        finish(run, ragged=ragged)
    assert output.stat().st_size <= reckoned <= 2 * output.stat().st_size + LEAST_BYTES


def test_leftovers_that_cannot_be_removed_do_not_make_the_output_incomplete(output, monkeypatch, caplog):
    def refuse(path):
        raise OSError(errno.EIO, "Input/output error")

    with partial(output) as run:
        append(run, range(len(SEQUENCES)))
        monkeypatch.setattr(run_module, "remove", refuse)
        assert finish(run)
    assert "is complete, but cannot remove" in caplog.text
    assert len(datasets(output)["ids"]) == len(SEQUENCES)


FULL_AT_THE_COPY = """
import resource, sys
from pathlib import Path
from tests.store.rows import whole_run
from virnucpro.store.errors import WriteError
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))  # HDF5 needs more, the rows do not
try:
    whole_run(Path(sys.argv[1]))
except WriteError as error:
    print(error)
"""


def test_a_disk_that_is_full_at_the_copy_ends_without_a_crash(output):
    """HDF5 by itself ends the process with a segmentation fault."""
    words = [sys.executable, "-c", FULL_AT_THE_COPY, str(output)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.endswith(": File too large\n") and (done.returncode, done.stderr) == (0, "")
    assert not output.exists()
    assert len(datasets(whole_run(output, resume=True))["ids"]) == len(SEQUENCES)
