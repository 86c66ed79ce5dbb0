"""Rows of several workers: what was committed is there once, in order, and nothing else."""

import errno
import itertools
import os
import threading
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

from virnucpro.store.errors import StoreError
from virnucpro.store.hdf5 import write_hdf5
from virnucpro.store.place import folder_of
from virnucpro.store.sealed import checked
from virnucpro.store.segmented_run import SegmentedRun
from virnucpro.store.segments import SegmentRows, SegmentWriter, missing_blocks, read_index
from virnucpro.store.unfinished import FINISHED, JOURNAL, SEGMENTS

SIZE = 3


def rows_of(block):
    """Two packs: names, residues, rows."""
    return [
        ([f"b{block}p{pack}s{number}\u00fc" for number in range(pack + 1)], [block + 1] * (pack + 1),
         np.full((pack + 1, SIZE), 10 * block + pack, np.float32))
        for pack in range(2)
    ]  # fmt: skip


def write(writer, *blocks):
    for block in blocks:
        for pack in rows_of(block):
            writer.append(*pack)
        writer.commit(block, f"digest {block}")


def check(folder, count):
    index = read_index(folder)
    assert missing_blocks(index, count) == []
    rows = SegmentRows(index, SIZE, np.dtype("float32"))
    packs = [pack for block in range(count) for pack in rows_of(block)]
    assert list(rows.names()) == [names for names, _, _ in packs]
    assert [part.tolist() for part in rows.lengths()] == [lengths for _, lengths, _ in packs]
    assert (np.concatenate(list(rows.embeddings())) == np.concatenate([values for _, _, values in packs])).all()
    assert (
        rows.committed.sequences == rows.committed.rows == 3 * count
        and rows.committed.digest == f"digest {count - 1}"
    )


def test_blocks_of_several_workers_are_read_in_order(tmp_path):
    write(SegmentWriter(tmp_path / "one", "float32"), 3, 0)
    write(SegmentWriter(tmp_path / "two", "float32"), 1, 4, 2)
    check(tmp_path, 5)


def test_a_block_that_two_workers_did_is_taken_once(tmp_path):
    write(SegmentWriter(tmp_path / "one", "float32"), 0, 1)
    write(SegmentWriter(tmp_path / "two", "float32"), 1, 2)
    check(tmp_path, 3)


@pytest.mark.parametrize(
    "odd",
    [
        "[]", "7", "null", "{}", '{"block": 1}',
        '{"block": -1, "offset": 0, "end": 0, "packs": [], "skipped": [], "digest": ""}',
        '{"block": 1, "offset": 0, "end": "0", "packs": [], "skipped": [], "digest": ""}',
        '{"block": 1, "offset": 0, "end": 0, "packs": [[1, 2, 3]], "skipped": [], "digest": ""}',
        '{"block": 1, "offset": 0, "end": 0, "packs": 1, "skipped": [], "digest": ""}',
        '{"block": 1, "offset": 0, "end": 0, "packs": [], "skipped": [true], "digest": ""}',
        '{"block": 1, "offset": 0, "end": 0, "packs": [], "skipped": [], "digest": 0}',
        '{"block": 1, "offset": 0, "end": 9, "packs": [[1, 1, 1, 2]], "skipped": [], "digest": ""}',
        '{"block": 1, "offset": 0, "end": 0, "packs": [], "skipped": [9223372036854775808], "digest": ""}',
    ],
)  # fmt: skip
def test_a_line_that_no_worker_writes_does_not_count(tmp_path, odd):
    write(SegmentWriter(tmp_path / "one", "float32"), 0)
    with (tmp_path / "one" / JOURNAL).open("a") as journal:
        journal.write(f"\n{checked(odd)}\n")
    assert set(read_index(tmp_path)) == {0}


@pytest.mark.parametrize("damage", [b"\xff", b"\n"])
def test_names_that_are_damaged_are_told(tmp_path, damage):
    write(SegmentWriter(tmp_path / "one", "float32"), 0)
    with (tmp_path / "one" / "rows").open("r+b") as rows:
        rows.write(damage)
    with pytest.raises(StoreError, match="has lost rows"):
        list(SegmentRows(read_index(tmp_path), SIZE, np.dtype("float32")).names())


def test_what_was_not_committed_does_not_count(tmp_path):
    writer = SegmentWriter(tmp_path / "one", "float32")
    write(writer, 0)
    writer.append(*rows_of(1)[0])
    writer.close()
    (tmp_path / "died at once").mkdir()
    assert missing_blocks(read_index(tmp_path), 2) == [1]
    write(SegmentWriter(tmp_path / "two", "float32"), 1)
    check(tmp_path, 2)


@pytest.mark.parametrize("kept", range(0, 400, 37))
def test_a_journal_or_rows_cut_anywhere_lose_whole_blocks_only(tmp_path, kept):
    for name in ("journal", "rows"):
        writer = SegmentWriter(tmp_path / name / "one", "float32")
        write(writer, 0, 1, 2)
        writer.close()
        path = tmp_path / name / "one" / name
        path.write_bytes(path.read_bytes()[:kept])
        index = read_index(tmp_path / name)
        assert set(index) == set(range(len(index)))  # a beginning
        if index:
            check(tmp_path / name, len(index))


@pytest.mark.parametrize("call", ["fsync", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_after_a_failed_write_nothing_is_committed(tmp_path, monkeypatch, call, code):
    writer = SegmentWriter(tmp_path / "one", "float32")
    write(writer, 0)

    def fails(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(StoreError, match=os.strerror(code)):
            write(writer, 1)
    with pytest.raises(StoreError, match=os.strerror(code)):  # the cause, and not another
        write(writer, 2)
    assert set(read_index(tmp_path)) == {0}


def test_a_run_begun_anew_counts_nothing_of_workers_of_the_old_one(tmp_path):
    output = tmp_path / "out.h5"
    with SegmentedRun(output, resume=False) as old:
        assert old.begin({"a": 1}) == {}
        write(SegmentWriter(old.segments / "one", "float32"), 0)
    with SegmentedRun(output, resume=True) as resumed:
        assert set(resumed.begin({"a": 1})) == {0} and resumed.begun["a"] == 1
    with SegmentedRun(output, resume=False) as new:
        write(SegmentWriter(old.segments / "late", "float32"), 1)  # cut off from its driver, it lives on
        assert new.begin({"a": 2}) == {}


def test_one_process_at_a_time_and_nothing_stays(tmp_path):
    output = tmp_path / "out.h5"
    with SegmentedRun(output, resume=False) as run:
        with pytest.raises(StoreError, match="another process is writing"):
            SegmentedRun(output, resume=True)
        run.begin({})
        write(SegmentWriter(run.segments / "one", "float32"), 0)
        rows = SegmentRows(read_index(run.segments), SIZE, np.dtype("float32"))
        assert not run.finish(rows, lambda path, copied: False)
        assert run.finish(rows, lambda path, copied: bool(path.write_text("whole")))
    assert output.read_text() == "whole" and not folder_of(output).exists()


WIDE = 64


def wide_blocks(folder):
    """Blocks of two workers, large enough for HDF5 to align their rows; without those, too."""
    written = {}
    for name, numbers in {"one": (3, 0), "two": (1, 4, 2)}.items():
        writer = SegmentWriter(folder / name, "float32")
        for number in numbers:
            for pack in range(2):
                values = np.random.default_rng(10 * number + pack).standard_normal((90, WIDE), np.float32)
                writer.append([f"b{number}p{pack}s{row}" for row in range(90)], [number + 1] * 90, values)
            written[number] = writer.commit(number, f"digest {number}")
    return written


class Watched(SegmentRows):
    """Rows that tell whether they were read once more."""

    read = False

    def embeddings(self):
        self.read = True
        yield from super().embeddings()


def finished(output, copy_ahead, blocks_of=lambda written: written):
    """The file of a run that copied ahead or not, and whether HDF5 took the copied rows."""
    with SegmentedRun(output, resume=False) as run:
        run.begin({})
        if copy_ahead:
            run.copy_ahead(4 * WIDE)
        for number, block in blocks_of(wide_blocks(run.segments)).items():
            run.add(number, block)
        rows = Watched(read_index(run.segments), WIDE, np.dtype("float32"))

        def write(path, copied):
            return write_hdf5(path, rows, {"model": "toy"}, (WIDE,), False, copied=copied)

        assert run.finish(rows, write)
    assert not folder_of(output).exists()
    return output.read_bytes(), not rows.read


def test_rows_that_were_copied_ahead_make_the_same_file(tmp_path):
    plain, copied = finished(tmp_path / "plain.h5", copy_ahead=False)
    assert not copied
    assert finished(tmp_path / "ahead.h5", copy_ahead=True) == (plain, True)
    with h5py.File(tmp_path / "ahead.h5") as file:
        expected = [np.random.default_rng(seed).standard_normal((90, WIDE), np.float32) for seed in (40, 41)]
        assert (file["embeddings"][-180:] == np.concatenate(expected)).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda written: {number: block for number, block in written.items() if number != 2},
        lambda written: {**written, 2: replace(written[2], path=written[2].path.with_name("missing"))},
        lambda written: {**written, 2: replace(written[2], offset=2**40)},
    ],
)
def test_what_cannot_be_copied_ahead_is_copied_at_the_end(tmp_path, damage):
    plain, _ = finished(tmp_path / "plain.h5", copy_ahead=False)
    assert finished(tmp_path / "ahead.h5", True, damage) == (plain, False)


def test_a_disk_that_fills_meanwhile_leaves_its_room_to_the_workers(tmp_path, monkeypatch):
    asked = itertools.count()
    monkeypatch.setattr("virnucpro.store.ahead.PIECE", 2**12)
    monkeypatch.setattr("virnucpro.store.ahead.free_bytes", lambda folder: 2**30 if next(asked) < 3 else 2**30 - 1)
    plain, _ = finished(tmp_path / "plain.h5", copy_ahead=False)
    assert finished(tmp_path / "ahead.h5", copy_ahead=True) == (plain, False)


def test_the_rows_of_a_block_are_those_of_the_worker_that_told_of_it(tmp_path):
    """Another worker may have done it, too, and died before it could say so."""
    output = tmp_path / "out.h5"
    with SegmentedRun(output, resume=False) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        for name, number, value in (("a", 0, 1), ("b", 0, 2), ("c", 1, 3)):
            writer = SegmentWriter(run.segments / name, "float32")
            writer.append(
                [f"{name}{row}" for row in range(200)], [1] * 200, np.full((200, WIDE), value, np.float32)
            )
            block = writer.commit(number, f"digest {number}")
            if name != "a":
                run.add(number, block)
        rows = SegmentRows(run.blocks, WIDE, np.dtype("float32"))
        assert run.finish(rows, lambda path, copied: write_hdf5(path, rows, {}, (WIDE,), False, copied=copied))
    with h5py.File(output) as file:
        assert [name[:1] for name in file["ids"][[0, 399]]] == [b"b", b"c"]
        assert file["embeddings"][[0, 399], 0].tolist() == [2, 3]


def test_a_run_that_is_stopped_does_not_wait_for_the_copy(tmp_path, monkeypatch):
    asked = threading.Event()

    def slowly(folder):
        asked.set()
        time.sleep(0.01)
        return 2**40

    monkeypatch.setattr("virnucpro.store.ahead.PIECE", 2**8)
    monkeypatch.setattr("virnucpro.store.ahead.free_bytes", slowly)
    with SegmentedRun(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        for number, block in wide_blocks(run.segments).items():
            run.add(number, block)
        rows = SegmentRows(run.blocks, WIDE, np.dtype("float32"))
        assert asked.wait(60)
        said = []
        assert not run.finish(rows, lambda path, copied: bool(said.append(copied)), stop=lambda: True)
        assert said == [False]


def test_leftovers_that_cannot_be_removed_do_not_make_the_output_incomplete(tmp_path, monkeypatch, caplog):
    def refuse(folder):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr("virnucpro.store.segmented_run.remove", refuse)
    with SegmentedRun(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        write(SegmentWriter(run.segments / "one", "float32"), 0)
        rows = SegmentRows(read_index(run.segments), SIZE, np.dtype("float32"))
        assert run.finish(rows, lambda path, copied: bool(path.write_text("whole")))
    assert "is complete, but cannot remove" in caplog.text


def test_nothing_stays_of_a_copy_that_was_not_used(tmp_path):
    output = tmp_path / "out.h5"
    with SegmentedRun(output, resume=False) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        for number, block in wide_blocks(run.segments).items():
            run.add(number, block)
    left = {path.name for path in folder_of(output).iterdir()}
    assert FINISHED not in left and SEGMENTS in left


def test_few_rows_are_where_hdf5_puts_them(tmp_path):
    """Not aligned, because they are not large."""
    output = tmp_path / "out.h5"
    with SegmentedRun(output, resume=False) as run:
        run.begin({})
        run.copy_ahead(4 * SIZE)
        writer = SegmentWriter(run.segments / "one", "float32")
        for pack in rows_of(0):
            writer.append(*pack)
        run.add(0, writer.commit(0, "digest"))
        rows = SegmentRows(read_index(run.segments), SIZE, np.dtype("float32"))
        assert run.finish(rows, lambda path, copied: write_hdf5(path, rows, {}, (SIZE,), False, copied=copied))
    with h5py.File(output) as file:
        assert (file["embeddings"][()] == np.concatenate([values for _, _, values in rows_of(0)])).all()
