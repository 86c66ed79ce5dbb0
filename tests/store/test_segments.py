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

from virnucpro.store.disk import AppendFile
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import LostError, StoreError
from virnucpro.store.hdf5 import write_hdf5
from virnucpro.store.journal import line_of, sealed
from virnucpro.store.place import folder_of
from virnucpro.store.rows import Rows
from virnucpro.store.run import FINISHED, SEGMENTS, Run
from virnucpro.store.segments import JOURNAL, NAMES, ROWS, SegmentWriter, read_index

SIZE = 3


def rows_of(block):
    """Two packs: names, residues, rows."""
    return [
        ([f"b{block}p{pack}s{number}\u00fc" for number in range(pack + 1)], [block + 1] * (pack + 1),
         np.full((pack + 1, SIZE), 10 * block + pack, np.float32))
        for pack in range(2)
    ]  # fmt: skip


def write(writer, *blocks):
    """Commits of two packs each."""
    for block in blocks:
        for number, pack in enumerate(rows_of(block), 2 * block):
            writer.append(number, *pack, f"digest {number}")
        writer.commit()


def first(index):
    """A pack of each number, in their order."""
    return [next(iter(index[number].values())) for number in sorted(index)]


def check(folder, count):
    index = read_index(folder)
    assert sorted(index) == list(range(2 * count))
    rows = Rows(first(index), SIZE, np.dtype("float32"))
    packs = [pack for block in range(count) for pack in rows_of(block)]
    assert list(rows.names()) == [names for names, _, _ in packs]
    assert [part.tolist() for part in rows.lengths()] == [lengths for _, lengths, _ in packs]
    assert (np.concatenate(list(rows.embeddings())) == np.concatenate([values for _, _, values in packs])).all()
    assert rows.counts.sequences == rows.counts.rows == rows.pieces()[:, 0].sum() == 3 * count


def test_blocks_of_several_workers_are_read_in_order(tmp_path):
    write(SegmentWriter(tmp_path / "one", "float32"), 3, 0)
    write(SegmentWriter(tmp_path / "two", "float32"), 1, 4, 2)
    check(tmp_path, 5)


def test_a_block_that_two_workers_did_is_taken_once(tmp_path):
    write(SegmentWriter(tmp_path / "one", "float32"), 0, 1)
    write(SegmentWriter(tmp_path / "two", "float32"), 1, 2)
    check(tmp_path, 3)


GOOD = [7, 1, 1, 1, 4096, 12, 0, 0, 10, 0, "digest", []]


@pytest.mark.parametrize(
    "odd",
    [7, None, {}, {"block": 1}, [7], [[]], [GOOD[:-1]], [[*GOOD, 1]], [[-1, *GOOD[1:]]], [["7", *GOOD[1:]]],
     [[True, *GOOD[1:]]], [[2**63, *GOOD[1:]]], [[*GOOD[:10], 5, []]], [[*GOOD[:11], [True]]],
     [[*GOOD[:11], [2**63]]], [[*GOOD[:11], 3]], [[7, 1, 1, 1, 4096, 10**9, 0, 0, 10, 0, "digest", []]],
     [[7, 1, 1, 1, 4096, 12, 0, 10**9, 10, 0, "digest", []]]],
)  # fmt: skip
def test_a_line_that_no_worker_writes_does_not_count(tmp_path, odd):
    write(SegmentWriter(tmp_path / "one", "float32"), 0)
    with (tmp_path / "one" / JOURNAL).open("ab") as journal:
        journal.write(line_of(odd))
    assert set(read_index(tmp_path)) == {0, 1}


@pytest.mark.parametrize("numbers", [{1: 5}, {2: 5}, {5: 8}, {8: 3}])
def test_counts_that_do_not_fit_are_told_when_they_are_read(tmp_path, numbers):
    write(SegmentWriter(tmp_path / "one", "float32"), 0)
    pack = first(read_index(tmp_path))[0].as_list()
    for place, value in numbers.items():
        pack[place] = value
    (tmp_path / "one" / JOURNAL).write_bytes(line_of([pack]))
    rows = Rows(first(read_index(tmp_path)), SIZE, np.dtype("float32"))
    with pytest.raises(LostError, match="--resume computes them anew"):
        for read in (rows.names, rows.lengths, rows.embeddings):
            list(read())
    assert read_index(tmp_path) == {}


@pytest.fixture
def many(tmp_path):
    """31 packs of one worker: their rows, and where those of each end."""
    writer = SegmentWriter(tmp_path / "one", "float32")
    for number in range(31):
        writer.append(number, *rows_of(number)[0], "digest")
    packs = writer.commit()
    return Rows(packs, SIZE, np.dtype("float32")), [pack.rows_at + pack.rows_size for pack in packs]


def test_rows_that_are_whole_are_proved(many):
    assert many[0].prove()


def test_rows_are_proved_each_at_the_same_time_and_the_damaged_named(tmp_path, many):
    rows, ends = many
    whole = (tmp_path / "one" / ROWS).read_bytes()
    for number, end in enumerate(ends):
        damaged = bytearray(whole)
        damaged[end - 1] ^= 1
        (tmp_path / "one" / ROWS).write_bytes(damaged)
        with pytest.raises(LostError, match=f"block {number} of the rows"):
            rows.prove()


def test_proving_rows_stops_when_it_is_told_to(many):
    assert not many[0].prove(lambda: True)


def test_rows_of_another_type_are_not_written(tmp_path):
    writer = SegmentWriter(tmp_path / "one", "float16")
    with pytest.raises(TypeError, match=r"rows are float32, and those of .* are float16"):
        write(writer, 0)


@pytest.mark.parametrize("name", [ROWS, NAMES, JOURNAL, "the folder"])
def test_nothing_outside_the_run_is_read_by_a_link(tmp_path, name):
    (tmp_path / "run").mkdir()
    write(SegmentWriter(tmp_path / "elsewhere", "float32"), 0)
    if name == "the folder":
        (tmp_path / "run" / "one").symlink_to(tmp_path / "elsewhere")
    else:
        write(SegmentWriter(tmp_path / "run" / "one", "float32"), 0)
        (tmp_path / "run" / "one" / name).unlink()
        (tmp_path / "run" / "one" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert read_index(tmp_path / "run") == {}


def test_what_was_not_committed_does_not_count(tmp_path):
    writer = SegmentWriter(tmp_path / "one", "float32")
    write(writer, 0)
    writer.append(2, *rows_of(1)[0], "digest 2")
    writer.close()
    (tmp_path / "died at once").mkdir()
    assert set(read_index(tmp_path)) == {0, 1}
    write(SegmentWriter(tmp_path / "two", "float32"), 1)
    check(tmp_path, 2)


@pytest.mark.parametrize("kept", range(0, 4_300, 37))
def test_files_cut_anywhere_lose_whole_packs_only(tmp_path, kept):
    for name in (JOURNAL, ROWS, NAMES):
        writer = SegmentWriter(tmp_path / name / "one", "float32")
        write(writer, 0, 1, 2)
        writer.close()
        path = tmp_path / name / "one" / name
        path.write_bytes(path.read_bytes()[:kept])
        index = read_index(tmp_path / name)
        assert set(index) == set(range(len(index)))  # a beginning
        if index and len(index) % 2 == 0:
            check(tmp_path / name, len(index) // 2)


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
    assert set(read_index(tmp_path)) == {0, 1}


def test_a_run_begun_anew_counts_nothing_of_workers_of_the_old_one(tmp_path):
    output = tmp_path / "out.h5"
    with Run(output, resume=False) as old:
        old.begin({"a": 1})
        assert old.stored == {}
        write(old.writer("float32"), 0)
    with Run(output, resume=True) as resumed:
        resumed.begin({"a": 1})
        assert set(resumed.stored) == {0, 1} and resumed.begun == {"a": 1}
    with Run(output, resume=False) as new:
        write(old.writer("float32"), 1)  # cut off from its driver, it lives on
        new.begin({"a": 2})
        assert new.stored == {}


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "", "a" * 32 + "/..", "A" * 32, 7])
def test_settings_that_name_a_folder_elsewhere_are_damaged(tmp_path, name):
    with Run(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        write(run.writer("float32"), 0)
        (run.folder / "settings.json").write_text(sealed({"run": name, "store": 2}))
    with pytest.raises(StoreError, match="is no name of a run"):
        Run(tmp_path / "out.h5", resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {"out.h5.partial"}


def test_a_folder_of_segments_that_is_a_link_is_refused(tmp_path):
    with Run(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        write(run.writer("float32"), 0)
    (run.folder / SEGMENTS).rename(tmp_path / "elsewhere")
    (run.folder / SEGMENTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="segments is a symbolic link"):
        Run(tmp_path / "out.h5", resume=True)


def test_a_folder_of_a_run_that_is_a_link_is_refused(tmp_path):
    with Run(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        write(run.writer("float32"), 0)
    run.segments.rename(tmp_path / "elsewhere")
    run.segments.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a symbolic link, which no run leaves there"):
        Run(tmp_path / "out.h5", resume=True)


def test_runs_of_0_4_0_are_refused_by_their_version(tmp_path):
    for name, journal in {"one": "journal", "several": f"segments/{'a' * 32}/host-1-b/journal"}.items():
        folder = tmp_path / f"{name}.h5.partial"
        (folder / journal).parent.mkdir(parents=True)
        (folder / journal).write_text("\n12345678 {}\n")
        (folder / "settings.json").write_text(sealed({"model": "toy", "run": "a" * 32}))
        with pytest.raises(StoreError, match=r"was begun by virnucpro 0\.4\.0 or older.*--force"):
            Run(tmp_path / f"{name}.h5", resume=True)
        with Run(tmp_path / f"{name}.h5", resume=False) as anew:
            anew.begin({})
            assert anew.stored == {} and not (folder / "journal").exists()


def test_packs_of_another_input_count_beside_those_of_this_one(tmp_path):
    """As when a run was resumed by mistake with an input that had changed."""
    with Run(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        for digest in ("of another", "of this one"):
            writer = run.writer("float32")
            writer.append(0, *rows_of(0)[0], digest)
            writer.commit()
        assert set(read_index(run.segments)[0]) == {"of another", "of this one"}


def test_one_process_at_a_time_and_nothing_stays(tmp_path):
    output = tmp_path / "out.h5"
    with Run(output, resume=False) as run:
        with pytest.raises(StoreError, match="another process is writing"):
            Run(output, resume=True)
        run.begin({})
        write(run.writer("float32"), 0)
        rows = Rows(first(read_index(run.segments)), SIZE, np.dtype("float32"))
        assert not run.finish(rows, lambda path, there: False)
        assert run.finish(rows, lambda path, there: bool(path.write_text("whole")))
        (tmp_path / "out.h5").unlink()
        with Run(output, resume=False) as another:  # the first one's end leaves it alone
            another.begin({})
            run.__exit__()
            write(another.writer("float32"), 0)
            assert set(read_index(another.segments)) == {0, 1}
            run._lock = os.open(os.devnull, os.O_RDONLY)
    assert folder_of(output).exists()


WIDE = 64


def wide_packs(run):
    """Packs of two workers, large enough for HDF5 to align their rows."""
    written = []
    for numbers in ((3, 0), (1, 4, 2)):
        writer = run.writer("float32")
        for number in numbers:
            values = np.random.default_rng(number).standard_normal((180, WIDE), np.float32)
            writer.append(number, [f"p{number}s{row}" for row in range(180)], [number + 1] * 180, values, "digest")
            written += writer.commit()
    return written


class Watched(Rows):
    """Rows that tell how often they were read."""

    read = 0

    def embeddings(self):
        self.read += 1
        yield from super().embeddings()


def finished(output, copy_ahead, packs_of=lambda written: written):
    """The file of a run that copied ahead or not, and whether HDF5 took the copied rows."""
    with Run(output, resume=False, in_place=True) as run:
        run.begin({})
        if copy_ahead:
            run.copy_ahead(4 * WIDE)
        run.add(packs_of(wide_packs(run)))
        rows = Watched(first(read_index(run.segments)), WIDE, np.dtype("float32"))

        def write(path, there):
            return write_hdf5(path, rows, {"pool": "mean"}, (WIDE,), False, in_place=there)

        assert run.finish(rows, write)
    assert not folder_of(output).exists()
    return output.read_bytes(), not rows.read


def test_rows_that_were_copied_ahead_make_the_same_file(tmp_path):
    plain, copied = finished(tmp_path / "plain.h5", copy_ahead=False)
    assert not copied
    assert finished(tmp_path / "ahead.h5", copy_ahead=True) == (plain, True)
    with h5py.File(tmp_path / "ahead.h5") as file:
        expected = np.random.default_rng(4).standard_normal((180, WIDE), np.float32)
        assert (file["embeddings"][-180:] == expected).all()


def test_rows_that_are_too_few_for_hdf5_to_align_are_copied_at_the_end(tmp_path):
    with Run(tmp_path / "out.h5", resume=False, in_place=True) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        writer = run.writer("float32")
        writer.append(0, ["a"], [1], np.ones((1, WIDE), np.float32), "digest")
        run.add(writer.commit())
        rows = run.rows([0], WIDE, "float32")
        assert run.finish(rows, lambda path, there: write_hdf5(path, rows, {}, (WIDE,), False, in_place=there))
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["embeddings"][()] == 1).all()


def one_worker(output, interrupt=None):
    """A run whose rows HDF5 can take as they are on disk: the file's bytes, and how often the rows were read."""
    with Run(output, resume=False, in_place=True) as run:
        run.begin({})
        writer = run.writer("float32")
        for number in range(3):
            values = np.random.default_rng(number).standard_normal((180, WIDE), np.float32)
            writer.append(number, [f"p{number}s{row}" for row in range(180)], [number + 1] * 180, values, "digest")
        run.add(writer.commit())
        writer.close()
        rows = Watched([run.done[number] for number in range(3)], WIDE, np.dtype("float32"))
        inode = (writer.folder / ROWS).stat().st_ino
        if interrupt:
            interrupt(run, writer.folder)

        def write(path, there):
            return write_hdf5(path, rows, {"pool": "mean"}, (WIDE,), False, in_place=there)

        assert run.finish(rows, write)
    return output.stat().st_ino == inode


def test_rows_of_one_worker_are_written_once(tmp_path):
    assert one_worker(tmp_path / "in place.h5")
    assert not one_worker(tmp_path / "copied.h5", lambda run, folder: setattr(run, "_in_place", False))
    with h5py.File(tmp_path / "in place.h5") as one, h5py.File(tmp_path / "copied.h5") as other:
        assert list(one) == list(other)
        assert all((one[name][()] == other[name][()]).all() for name in one)
        assert dict(one.attrs) == dict(other.attrs)
    with Embeddings(tmp_path / "in place.h5") as file:
        assert file.verify()


def test_damaged_rows_of_one_worker_do_not_become_the_output(tmp_path):
    def damage(run, folder):
        with (folder / ROWS).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))

    with pytest.raises(LostError, match="block 2 of the rows"):
        one_worker(tmp_path / "out.h5", damage)
    assert not (tmp_path / "out.h5").exists()


def test_rows_that_hdf5_has_taken_stay_when_it_is_interrupted(tmp_path, monkeypatch):
    """By itself HDF5 cuts a file to what it knows of when it closes it."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with Run(tmp_path / "out.h5", resume=False, in_place=True) as run:
        run.begin({})
        writer = run.writer("float32")
        writer.append(0, ["a"] * 300, [1] * 300, np.ones((300, WIDE), np.float32), "digest")
        run.add(writer.commit())
        rows = run.rows([0], WIDE, "float32")
        monkeypatch.setattr("virnucpro.store.hdf5.dataset_of_rows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.finish(rows, lambda path, there: write_hdf5(path, rows, {}, (WIDE,), False, in_place=there))
        assert np.concatenate(list(rows.embeddings())).all()


def test_rows_that_have_another_name_are_copied(tmp_path):
    """As those of a run that was killed after the output was in its place."""
    other = tmp_path / "other"
    assert not one_worker(tmp_path / "out.h5", lambda run, folder: os.link(folder / ROWS, other))
    before = other.read_bytes()[:4096]
    assert before == bytes(4096)


def test_without_hard_links_rows_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert not one_worker(tmp_path / "out.h5")


@pytest.mark.parametrize(
    "damage",
    [
        lambda written: [pack for pack in written if pack.number != 2],
        lambda written: [replace(pack, segment=pack.segment.with_name("missing")) for pack in written],
        lambda written: [replace(pack, rows_at=2**40) for pack in written],
        lambda written: [replace(pack, rows_crc=1) for pack in written],
    ],
)
def test_what_cannot_be_copied_ahead_is_copied_at_the_end(tmp_path, damage):
    plain, _ = finished(tmp_path / "plain.h5", copy_ahead=False)
    assert finished(tmp_path / "ahead.h5", True, damage) == (plain, False)


@pytest.mark.parametrize("failing", [None, 1, 2, 5])
def test_a_copy_that_the_disk_does_not_take_is_made_at_the_end(tmp_path, monkeypatch, failing):
    """It is synced while the next rows are copied."""
    plain, _ = finished(tmp_path / "plain.h5", copy_ahead=False)
    syncs, real = itertools.count(1), AppendFile.sync

    def sync(file):
        if file.path.name == FINISHED and next(syncs) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(file)

    monkeypatch.setattr("virnucpro.store.ahead.SYNC_BYTES", 1)
    monkeypatch.setattr(AppendFile, "sync", sync)
    assert finished(tmp_path / "ahead.h5", copy_ahead=True) == (plain, failing is None)
    assert next(syncs) > (failing or 5)


def test_a_disk_that_fills_meanwhile_leaves_its_room_to_the_workers(tmp_path, monkeypatch):
    asked = itertools.count()
    monkeypatch.setattr("virnucpro.store.rows.BLOCK_BYTES", 2**12)
    monkeypatch.setattr("virnucpro.store.ahead.free_bytes", lambda folder: 2**30 if next(asked) < 3 else 2**30 - 1)
    plain, _ = finished(tmp_path / "plain.h5", copy_ahead=False)
    assert finished(tmp_path / "ahead.h5", copy_ahead=True) == (plain, False)


def test_the_rows_of_a_pack_are_those_of_the_worker_that_told_of_it(tmp_path):
    """Another worker may have done it, too, and died before it could say so."""
    output = tmp_path / "out.h5"
    with Run(output, resume=False, in_place=True) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        for name, number, value in (("a", 0, 1), ("b", 0, 2), ("c", 1, 3)):
            writer = run.writer("float32")
            names = [f"{name}{row}" for row in range(200)]
            writer.append(number, names, [1] * 200, np.full((200, WIDE), value, np.float32), "digest")
            packs = writer.commit()
            if name != "a":
                run.add(packs)
        rows = run.rows([0, 1], WIDE, "float32")
        assert run.finish(rows, lambda path, there: write_hdf5(path, rows, {}, (WIDE,), False, in_place=there))
    with h5py.File(output) as file:
        assert [name[:1] for name in file["ids"][[0, 399]]] == [b"b", b"c"]
        assert file["embeddings"][[0, 399], 0].tolist() == [2, 3]


def test_a_run_that_is_stopped_does_not_wait_for_the_copy(tmp_path, monkeypatch):
    asked = threading.Event()

    def slowly(folder):
        asked.set()
        time.sleep(0.01)
        return 2**40

    monkeypatch.setattr("virnucpro.store.rows.BLOCK_BYTES", 2**8)
    monkeypatch.setattr("virnucpro.store.ahead.free_bytes", slowly)
    with Run(tmp_path / "out.h5", resume=False, in_place=True) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        run.add(wide_packs(run))
        rows = run.rows(range(5), WIDE, "float32")
        assert asked.wait(60)
        assert not run.finish(rows, lambda path, there: pytest.fail("it was told to stop"), stop=lambda: True)


def test_leftovers_that_cannot_be_removed_do_not_make_the_output_incomplete(tmp_path, monkeypatch, caplog):
    def refuse(folder):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr("virnucpro.store.run.remove", refuse)
    with Run(tmp_path / "out.h5", resume=False) as run:
        run.begin({})
        write(run.writer("float32"), 0)
        rows = Rows(first(read_index(run.segments)), SIZE, np.dtype("float32"))
        assert run.finish(rows, lambda path, there: bool(path.write_text("whole")))
    assert "is complete, but cannot remove" in caplog.text


def test_nothing_stays_of_a_copy_that_was_not_used(tmp_path):
    output = tmp_path / "out.h5"
    with Run(output, resume=False, in_place=True) as run:
        run.begin({})
        run.copy_ahead(4 * WIDE)
        run.add(wide_packs(run))
    left = {path.name for path in folder_of(output).iterdir()}
    assert FINISHED not in left and SEGMENTS in left


def test_few_rows_are_where_hdf5_puts_them(tmp_path):
    """Not aligned, because they are not large."""
    output = tmp_path / "out.h5"
    with Run(output, resume=False, in_place=True) as run:
        run.begin({})
        writer = run.writer("float32")
        for number, pack in enumerate(rows_of(0)):
            writer.append(number, *pack, "digest")
        run.add(writer.commit())
        rows = run.rows([0, 1], SIZE, "float32")
        assert run.finish(rows, lambda path, there: write_hdf5(path, rows, {}, (SIZE,), False, in_place=there))
    with h5py.File(output) as file:
        assert (file["embeddings"][()] == np.concatenate([values for _, _, values in rows_of(0)])).all()
