"""Files of the store with arbitrary bytes in them: an error that names the file, or what was written to it."""

import json
import logging
import os
import signal
import traceback
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.rows import SEQUENCES, SETTINGS, append, datasets, finish, partial, whole_run
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.hdf5 import Complete
from virnucpro.store.journal import (
    JOURNAL,
    Committed,
    StoreError,
    begun_settings,
    check_output,
    checked,
    folder_of,
    read_journal,
)
from virnucpro.store.journal import SETTINGS as SETTINGS_FILE

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.dictionaries(st.sampled_from([*vars(Committed()), "other"]), JSON | st.integers(0, 10), max_size=7)
BYTES = st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode) | st.just(b"[" * 100_000)
LINES = st.one_of(
    BYTES, FIELDS.map(json.dumps).map(str.encode), FIELDS.map(json.dumps).map(checked).map(str.encode)
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


def begun(output, sequences=3):
    with partial(output) as run:
        append(run, range(sequences))
        run.commit()
    return folder_of(output)


@MANY
@given(content=BYTES)
def test_settings_of_arbitrary_bytes_are_told_of(output, content):
    folder = begun(output)
    (folder / SETTINGS_FILE).write_bytes(content)
    for look in (begun_settings, lambda output: partial(output, resume=True)):
        with pytest.raises(StoreError, match=r"settings\.json is damaged: begin anew with --force"):
            look(output)
    with pytest.raises(StoreError, match="holds an unfinished run"):
        check_output(output, resume=False, force=False)


@MANY
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_settings_with_a_bit_that_is_wrong_are_told_of_or_the_same(output, at, bit):
    path = begun(output) / SETTINGS_FILE
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << bit
    path.write_bytes(content)
    try:
        assert begun_settings(output) == SETTINGS
    except StoreError as error:
        assert "settings.json is damaged" in str(error)


@MANY
@given(lines=st.lists(LINES, max_size=5), kept=st.booleans())
def test_a_journal_of_arbitrary_lines_counts_what_is_there_or_is_told_of(output, lines, kept):
    journal = begun(output) / JOURNAL
    journal.write_bytes((journal.read_bytes() if kept else b"") + b"\n".join(lines))
    committed, torn = read_journal(journal)
    try:
        with partial(output, resume=True) as run:
            assert run.committed in (committed, Committed())
            if run.committed.taken:
                append(run, [0])
                finish(run)
    except StoreError as error:
        assert any(what in str(error) for what in ("has lost rows", "is damaged"))
    if kept and not lines:
        assert (committed.sequences, torn) == (3, 0)
    output.unlink(missing_ok=True)


@MANY
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_journal_with_a_bit_that_is_wrong_goes_back_to_the_line_before(output, at, bit):
    with partial(output) as run:
        for number in range(5):
            append(run, [number])
            run.commit()
    journal = folder_of(output) / JOURNAL
    content = bytearray(journal.read_bytes())
    content[at % len(content)] ^= 1 << bit
    journal.write_bytes(content)
    committed, _ = read_journal(journal)
    assert committed.sequences in (4, 5) and committed.digest == f"digest {committed.sequences - 1}"
    whole_run(output, resume=True)
    assert datasets(output)["embeddings"] == [[10.0 * n + i for i in range(4)] for n in range(5)]
    output.unlink()


def test_a_damaged_line_of_the_journal_is_told_of(output, caplog):
    folder = begun(output)
    with (folder / JOURNAL).open("ab") as journal:
        journal.write(b"\n12345678 {")
    with partial(output, resume=True) as run:
        assert run.committed.sequences == 3
    assert "damaged lines (1)" in caplog.text and "after the 3 sequences" in caplog.text


def test_a_journal_that_counts_nothing_any_more_is_told_of(output, caplog):
    folder = begun(output)
    (folder / JOURNAL).write_bytes(b"\xff" * 100)
    with pytest.raises(StoreError, match="holds an unfinished run"):
        check_output(output, resume=False, force=False)
    with caplog.at_level(logging.WARNING), partial(output, resume=True) as run:
        assert run.committed == Committed()
    assert "is damaged: nothing of it can be continued" in caplog.text


@pytest.mark.parametrize("content", [b"\xff\xfe\n" * 3, b"a\nb"])
def test_names_that_are_damaged_are_told_of(output, content):
    with partial(output) as run:
        append(run, range(5))
        run.commit()
        path = run.folder / "names"
        path.write_bytes(content + b"x" * (path.stat().st_size - len(content)))
        with pytest.raises(StoreError, match="names is damaged"):
            finish(run)
    assert not output.exists()


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("complete") / "out.h5", ragged=True).read_bytes()


def look_at(path):
    """Read all of it, as a reader and as ``--resume`` does; what was wrong, or an empty text.

    In a process of its own: the HDF5 library can crash on damaged files, hang, or go on with damaged memory.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = ""
        signal.alarm(10)
        try:
            with Embeddings(path) as file:
                assert len(list(file)) == len(file.names)
            with Complete(path) as file, partial(path) as run:
                file.put_back(run, file.committed.taken, "digest")
        except StoreError as error:
            said = str(error)
        except BaseException:
            said = f"not told of: {traceback.format_exc()}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    return "HDF5 crashed" if os.waitpid(child, 0)[1] else said


@settings(parent=MANY, max_examples=20)
@given(content=st.binary(max_size=300), tail=st.integers(0, 5000))
def test_hdf5_of_arbitrary_bytes_is_told_of(output, complete, content, tail):
    for damaged in (content, complete[:8] + content, content + complete[tail:], complete[:tail]):
        output.write_bytes(damaged)
        if damaged == complete:
            continue
        said = look_at(output)
        assert "out.h5" in said and "not told of" not in said


@settings(parent=MANY, max_examples=60)
@given(at=st.integers(0, 100_000), value=st.integers(0, 255))
def test_hdf5_with_a_byte_that_is_wrong_is_read_or_told_of(output, complete, at, value):
    content = bytearray(complete)
    content[at % len(content)] = value
    output.write_bytes(content)
    said = look_at(output)
    assert not said or said == "HDF5 crashed" or ("out.h5" in said and "not told of" not in said), said


@pytest.mark.parametrize("name", ["ids", "lengths", "embeddings"])
@pytest.mark.parametrize("what", ["missing", "a group", "shorter", "longer", "another type"])
def test_hdf5_that_lacks_something_is_not_continued(output, name, what):
    whole_run(output)
    with h5py.File(output, "r+") as file:
        values = file[name][()]
        del file[name]
        match what:
            case "a group":
                file.create_group(name)
            case "shorter":
                file[name] = values[:-1]
            case "longer":
                file[name] = np.concatenate([values, values[:1]])
            case "another type":
                file[name] = np.zeros(len(values), "V5")
    with pytest.raises(StoreError, match=r"out\.h5"), Complete(output) as complete, partial(output) as run:
        complete.put_back(run, complete.committed.taken, "digest")


def test_a_complete_file_gives_its_rows_back(output, tmp_path):
    whole_run(output, ragged=True)
    for places in range(len(SEQUENCES) + 1):
        with Complete(output) as complete, partial(tmp_path / "other.h5") as run:
            complete.put_back(run, places, f"digest {places - 1}")
            append(run, range(places, len(SEQUENCES)), ragged=True)
            assert run.committed == Committed(5, 11, 11, 13, "digest 4")
            finish(run, ragged=True)
        assert datasets(tmp_path / "other.h5") == datasets(output)


def test_the_checksum_of_a_line_is_that_of_its_text():
    assert checked("text") == f"{zlib.crc32(b'text'):08x} text"
