"""Files of the store with arbitrary bytes in them: an error that names the file, or what was written to it."""

import contextlib
import json
import logging
import os
import shutil
import signal
import traceback

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.rows import SETTINGS, append, datasets, finish, partial, whole_run
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import open_table
from virnucpro.store.journal import line_of
from virnucpro.store.place import folder_of
from virnucpro.store.rows import Counts
from virnucpro.store.run import SETTINGS as SETTINGS_FILE
from virnucpro.store.run import begun_settings, check_output
from virnucpro.store.segments import JOURNAL, read_journal

MANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NUMBERS = st.lists(st.integers(0, 2**64) | st.integers(0, 100), min_size=10, max_size=10)
PACKS = st.lists(st.tuples(NUMBERS, JSON | st.text(), st.lists(JSON | st.integers(0, 10), max_size=2)), max_size=3)
ENTRIES = PACKS.map(lambda packs: [[*numbers, digest, skipped] for numbers, digest, skipped in packs])
BYTES = st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode) | st.just(b"[" * 100_000)
LINES = st.one_of(BYTES, ENTRIES.map(json.dumps).map(str.encode), ENTRIES.map(line_of))


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
        assert SETTINGS.items() <= begun_settings(output).items()
    except StoreError as error:
        assert "settings.json is damaged" in str(error)


def only(output, name=JOURNAL):
    """The file of the only worker."""
    (found,) = folder_of(output).glob(f"segments/*/*/{name}")
    return found


@MANY
@given(lines=st.lists(LINES, max_size=5), kept=st.booleans())
def test_a_journal_of_arbitrary_lines_counts_what_is_there_or_is_told_of(output, lines, kept):
    begun(output)
    journal = only(output)
    journal.write_bytes((journal.read_bytes() if kept else b"") + b"\n".join(lines))
    packs, torn = read_journal(journal.parent)
    assert len(packs) >= 3 * kept and (lines or torn == 0)
    whole = {"embeddings": [[10.0 * n + i for i in range(4)] for n in range(5)]}
    try:
        with partial(output, resume=True) as run:
            assert set(run.done) <= {pack.number for pack in packs}
            for number in range(5):
                if number not in run.done:
                    append(run, [number])
            finish(run)
        found = datasets(output)["embeddings"]
        assert [row for row in found if row in whole["embeddings"]] == whole["embeddings"]
    except StoreError as error:
        assert "are not what was written there" in str(error) or "is damaged" in str(error)
    shutil.rmtree(folder_of(output), ignore_errors=True)
    output.unlink(missing_ok=True)


@MANY
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_journal_with_a_bit_that_is_wrong_lacks_a_line(output, at, bit):
    with partial(output) as run:
        for number in range(5):
            append(run, [number])
            run.commit()
    journal = only(output)
    content = bytearray(journal.read_bytes())
    content[at % len(content)] ^= 1 << bit
    journal.write_bytes(content)
    assert len(read_journal(journal.parent)[0]) in (4, 5)
    whole_run(output, resume=True)
    assert datasets(output)["embeddings"] == [[10.0 * n + i for i in range(4)] for n in range(5)]
    output.unlink()


def test_a_damaged_line_of_the_journal_is_told_of(output, caplog):
    begun(output)
    with only(output).open("ab") as journal:
        journal.write(b"\n12345678 {")
    with partial(output, resume=True) as run:
        assert run.counts.sequences == 3
    assert "damaged lines (1)" in caplog.text


def test_a_journal_that_counts_nothing_any_more_is_told_of(output, caplog):
    begun(output)
    only(output).write_bytes(b"\xff" * 100)
    with pytest.raises(StoreError, match="holds an unfinished run"):
        check_output(output, resume=False, force=False)
    with caplog.at_level(logging.WARNING), partial(output, resume=True) as run:
        assert run.counts == Counts()
    assert "has damaged lines (1)" in caplog.text


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
                file.verify()
            with contextlib.closing(open_table(path)) as table:
                assert sum(len(rows) for rows, _ in table.rows_between(0, len(table.embeddings))) == 11
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


@pytest.mark.exhaustive
@settings(parent=MANY)
@given(content=st.binary(max_size=300), tail=st.integers(0, 5000))
def test_hdf5_of_arbitrary_bytes_is_told_of(output, complete, content, tail):
    for damaged in (content, complete[:8] + content, content + complete[tail:], complete[:tail]):
        output.write_bytes(damaged)
        if damaged == complete:
            continue
        said = look_at(output)
        assert "out.h5" in said and "not told of" not in said


@settings(parent=MANY)
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
    with pytest.raises(StoreError, match=r"out\.h5"), Embeddings(output):
        pass
