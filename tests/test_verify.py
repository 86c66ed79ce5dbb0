"""`virnucpro verify`: one line a file, and an exit code, for every format."""

import json

import h5py
import numpy as np
import pytest

from tests.store.test_formats import ALL, LENGTHS, NAMES, MadeUp
from virnucpro.cli import main
from virnucpro.store import parquet
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import BY_NAME, PER_PROTEIN
from virnucpro.store.hdf5 import BEFORE_CHECKSUMS, CHECKSUMS, PIECES
from virnucpro.store.per_protein import BEFORE_CHECKSUMS as PER_PROTEIN_BEFORE
from virnucpro.store.per_protein import CRC

KINDS = [False, True]


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", 60)
    monkeypatch.setattr(parquet, "PART_BYTES", 70)

    def write(format, ragged, name="out"):
        path = tmp_path / name
        assert format.write(path, MadeUp((5,), ragged), {"model": "a model"}, (5,), ragged)
        return path

    return write


def of_0_4_0(path):
    """A table as virnucpro 0.4.0 wrote it."""
    with h5py.File(path, "r+") as file:
        del file[PIECES], file.attrs[CHECKSUMS]
        file.attrs["format"] = BEFORE_CHECKSUMS
    return path


def per_protein_of_0_4_0(path):
    with h5py.File(path, "r+") as file:
        del file.attrs[CRC], file.attrs[CHECKSUMS]
        for dataset in file.values():
            del dataset.attrs[CRC]
        file.attrs["format"] = PER_PROTEIN_BEFORE
    return path


def change_a_row(path, row):
    """A value of one row, in the file's bytes; of the row's 5 float32 values, which tell where they stand."""
    found = 0
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        data = file.read_bytes()
        at = data.find(row.astype("<f4").tobytes())
        if at >= 0:
            found += 1
            file.write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :])
    assert found == 1


@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("ragged", KINDS, ids=["mean", "residue"])
def test_a_whole_file_is_ok(written, capsys, format, ragged):
    path = written(format, ragged)
    assert main(["verify", str(path)]) == 0
    assert capsys.readouterr() == (f"{path}: ok, 7 sequences\n", "")


@pytest.mark.parametrize("at", [0, 3, -1])
@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("ragged", KINDS, ids=["mean", "residue"])
def test_a_row_that_changed_is_found_in_every_format(written, capsys, format, ragged, at):
    path = written(format, ragged)
    change_a_row(path, MadeUp((5,), ragged).values[at])
    assert main(["verify", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and str(path) in out and err == ""
    assert main(["verify", "--json", str(path)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told == {"ok": False, "files": [{"file": str(path), "ok": False, "reason": out.strip()}]}


def test_each_of_several_files_is_told_of_in_a_line(written, tmp_path, capsys):
    good, bad = written(BY_NAME["h5"], True, "good.h5"), written(BY_NAME["npz"], False, "bad.npz")
    change_a_row(bad, MadeUp((5,), False).values[2])
    old, text = of_0_4_0(written(BY_NAME["h5"], False, "old.h5")), tmp_path / "in.fasta"
    text.write_text(">a\nMKT\n")
    files = [good, bad, tmp_path / "missing.h5", old, text, tmp_path, written(PER_PROTEIN, False, "last.h5")]
    assert main(["verify", *map(str, files)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == len(files) and err == ""
    assert lines[0] == f"{good}: ok, 7 sequences" and lines[-1].endswith("last.h5: ok, 7 sequences")
    assert lines[2] == f"cannot read {files[2]}: [Errno 2] No such file or directory: '{files[2]}'"
    assert lines[3] == f"{old}: not proved: it has no checksums, as files of virnucpro 0.4.0"
    for line, path in zip(lines, files, strict=True):
        assert str(path) in line
    assert main(["verify", "--json", *map(str, files)]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == "" and not told["ok"]
    assert [each["ok"] for each in told["files"]] == [True, False, False, False, False, False, True]
    assert [each["file"] for each in told["files"]] == list(map(str, files))
    assert all(("reason" in each) != each["ok"] for each in told["files"])
    assert main(["verify", "--json", str(files[0]), str(files[-1])]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_a_name_of_two_lines_is_told_in_one(written, capsys):
    path = written(BY_NAME["npz"], False, "two\nlines")
    assert main(["verify", str(path), str(path) + "?"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("words", [[], ["--json"], ["--no-such", "out.h5"], [""]])
def test_a_wrong_command_is_2(words, capsys):
    with pytest.raises(SystemExit) as told:
        main(["verify", *words])
    assert told.value.code == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ragged", KINDS, ids=["mean", "residue"])
@pytest.mark.parametrize("layout", ["table", "per-protein"])
def test_files_of_0_4_0_are_read_as_before_and_not_proved(written, capsys, ragged, layout):
    if layout == "table":
        path = of_0_4_0(written(BY_NAME["h5"], ragged))
    else:
        path = per_protein_of_0_4_0(written(PER_PROTEIN, ragged))
    rows = MadeUp((5,), ragged)
    with Embeddings(path) as file:
        assert (
            file.names == NAMES
            and file.lengths.tolist() == LENGTHS.tolist()
            and file.settings["model"] == "a model"
        )
        assert all((found == expected).all() for (_, found), expected in zip(file, rows.expected, strict=True))
        assert (np.asarray(file.embeddings[()]) == rows.values).all() and not file.verify()
    assert main(["verify", str(path)]) == 1
    assert "not proved: it has no checksums" in capsys.readouterr().out


@pytest.mark.parametrize("ragged", KINDS, ids=["mean", "residue"])
def test_a_parquet_folder_of_0_4_0_is_read_as_before_and_not_proved(written, capsys, monkeypatch, ragged):
    """It has no checksums of pages, and does not tell how many sequences it has."""
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    real, dumps = pyarrow.ParquetWriter, json.dumps
    monkeypatch.setattr(pyarrow, "ParquetWriter", lambda *args, write_page_checksum, **more: real(*args, **more))
    monkeypatch.setattr(
        parquet.json,
        "dumps",
        lambda about, **how: dumps({**before(about)} if "row_shape" in about else about, **how),
    )
    monkeypatch.setattr(parquet, "FORMAT", parquet.BEFORE_CHECKSUMS)
    path = written(BY_NAME["parquet"], ragged)
    monkeypatch.undo()
    rows = MadeUp((5,), ragged)
    with Embeddings(path) as file:
        assert file.names == NAMES and not {"sequences", "crc32"} & set(file.settings)
        assert (file.embeddings == rows.values).all() and not file.verify()
    assert main(["verify", str(path)]) == 1
    assert "not proved: it has no checksums" in capsys.readouterr().out


def before(about):
    return {name: value for name, value in about.items() if name not in ("sequences", "crc32")}


@pytest.mark.parametrize("format", [BY_NAME["h5"], PER_PROTEIN], ids=["table", "per-protein"])
def test_a_file_that_only_says_that_it_is_of_0_4_0_is_damaged(written, format):
    path = written(format, False)
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = format.contents[1]
    with pytest.raises(StoreError, match="it has checksums"), Embeddings(path):
        pass
