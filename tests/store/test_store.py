"""The store: what is on disk after each way a run can end, and the file that is left."""

import itertools

import h5py
import numpy as np
import pytest

from tests.store.rows import SEQUENCES, SETTINGS, append, datasets, finish, never, partial, whole_run
from virnucpro.store import run as run_module
from virnucpro.store.disk import write_safely
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import LostError, StoreError
from virnucpro.store.place import folder_of
from virnucpro.store.rows import Counts
from virnucpro.store.run import check_output
from virnucpro.store.segments import JOURNAL, NAMES, ROWS


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


def begun(output):
    """An unfinished run, which has one sequence."""
    with partial(output) as run:
        append(run, [0])
        run.commit()
    return output


def only(output, name):
    """The file of the only worker."""
    (found,) = folder_of(output).glob(f"segments/*/*/{name}")
    return found


def finished(output, ragged=False, dtype="float32", shape=(4,)):
    with partial(output, dtype=dtype) as run:
        append(run, range(5), ragged)
        assert finish(run, {"precision": "fp32"}, shape, ragged, never)
    return output


def test_the_file_has_ids_lengths_and_embeddings_in_order(output):
    with h5py.File(finished(output)) as file:
        assert [name.decode() for name in file["ids"]] == ["α", "b", "c d", "b", "e"]
        assert file["lengths"][()].tolist() == [3, 1, 2, 4, 1]
        assert file["embeddings"][()].tolist() == [[10.0 * n + i for i in range(4)] for n in range(5)]
        assert file["embeddings"].dtype == np.float32
        assert file.attrs["precision"] == "fp32"
        assert "offsets" not in file
    assert not folder_of(output).exists()


def test_residues_of_a_sequence_lie_between_two_offsets(output):
    with h5py.File(finished(output, ragged=True)) as file:
        assert file["offsets"][()].tolist() == [0, 3, 4, 6, 10, 11]
        assert file["embeddings"].shape == (11, 4)


def test_several_layers_are_a_dimension(output):
    with h5py.File(finished(output, shape=(2, 2))) as file:
        assert file["embeddings"][1].tolist() == [[10, 11], [12, 13]]


def test_embeddings_can_be_float16(output):
    with h5py.File(finished(output, dtype="float16")) as file:
        assert file["embeddings"].dtype == np.float16
        assert file["embeddings"][4].tolist() == [40, 41, 42, 43]


@pytest.mark.parametrize("ragged", [False, True])
def test_no_sequence_at_all_is_a_file_without_rows(output, ragged):
    with partial(output) as run:
        assert finish(run, {}, (4,), ragged, never)
    with Embeddings(output) as file:
        assert (len(file), file.embeddings.shape, list(file)) == (0, (0, 4), [])


def test_the_reader_finds_by_number_and_name(output):
    with Embeddings(finished(output, ragged=True)) as file:
        assert file.names == ["α", "b", "c d", "b", "e"] and len(file) == 5
        assert file["c d"].tolist() == file[2].tolist() == [[20, 21, 22, 23], [24, 25, 26, 27]]
        assert [(name, len(rows)) for name, rows in file] == SEQUENCES
        assert file.settings["precision"] == "fp32"
        with pytest.raises(KeyError, match="several sequences are called 'b'"):
            file["b"]
        with pytest.raises(IndexError):
            file[5]
        assert file[-1].tolist() == file[4].tolist()
        assert [len(rows) for rows in file[1:4]] == [len(rows) for rows in file[-4:-1]] == [1, 2, 4]
        assert "c d" in file and "b" in file and "none" not in file and 2 not in file


def test_the_reader_refuses_what_is_not_its_own(tmp_path):
    (tmp_path / "text.h5").write_text("text")
    h5py.File(tmp_path / "other.h5", "w").close()
    for name, message in {"text.h5": "cannot read", "other.h5": "does not hold", "none.h5": "cannot read"}.items():
        with pytest.raises(StoreError, match=message):
            Embeddings(tmp_path / name)


@pytest.mark.parametrize("committed", range(6))
def test_a_run_that_is_resumed_ends_with_the_same_datasets(tmp_path, committed):
    whole, resumed = finished(tmp_path / "whole.h5"), tmp_path / "resumed.h5"
    with partial(resumed) as run:
        append(run, range(committed))
        run.commit()
        append(run, range(committed, min(committed + 2, 5)))  # and is killed here
    with partial(resumed, resume=True) as run:
        assert run.counts.sequences == committed
        append(run, range(committed, 5))
        assert finish(run, {}, (4,), False, never)
    with h5py.File(whole) as one, h5py.File(resumed) as other:
        assert list(one) == list(other)
        assert all(one[name][()].tobytes() == other[name][()].tobytes() for name in ("lengths", "embeddings"))
        assert one["ids"][()].tolist() == other["ids"][()].tolist()


@pytest.mark.parametrize("left", [b"\n", b"\n12ab", b'\n00000000 {"sequences": 9}\n', b"\n\xff\xfe\n"])
def test_half_a_line_of_the_journal_counts_for_nothing(output, left):
    with partial(output) as run:
        append(run, [0])
        run.commit()
    with only(output, JOURNAL).open("ab") as journal:
        journal.write(left)
    with partial(output, resume=True) as run:
        assert run.counts.sequences == 1
        append(run, [1])
        run.commit()
    with partial(output, resume=True) as run:
        assert (run.counts.sequences, run.done[1].digest) == (2, "digest 1")


def test_packs_whose_rows_are_lost_are_computed_again(output):
    only(begun(output), ROWS).write_bytes(b"")
    with partial(output, resume=True) as run:
        assert run.counts == Counts()


@pytest.mark.parametrize("name, at", [(ROWS, 4_100), (NAMES, 0), (NAMES, 5)])
def test_a_byte_that_changes_before_the_end_is_told_of_and_its_pack_is_computed_again(output, name, at):
    with partial(output) as run:
        append(run, range(5))
        run.commit()
    path = only(output, name)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with partial(output, resume=True) as run, pytest.raises(LostError, match=r"block 0 of the rows in .*--resume"):
        finish(run)
    assert not output.exists()
    with partial(output, resume=True) as run:
        assert sorted(run.done) == [1, 2, 3, 4]
    assert datasets(whole_run(output, resume=True)) == datasets(finished(output.with_name("other.h5")))


def test_other_settings_are_refused_by_name(output):
    begun(output)
    with pytest.raises(StoreError, match="begun with precision 'fp32' and not 'fp16': give the same settings"):
        partial(output, resume=True, settings=SETTINGS | {"precision": "fp16"})


def test_a_second_process_is_kept_out(output):
    with partial(output), pytest.raises(StoreError, match="another process is writing"):
        partial(output, resume=True)
    partial(output, resume=True).close()


def test_stopping_while_the_file_is_written_keeps_the_rows(output):
    with partial(output) as run:
        append(run, range(5))
        run.commit()
        assert not finish(run, {}, (4,), False, itertools.cycle([True]).__next__)
    assert not output.exists()
    with partial(output, resume=True) as run:
        assert finish(run, {}, (4,), False, never)
    with Embeddings(output) as file:
        assert len(file) == 5


def test_without_resume_an_unfinished_run_is_dropped(output):
    with partial(output) as run:
        append(run, [0])
        run.commit()
    with partial(output) as run:
        assert run.counts == Counts()
        append(run, [4])
        assert finish(run, {}, (4,), False, never)
    with Embeddings(output) as file:
        assert file.names == ["e"]


def test_what_is_not_ours_stays_in_the_folder(output):
    folder_of(output).mkdir()
    (folder_of(output) / "notes.txt").write_text("mine")
    finished(output)
    assert [path.name for path in folder_of(output).iterdir()] == ["notes.txt"]


def test_where_a_run_may_not_write_is_told_first(tmp_path, output):
    check_output(output, resume=False, force=False)
    with pytest.raises(StoreError, match="there is no folder"):
        check_output(tmp_path / "missing" / "out.h5", resume=False, force=False)
    with pytest.raises(StoreError, match="is a folder: name a file"):
        check_output(tmp_path, resume=False, force=False)
    begun(output)
    with pytest.raises(StoreError, match=r"holds an unfinished run: continue it with --resume, or .* --force"):
        check_output(output, resume=False, force=False)
    finished(output)
    with pytest.raises(StoreError, match="exists: give another name, or --force"):
        check_output(output, resume=False, force=False)
    check_output(output, resume=True, force=False)
    check_output(output, resume=False, force=True)


def test_a_file_is_on_disk_before_it_gets_its_name(output, monkeypatch):
    happened = []
    sync_tree, move = run_module.sync_tree, run_module.move_into_place
    monkeypatch.setattr(run_module, "sync_tree", lambda path: happened.append(("synced", path)) or sync_tree(path))
    monkeypatch.setattr(
        run_module, "move_into_place", lambda whole, to: happened.append(("moved", whole)) or move(whole, to)
    )
    whole_run(output)
    (first, synced), (last, moved) = happened[-2:]
    assert (first, last) == ("synced", "moved") and synced == moved


def test_what_a_killed_process_left_of_a_small_file_is_not_part_of_the_next(tmp_path):
    path = tmp_path / "settings.json"
    path.with_name("settings.json.new").write_text("left by a killed process")
    write_safely(path, "{}")
    assert path.read_text() == "{}"
