"""What the command advises after an error: only what can work."""

import os

import pytest

from virnucpro.cli import main
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.place import folder_of

MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu", "--token-budget", "12"]
RECORDS = ">a\nMKTAYIAK\n>b\nMKV\n>c\nMLTAYI\n"
AGAIN = "continues it:"


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fasta"
    path.write_text(RECORDS)
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


@pytest.fixture
def embed(fasta, output, capsys):
    """Run the command; its exit code and what it said."""

    def run(*more):
        code = main(["embed", str(fasta), "-o", str(output), *MODEL, *more])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def unfinished(fasta, embed):
    fasta.write_text(RECORDS + ">bad\nM1\n")
    code, said = embed("--strict")
    assert code == 1 and "'bad'" in said and AGAIN in said
    fasta.write_text(RECORDS)


def change(what, fasta, output):
    """Make the unfinished run one that cannot be continued; returns the words to add."""
    match what:
        case "other settings":
            return ["--pool", "bos"]
        case "another input":
            fasta.write_text(RECORDS.replace("K", "R"))
        case "a shorter input":
            fasta.write_text(">a\nMKTAYIAK\n")
        case "damaged settings":
            (folder_of(output) / "settings.json").write_text("{")
    return []


CHANGES = [
    "other settings",
    "another input",
    "a shorter input",
    "damaged settings",
]


@pytest.mark.parametrize("what", CHANGES)
def test_a_run_that_cannot_be_continued_is_not_advised_to(unfinished, embed, fasta, output, what):
    more = change(what, fasta, output)
    code, said = embed("--resume", *more)
    assert code == 1 and AGAIN not in said and "--force" in said, said
    code, said = embed("--force", *more)
    assert code == 0, said
    assert len(Embeddings(output)) == fasta.read_text().count(">")


@pytest.mark.parametrize("name", ["rows", "names", "journal"])
@pytest.mark.parametrize("what", ["cut", "gone", "changed"])
def test_rows_that_are_lost_are_computed_again(unfinished, embed, output, name, what):
    (path,) = folder_of(output).glob(f"segments/*/*/{name}")
    match what:
        case "cut":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case "changed":
            path.write_bytes(path.read_bytes().translate(bytes(range(1, 256)) + b"\0"))
    code, said = embed("--resume")
    if what == "changed" and name != "journal":
        assert code == 1 and "are not what was written there" in said and AGAIN in said
        code, said = embed("--resume")
    assert code == 0, said
    assert Embeddings(output).names == ["a", "b", "c"] and Embeddings(output).verify()


def test_what_is_advised_after_a_broken_input_works(unfinished, embed, output):
    assert embed("--resume")[0] == 0
    assert Embeddings(output).names == ["a", "b", "c"]


def test_a_complete_file_of_other_settings_is_not_advised_to_be_continued(embed):
    assert embed()[0] == 0
    code, said = embed("--resume", "--pool", "bos")
    assert code == 1 and AGAIN not in said and "--force" in said


def test_an_input_that_is_mended_needs_no_flag(fasta, embed, output):
    fasta.write_text("")
    code, said = embed()
    assert code == 1 and "is empty" in said and AGAIN not in said
    assert list(output.parent.iterdir()) == [fasta]
    fasta.write_text(RECORDS)
    assert embed()[0] == 0


def test_records_that_were_appended_are_embedded_by_resume(fasta, embed, output):
    assert embed()[0] == 0
    fasta.write_text(RECORDS + ">d\nMAA\n")
    assert embed("--resume")[0] == 0
    assert Embeddings(output).names == ["a", "b", "c", "d"]


@pytest.mark.parametrize("more", [[], ["--force"], ["--resume"]])
def test_a_pipe_is_not_replaced(embed, output, more):
    os.mkfifo(output)
    code, said = embed(*more)
    assert code == 1 and "is a pipe (FIFO): name a file" in said and AGAIN not in said
    assert output.is_fifo()


def test_weights_are_never_the_output(fasta, tmp_path, capsys, checkpoint):
    link = tmp_path / "out.h5"
    link.symlink_to(checkpoint)
    before = checkpoint.stat().st_size
    words = ["embed", str(fasta), "-o", str(link), "--model", "esm2_t6_8M_UR50D", "--weights", str(checkpoint)]
    assert main([*words, "--force"]) == 1
    assert "is the input: name another file" in capsys.readouterr().err
    assert checkpoint.stat().st_size == before
