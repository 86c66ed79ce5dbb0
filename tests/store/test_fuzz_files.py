"""Outputs with arbitrary bytes changed, in every format: what was written, or a StoreError, in little memory."""

import io
import os
import resource
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import sample_of
from tests.store.damages import flip, of_bytes
from tests.store.test_formats import ALL, NAMES, MadeUp, needs_pyarrow
from tests.store.test_proofs import CRASHED, in_a_fork, outcome
from virnucpro.store import parquet
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import BY_NAME

FEW, MANY = 3, 300  # bytes, each of which is damaged in five ways
MEMORY = 2**29  # bytes that a reader may take beside what the process has


def everything(path):
    """All that a reader gives, verified."""
    with Embeddings(path) as file:
        assert file.verify()
        names, lengths, rows = list(file.names), file.lengths.tolist(), [value.tolist() for _, value in file]
        assert len(file) == len(names) == len(rows)
        whole = file.embeddings[()]
        return names, lengths, rows, whole.tolist()


def read_in_little_memory(path):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    return everything(path)


def tried(path, expected):
    """``the same rows``, ``an error``, `CRASHED`, or what is wrong."""
    return in_a_fork(lambda: outcome(lambda: read_in_little_memory(path), expected, True))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A whole output of a format, with several row groups and parts where it has some."""
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 60)
    monkeypatch.setattr(parquet, "PART_BYTES", 70)

    def write(format, ragged):
        path = tmp_path / "whole"
        assert format.write(path, MadeUp((5,), ragged), {"model": "a model"}, (5,), ragged)
        return path

    return write


def fuzz(path, count, crashes=False):
    """Damage a file, or each file of a folder."""
    rng, counts, wrong = np.random.default_rng(7), Counter(), []
    expected = everything(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        content = file.read_bytes()
        for what, how in of_bytes(file, max(1, count // len(files)), rng):
            how(file)
            found = tried(path, expected)
            file.write_bytes(content)
            counts[found if found in ("the same rows", "an error", CRASHED) else "WRONG"] += 1
            if found not in ("the same rows", "an error") and not (crashes and found == CRASHED):
                wrong.append(f"{file.name}: {what}: {found}")
    print(counts.total(), dict(counts))
    assert not wrong, f"{len(wrong)} of {counts.total()}:\n" + "\n".join(wrong[:20])
    assert counts["an error"]


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize(
    "ragged",
    [pytest.param(False, id="mean"), pytest.param(True, id="residue", marks=pytest.mark.exhaustive)],
)
def test_a_file_with_other_bytes_is_what_was_written_or_an_error(written, format, ragged):
    fuzz(written(format, ragged), FEW, crashes="h5" in format.name)


@pytest.mark.exhaustive
@pytest.mark.hours
@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("ragged", [False, True], ids=["mean", "residue"])
def test_none_of_many_files_with_other_bytes_is_read_as_something_else(written, format, ragged):
    fuzz(written(format, ragged), MANY, crashes="h5" in format.name)


def members_changed(path, rng):
    """The arrays of an npz file with bytes of one changed, and the checksums that go with it."""
    with zipfile.ZipFile(path) as file:
        arrays = {name: file.read(name) for name in file.namelist()}
    name = list(arrays)[int(rng.integers(len(arrays)))]
    data, at = bytearray(arrays[name]), int(rng.integers(min(160, len(arrays[name]))))
    match int(rng.integers(3)):
        case 0:
            data[at] = int(rng.integers(256))
        case 1:
            del data[at : at + int(rng.integers(1, 20))]
        case 2:
            data[at:at] = bytes(rng.integers(32, 127, int(rng.integers(1, 20))).tolist())
    arrays[name] = bytes(data)
    with zipfile.ZipFile(path, "w") as file:
        for each, content in arrays.items():
            file.writestr(each, content)


@pytest.mark.parametrize("count", sample_of([15, 1_500], 15))
def test_npz_whose_arrays_make_no_sense_is_an_error(written, tmp_path, count):
    """With checksums that are right: values may be others then, and nothing but a StoreError is raised."""
    path, rng, counts = written(BY_NAME["npz"], True), np.random.default_rng(8), Counter()
    for _ in range(count):
        damaged = Path(shutil.copy(path, tmp_path / "damaged"))
        members_changed(damaged, rng)
        found = tried(damaged, None)
        assert found in ("other rows", "an error"), found
        counts[found] += 1
    print(counts.total(), dict(counts))
    assert counts["an error"] > count / 5


def npz_with(path, claimed, compression=zipfile.ZIP_STORED, content=b""):
    """An npz file whose array of embeddings has a header of `claimed` values."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": claimed}
    np.lib.format.write_array_header_2_0(header, about)
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("embeddings.npy", header.getvalue() + content)


def say_it_is_larger(path, size):
    """Have a zip file's directory say that its only member has `size` bytes."""
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    path.write_bytes(data[: at + 24] + size.to_bytes(4, "little") + data[at + 28 :])


@pytest.mark.parametrize("size", [2**31, 2**32 - 2])
def test_npz_that_claims_more_than_its_file_can_hold_is_an_error(tmp_path, size):
    path = tmp_path / "out.npz"
    npz_with(path, ((size - 128) // 4,))
    say_it_is_larger(path, size)
    assert tried(path, None) == "an error"
    npz_with(path, (2**60, 2**60))
    assert tried(path, None) == "an error"


def test_npz_that_unpacks_to_far_more_is_an_error(tmp_path):
    path = tmp_path / "out.npz"
    npz_with(path, (2**24,), zipfile.ZIP_BZIP2, bytes(2**26))
    assert path.stat().st_size < 10_000
    with pytest.raises(StoreError, match="more bytes than a file of this size holds"):
        Embeddings(path)


@needs_pyarrow
@pytest.mark.parametrize("step", sample_of([7, 1], 7))
def test_a_parquet_page_whose_header_changed_is_found(written, step):
    """Pages' checksums do not prove how a page is to be read."""
    path = written(BY_NAME["parquet"], False)
    expected, part = everything(path), path / "part-00001.parquet"
    data = part.read_bytes()
    for bit in range(136 * 8, 150 * 8, step):
        part.write_bytes(flip(data, bit // 8, 1 << bit % 8))
        assert tried(path, expected) in ("an error", "the same rows"), bit


@needs_pyarrow
@pytest.mark.parametrize("column", [None, "id", "length"])
def test_a_parquet_part_that_was_written_again_with_other_values_is_found(written, column):
    """Its pages' checksums are right then; with the same values it is what was written."""
    from pyarrow.parquet import ParquetFile

    path = written(BY_NAME["parquet"], False)
    expected, part = everything(path), path / "part-00000.parquet"
    with ParquetFile(part) as file:
        about, table = file.metadata.metadata[parquet.CONTENT], file.read()
    if column is not None:
        values = table[column].to_pylist()
        values[0] = "another" if column == "id" else values[0] + 1
        at = table.column_names.index(column)
        table = table.set_column(at, table.field(at), [values])
    with parquet.open_part(path, 0, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({parquet.CONTENT: about})
    if column is None:
        assert everything(path) == expected
    else:
        with pytest.raises(StoreError, match="does not have what was written"):
            everything(path)


@needs_pyarrow
@pytest.mark.parametrize("what", ["the last part", "the first part", "a part twice", "a part of another run"])
def test_a_parquet_folder_has_all_of_its_parts_and_no_others(written, tmp_path, what):
    path = written(BY_NAME["parquet"], False)
    parts = sorted(path.iterdir())
    assert len(parts) > 1 and everything(path)[0] == NAMES
    match what:
        case "the last part":
            parts[-1].unlink()
        case "the first part":
            parts[0].unlink()
        case "a part twice":
            shutil.copy(parts[0], path / f"part-{len(parts):05d}.parquet")
        case "a part of another run":
            other = tmp_path / "other"
            BY_NAME["parquet"].write(other, MadeUp((5,), False, "float32"), {"model": "another"}, (5,), False)
            os.replace(other / parts[1].name, parts[1])  # noqa: PTH105
    with pytest.raises(StoreError, match=r"all of its parts|of 7 sequences|of different runs"):
        everything(path)
