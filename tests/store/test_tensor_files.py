"""VirNucPro's own files: what its programs read there, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import StopAfter
from tests.store.test_formats import LENGTHS, NAMES, MadeUp
from virnucpro.cli import main
from virnucpro.errors import FastaError
from virnucpro.store import tensor_files
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import TENSOR_FILES, format_of
from virnucpro.store.run import check_output
from virnucpro.store.tensor_files import ABOUT, write_tensor_files

PROTEINS = [(name, "ACDEFGHIK"[:length]) for name, length in zip(NAMES, LENGTHS, strict=True)]
ROWS = MadeUp((5,), False)


def read_by_virnucpro(folder, safely=True):
    """Names and rows ``[N, D]`` in the order of the files, as its programs read them."""
    names, rows = [], []
    for number in range(1, len(list(Path(folder).glob("*.pt"))) + 1):
        found = torch.load(f"{folder}/output_{number}_ESM.pt", weights_only=safely)
        names += found["proteins"]
        rows += found["data"]
        lines = Path(f"{folder}/output_{number}.fa").read_text().splitlines()
        assert lines[::2] == [f">{name}" for name in found["proteins"]]
    return names, torch.stack(rows).numpy()


@pytest.fixture(autouse=True)
def three_in_a_file(monkeypatch):
    monkeypatch.setattr(tensor_files, "RECORDS", 3)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "contigs_protein"
    assert write_tensor_files(path, ROWS, {"model": "a model", "layers": [6]}, (5,), False, proteins=PROTEINS)
    return path


@pytest.mark.parametrize("safely", [True, False])
def test_virnucpros_programs_read_the_rows_in_order(folder, safely):
    names, rows = read_by_virnucpro(folder, safely)
    assert names == NAMES and rows.dtype == np.float32 and (rows == ROWS.values).all()


def test_files_count_from_1_and_have_so_many_proteins_each(folder):
    pairs = [f"output_{number}{end}" for number in (1, 2, 3) for end in (".fa", "_ESM.pt")]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*pairs, ABOUT])
    assert [(folder / f"output_{number}.fa").read_text().count(">") for number in (1, 2, 3)] == [3, 3, 1]
    assert (folder / "output_3.fa").read_text() == ">last\nACDEFG\n"


def test_each_tensor_has_a_storage_of_its_own(folder):
    """Else to keep, send or save one of them would be to do so with its whole file."""
    for each in torch.load(folder / "output_1_ESM.pt")["data"]:
        assert each.untyped_storage().nbytes() == each.nbytes == 20


def test_the_same_rows_are_the_same_bytes(folder, tmp_path):
    write_tensor_files(tmp_path / "b", ROWS, {"model": "a model", "layers": [6]}, (5,), False, proteins=PROTEINS)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_virnucpro_reads_it_back_as_any_other_format(folder, capsys):
    with Embeddings(folder) as file:
        assert file.names == NAMES and file.lengths.tolist() == LENGTHS.tolist() and len(file) == len(NAMES)
        assert file.settings["model"] == "a model" and file.settings["layers"] == "[6]"
        assert (file.embeddings == ROWS.values).all() and (file["alpha"] == ROWS.values[2]).all()
        assert (file[2:5] == ROWS.values[2:5]).all() and (file[-1] == ROWS.values[-1]).all()
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: ok, 7 sequences\n"


def test_no_sequences_are_a_folder_without_files(tmp_path):
    rows = MadeUp((5,), False, names=[], lengths=np.empty(0, np.int64))
    assert write_tensor_files(tmp_path / "none", rows, {}, (5,), False, proteins=[])
    with Embeddings(tmp_path / "none") as file:
        assert len(file) == 0 and file.names == [] and file.embeddings.shape == (0, 5) and file.verify()


@pytest.mark.parametrize("name", ["output_1_ESM.pt", "output_2.fa", ABOUT])
def test_a_byte_that_changed_is_found(folder, name, capsys):
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(folder)]) == 1
    assert "damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, what", [("output_2.fa", "it lacks output_2.fa"), ("output_4.fa", "it was not written with output_4.fa")]
)
def test_a_file_less_or_more_is_told_on_opening(folder, name, what):
    if (folder / name).exists():
        (folder / name).unlink()
    else:
        (folder / name).write_text(">more\nMK\n")
    with pytest.raises(StoreError, match=what):
        Embeddings(folder)


@pytest.mark.parametrize(
    "content",
    [
        {"proteins": NAMES[:3], "data": [torch.zeros(4)] * 3},
        {"proteins": NAMES[:3], "data": [torch.zeros(5, dtype=torch.float64)] * 3},
        {"proteins": NAMES[:3], "data": [torch.zeros(5)] * 2},
        {"proteins": NAMES[1:4], "data": [torch.zeros(5)] * 3},
        {"proteins": NAMES[:3]},
        {"proteins": NAMES[:3], "data": [torch.zeros(1).expand(2**40)] * 3},
    ],
    ids=["shape", "dtype", "fewer", "names", "no data", "a tensor of 4 TB"],
)
def test_other_rows_are_told_when_they_are_read(folder, content):
    torch.save(content, folder / "output_1_ESM.pt")
    with pytest.raises(StoreError, match=r"output_1_ESM.pt is damaged|is damaged: KeyError"):
        len(Embeddings(folder).embeddings)


def test_what_is_not_whole_has_no_table_of_contents(tmp_path):
    assert not write_tensor_files(tmp_path / "a", ROWS, {}, (5,), False, StopAfter(1), proteins=PROTEINS)
    assert not write_tensor_files(tmp_path / "b", ROWS, {}, (5,), False, lambda: True, proteins=PROTEINS)
    assert not (tmp_path / "a" / ABOUT).exists() and not (tmp_path / "b" / ABOUT).exists()


@pytest.mark.parametrize(
    "proteins",
    [PROTEINS[:-1], [*PROTEINS, ("more", "M")], [*PROTEINS[:3], ("x", "MK"), *PROTEINS[4:]], [("α", "MKT")]],
    ids=["fewer", "more", "another name", "another input"],
)
def test_proteins_that_are_not_those_of_the_rows_are_refused(tmp_path, proteins):
    with pytest.raises(StoreError, match="the input is not the one that was embedded"):
        write_tensor_files(tmp_path / "out", ROWS, {}, (5,), False, proteins=proteins)


def test_another_length_is_another_protein(tmp_path):
    with pytest.raises(StoreError, match="'zeta' is not in its place"):
        changed = [*PROTEINS[:1], ("zeta", "MKV"), *PROTEINS[2:]]
        write_tensor_files(tmp_path / "out", ROWS, {}, (5,), False, proteins=changed)


def test_a_sequence_that_was_left_out_is_in_neither_file(tmp_path, monkeypatch):
    rows = MadeUp((5,), False)
    rows.counts = type(rows.counts)(7, 28, 7, skipped=2)
    rows.skipped = lambda: np.array([0, 4])
    proteins = [("nan", "MK"), *PROTEINS[:3], ("inf", "M"), *PROTEINS[3:]]
    assert write_tensor_files(tmp_path / "out", rows, {}, (5,), False, proteins=proteins)
    assert read_by_virnucpro(tmp_path / "out")[0] == NAMES
    assert json.loads((tmp_path / "out" / ABOUT).read_text())["settings"]["skipped"] == "[0, 4]"


@pytest.mark.parametrize(
    "what, how",
    [
        ("--pool residue", ("float32", 1, True)),
        ("--dtype is float16", ("float16", 1, False)),
        ("--layers has 2", ("float32", 2, False)),
    ],
)
def test_rows_that_virnucpro_cannot_read_are_refused(what, how):
    with pytest.raises(StoreError, match=f"--layout virnucpro: VirNucPro reads .*{what}"):
        TENSOR_FILES.check_rows(*how)


def test_a_name_that_comes_again_is_refused():
    assert list(TENSOR_FILES.named(PROTEINS)) == PROTEINS
    with pytest.raises(FastaError, match="two sequences are called 'zeta', and VirNucPro finds a row by its name"):
        list(TENSOR_FILES.named([*PROTEINS, PROTEINS[1]]))


@pytest.mark.parametrize("name, format", [("out.h5", None), ("out.npz", None), ("out", "h5")])
def test_a_file_is_no_output_of_this_layout(name, format):
    with pytest.raises(StoreError, match=r"is a folder of VirNucPro's files, and out.* would be .*: name"):
        format_of(Path(name), format, "virnucpro")
    assert format_of(Path("contigs_protein"), None, "virnucpro") is TENSOR_FILES


def test_only_a_folder_of_such_files_is_replaced_and_never_one_that_is_read(folder):
    assert check_output(folder, False, True, holds=TENSOR_FILES.holds) == folder
    with pytest.raises(StoreError, match=r"output_1.fa is the input: name another file"):
        check_output(folder, False, True, [folder / "output_1.fa"], TENSOR_FILES.holds)
    with pytest.raises(StoreError, match="holds something else"):
        check_output(folder, False, True, holds=("part-*.parquet",))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        check_output(folder, False, True, holds=TENSOR_FILES.holds)


# A run of the command, small

MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu", "--token-budget", "60"]
BASES = "".join("ACGT"[(7 * number * number + number // 3) % 4] for number in range(700))
DNA = ["contigs.fasta", "--translate", "six-frame", "--chunk", "40"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, one_model):
    """Run a command in the tests' folder; its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    lines = (f">c{number} of a sample\n{BASES[60 * number : 60 * number + 120]}\n" for number in range(9))
    Path("contigs.fasta").write_text("".join(lines))

    def run(*words):
        code = main(list(words))
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def rows(command):
    """Of an HDF5 file of the same run."""
    assert command("embed", *DNA, "-o", "rows.h5", *MODEL)[0] == 0
    with Embeddings("rows.h5") as file:
        return file.names, file.embeddings[()]


def same(folder, rows):
    names, found = read_by_virnucpro(folder)
    return len(names) > 9 and names == rows[0] and (found == rows[1]).all()


def test_the_command_writes_what_a_table_has_and_resume_leaves_it_alone(command, rows):
    words = ["embed", *DNA, "-o", "contigs_protein", "--layout", "virnucpro", *MODEL]
    assert command(*words) == (0, "") and same("contigs_protein", rows)
    before = Path("contigs_protein", ABOUT).stat()
    assert command(*words, "--resume") == (0, "")
    assert Path("contigs_protein", ABOUT).stat() == before and not Path("contigs_protein.partial").exists()
    assert command(*words)[0] == 1 and command(*words, "--force") == (0, "")


def test_a_run_that_ends_while_files_are_written_leaves_none_and_is_resumed(command, rows, monkeypatch):
    words = ["embed", *DNA, "-o", "contigs_protein", "--layout", "virnucpro", *MODEL]
    with monkeypatch.context() as broken:
        broken.setattr(tensor_files, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        code, said = command(*words)
    assert code == 1 and "No space left" in said and "--resume" in said
    assert not Path("contigs_protein").exists()
    assert command(*words, "--resume") == (0, "") and same("contigs_protein", rows)


def test_parts_are_merged_with_the_proteins_of_their_input(command, rows):
    parts = [f"{number}.h5" for number in (3, 1, 2)]
    for part in parts:
        assert command("embed", *DNA, "-o", part, "--shard", f"{part[0]}/3", *MODEL)[0] == 0
    words = ["merge", "contigs_protein", *parts, "--layout", "virnucpro", "--input"]
    Path("other.fasta").write_text(Path("contigs.fasta").read_text().replace("c8", "c9"))
    code, said = command(*words, "other.fasta")
    assert code == 1 and "the input is not the one that was embedded" in said
    Path("other.fasta").write_text(Path("contigs.fasta").read_text()[:-1] + "A\n")
    code, said = command(*words, "other.fasta")
    assert code == 1 and not Path("contigs_protein").exists()
    assert command(*words, "contigs.fasta") == (0, "") and same("contigs_protein", rows)


@pytest.mark.parametrize(
    "words, code, why",
    [
        (["embed", *DNA, "--pool", "residue"], 1, "VirNucPro reads one row a protein"),
        (["embed", *DNA, "--dtype", "float16", "--estimate", "9"], 1, "VirNucPro reads float32"),
        (["embed", *DNA, "--shard", "1/2"], 1, "a shard is a part in the format h5"),
        (["embed", "-"], 1, "the input is read again at the end, and - is no file that can be: put it into one"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(command, words, code, why):
    found, said = command(*words, "-o", "contigs_protein", "--layout", "virnucpro", *MODEL)
    assert found == code and why in said and not Path("contigs_protein").exists()


@pytest.mark.parametrize("words", [["--layout", "virnucpro"], ["--input", "contigs.fasta"]])
def test_merge_needs_the_input_for_this_layout_and_for_no_other(command, words, capsys):
    with pytest.raises(SystemExit) as ended:
        command("merge", "out", "part.h5", *words)
    assert ended.value.code == 2 and "--layout virnucpro needs --input" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "the first 1,024 residues, and this the first 1,022: --max-length 1024 is nearest"),
        (["--max-length", "none"], "the first 1,024 residues, and this all"),
        (["--max-length", "1024"], ""),
        (["--translate", "six-frame"], ""),
        (["--translate", "six-frame", "--chunk", "9000"], "this the first 1,022"),
    ],
)
def test_another_truncation_than_virnucpros_is_told_where_it_can_matter(command, words, told):
    Path("in.fasta").write_text(">p\nAAACCCGGG\n")
    code, said = command("embed", "in.fasta", "-o", "o", "--layout", "virnucpro", *words, *MODEL)
    assert code == 0 and told in said and ("VirNucPro averages" in said) == bool(told)
