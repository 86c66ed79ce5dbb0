"""The formats of an output: what is written is read back, by this program and by others."""

import importlib.util
import itertools
import os
import subprocess
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from virnucpro.data.fasta import FastaError
from virnucpro.store import parquet
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import BY_NAME, PER_PROTEIN, format_of
from virnucpro.store.hdf5 import write_hdf5
from virnucpro.store.per_protein import nameable
from virnucpro.store.rows import Counts, batches

NAMES = ["sp|P69905|HBA_HUMAN", "zeta", "alpha", "tr|A0A024R161|A0A024R161_HUMAN", "ünicode", "a.b|c", "last"]
LENGTHS = np.array([3, 1, 7, 2, 5, 4, 6])

needs_pyarrow = pytest.mark.skipif(not importlib.util.find_spec("pyarrow"), reason="pyarrow is not installed")
ALL = [
    pytest.param(BY_NAME["h5"], id="h5"),
    pytest.param(PER_PROTEIN, id="per-protein"),
    pytest.param(BY_NAME["parquet"], id="parquet", marks=needs_pyarrow),
    pytest.param(BY_NAME["npz"], id="npz"),
]


class MadeUp:
    """Rows whose values tell where they stand, handed out in pieces that fit nothing else."""

    def __init__(self, shape, ragged, dtype="float32", names=NAMES, lengths=LENGTHS):
        self.shape, self.dtype, self._names, self._lengths = shape, np.dtype(dtype), names, lengths
        self.row_size = int(np.prod(shape))
        count = int(sum(lengths)) if ragged else len(names)
        self.values = np.arange(count * self.row_size, dtype=dtype).reshape(count, *shape)
        self.counts = Counts(len(names), int(sum(lengths)), count)
        ends = np.cumsum([0, *(lengths if ragged else [1] * len(names))])
        self.expected = [self.values[a:b] if ragged else self.values[a] for a, b in itertools.pairwise(ends)]

    def names(self):
        return (self._names[at : at + 2] for at in range(0, len(self._names), 2))

    def lengths(self):
        return (self._lengths[at : at + 3] for at in range(0, len(self._lengths), 3))

    def pieces(self):
        return np.array(
            [(len(part), zlib.crc32(part.copy())) for part in self.embeddings() if len(part)], "<i8"
        ).reshape(-1, 2)

    def embeddings(self):
        flat = self.values.reshape(len(self.values), self.row_size)
        return (flat[at : at + 4] for at in range(0, len(flat), 4))


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(5,), (2, 3)], ids=["a layer", "two layers"])
@pytest.mark.parametrize("ragged", [False, True], ids=["mean", "residue"])
def test_what_is_written_is_read_back(tmp_path, format, ragged, shape, dtype, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 60)  # several row groups and parts
    monkeypatch.setattr(parquet, "PART_BYTES", 150)
    rows = MadeUp(shape, ragged, dtype)
    assert format.write(tmp_path / "out", rows, {"model": "a model", "layers": [1, 2]}, shape, ragged)
    with Embeddings(tmp_path / "out") as file:
        assert file.settings["model"] == "a model"
        assert len(file) == len(NAMES) and file.names == NAMES
        assert file.lengths.tolist() == LENGTHS.tolist() and file.lengths.dtype == np.int64
        everything = file.embeddings[()]
        assert everything.dtype == np.dtype(dtype) and (everything == rows.values).all()
        for (name, found), expected in zip(file, rows.expected, strict=True):
            assert found.shape == expected.shape and (found == expected).all(), name
        assert (file["alpha"] == rows.expected[2]).all() and (file[-1] == rows.expected[-1]).all()
        assert [part.shape for part in file[1:3]] == [part.shape for part in rows.expected[1:3]]
        assert "alpha" in file and "beta" not in file
        with pytest.raises(IndexError):
            file[len(NAMES)]


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("ragged", [False, True], ids=["mean", "residue"])
def test_no_sequences_are_a_file_without_rows(tmp_path, format, ragged):
    rows = MadeUp((5,), ragged, names=[], lengths=np.empty(0, np.int64))
    assert format.write(tmp_path / "out", rows, {}, (5,), ragged)
    with Embeddings(tmp_path / "out") as file:
        assert len(file) == 0 and file.names == [] and file.lengths.shape == (0,)
        assert file.embeddings[()].shape == (0, 5)


@pytest.mark.parametrize("format", ALL)
def test_writing_can_be_stopped(tmp_path, format):
    assert not format.write(tmp_path / "out", MadeUp((5,), False), {}, (5,), False, lambda: True)


def test_batches_are_in_step_and_bounded():
    rows = MadeUp((5,), True)
    found = list(batches(rows, True, most_bytes=6 * 5 * 4))
    assert [name for names, _, _ in found for name in names] == NAMES
    assert (np.concatenate([values for _, _, values in found]).ravel() == rows.values.ravel()).all()
    for names, lengths, values in found:
        assert len(values) == lengths.sum() and (len(values) <= 6 or len(names) == 1)


@pytest.mark.parametrize(
    "name, format, layout, expected",
    [
        ("out.h5", None, "table", BY_NAME["h5"]),
        ("out.HDF5", None, "per-protein", PER_PROTEIN),
        ("out.npz", None, "table", BY_NAME["npz"]),
        ("out", None, "table", BY_NAME["h5"]),
        ("out.dat", "npz", "table", BY_NAME["npz"]),
    ],
)
def test_the_ending_or_the_option_chooses_the_format(name, format, layout, expected):
    assert format_of(Path(name), format, layout) is expected


def test_a_layout_that_a_format_lacks_is_refused():
    with pytest.raises(StoreError, match=r"per-protein is one of HDF5, and out.npz would be npz"):
        format_of(Path("out.npz"), None, "per-protein")


def test_without_pyarrow_parquet_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(StoreError, match=r"pip install 'virnucpro\[parquet\]'"):
        format_of(Path("out.parquet"))


@pytest.mark.parametrize("name", ["a/b", ".", "sp|a/b|C"])
def test_a_name_that_hdf5_takes_for_a_path_is_refused(name):
    with pytest.raises(FastaError, match="rename it"):
        list(nameable([("good", "MK"), (name, "MK")]))


@pytest.mark.parametrize("names", [["a", "a"], ["sp|P1|X", "tr|P1|Y"], ["P1", "sp|P1|X"]])
def test_two_proteins_of_one_dataset_are_refused(names):
    with pytest.raises(FastaError, match="two sequences would be the dataset"):
        list(nameable((name, "MK") for name in names))


def test_what_is_not_of_virnucpros_is_refused(tmp_path):
    text, folder, npz, other = (tmp_path / name for name in ("text", "folder", "out.npz", "other.h5"))
    text.write_text("mine")
    folder.mkdir()
    np.savez(npz, ids=np.arange(3))
    h5py.File(other, "w").close()
    for path in (text, folder, npz, other, tmp_path / "missing"):
        with pytest.raises(StoreError, match=r"cannot read|does not hold embeddings|needs pyarrow"):
            Embeddings(path)


def test_h5py_reads_the_per_protein_file_as_uniprots_page_shows(tmp_path):
    rows = MadeUp((5,), False)
    PER_PROTEIN.write(tmp_path / "per-protein.h5", rows, {"model": "m"}, (5,), False)
    with h5py.File(tmp_path / "per-protein.h5", "r") as file:
        assert len(file.items()) == len(NAMES)
        found = {sequence_id: np.array(embedding) for sequence_id, embedding in file.items()}
    assert list(found)[:4] == ["P69905", "zeta", "alpha", "A0A024R161"]
    assert (np.stack(list(found.values())) == rows.values).all()


READ_BY_PROTSPACE = """
import sys
from pathlib import Path
import numpy as np
from protspace.data.loaders.h5 import load_h5
found = load_h5([Path(sys.argv[1])])
assert found.name == "a model", found.name
np.savez(sys.argv[2], headers=np.array(found.headers), data=found.data)
"""


def test_protspace_reads_the_per_protein_file(tmp_path):
    python = os.environ.get("PROTSPACE_PYTHON")
    if not python:
        pytest.skip("set PROTSPACE_PYTHON to a Python with the package protspace (.ci/run does)")
    rows = MadeUp((5,), False)
    PER_PROTEIN.write(tmp_path / "out.h5", rows, {"model": "a model"}, (5,), False)
    subprocess.run([python, "-c", READ_BY_PROTSPACE, tmp_path / "out.h5", tmp_path / "found.npz"], check=True)
    found = np.load(tmp_path / "found.npz")
    assert found["headers"].tolist()[:2] == ["P69905", "zeta"] and (found["data"] == rows.values).all()


@needs_pyarrow
def test_duckdb_runs_the_query_of_the_documentation(tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    page = (Path(__file__).parents[2] / "docs" / "embed.md").read_text()
    (query,) = (part.partition("```")[0] for part in page.split("```sql\n")[1:])
    rows = MadeUp((5,), False)
    BY_NAME["parquet"].write(tmp_path / "OUT.parquet", rows, {}, (5,), False)
    monkeypatch.chdir(tmp_path)
    found = duckdb.sql(query.replace("'my protein'", "'zeta'")).fetchall()
    units = rows.values / np.linalg.norm(rows.values, axis=1, keepdims=True)
    nearest = sorted(range(len(NAMES)), key=lambda number: -(units @ units[1])[number])
    assert [row[0] for row in found] == [NAMES[number] for number in nearest if number != 1][: len(found)]


def test_a_table_is_the_same_as_before(tmp_path):
    rows = MadeUp((5,), True)
    write_hdf5(tmp_path / "out.h5", rows, {}, (5,), True)
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file) == ["embeddings", "ids", "lengths", "offsets", "pieces"]
        assert file["offsets"][()].tolist() == np.cumsum([0, *LENGTHS]).tolist()


class WithEmptyBlocks(MadeUp):
    """As of packs and blocks whose sequences were all left out."""

    def names(self):
        for block in super().names():
            yield from (block, [])

    def lengths(self):
        for block in super().lengths():
            yield from (np.empty(0, np.int64), block)

    def embeddings(self):
        for block in super().embeddings():
            yield from (block[:0], block)


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("ragged", [False, True])
def test_blocks_of_which_everything_was_left_out_change_nothing(tmp_path, format, ragged):
    rows, output = WithEmptyBlocks((5,), ragged), tmp_path / f"out.{format.name}"
    assert format.write(output, rows, {"model": "made up"}, (5,), ragged, lambda: False)
    with Embeddings(output) as found:
        assert found.names == NAMES
        for number, expected in enumerate(rows.expected):
            assert np.array_equal(found[number], expected)


def test_a_path_that_is_no_utf8_is_an_attribute_that_shows_its_bytes(tmp_path):
    path = os.fsdecode(b"pr\xe9.fasta")
    assert write_hdf5(tmp_path / "out.h5", MadeUp((5,), False), {"command": path}, (5,), False)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file.attrs["command"] == "pr\\udce9.fasta"
