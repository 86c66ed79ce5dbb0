"""``--genetic-code``: what is embedded follows it, and no other one continues or is merged."""

import pytest

from tests.conftest import sample_of
from virnucpro.cli import main
from virnucpro.data.six_frame import GENETIC_CODES, translate
from virnucpro.store.embeddings import Embeddings

WORDS = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu", "--token-budget", "30"]
DNA = "ATGTGAAAACTGTGAGCC"  # TGA is W in code 4, G in code 25, and a stop in 1, 11 and 15
RECORDS = "".join(f">c{number}\n{DNA * (1 + number % 3)}\n" for number in range(20))


@pytest.fixture
def embed(tmp_path, monkeypatch, capsys, one_model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fasta").write_text(RECORDS)

    def run(*more, output="o.h5", translated=True):
        how = ["--translate", "six-frame"] if translated else []
        return main(["embed", "in.fasta", "-o", output, *WORDS, *how, *more]), capsys.readouterr().err

    return run


@pytest.mark.parametrize("code", sample_of([1, 4, 11, 15, 25], 1, 4))
def test_the_proteins_are_those_of_the_code_and_it_is_recorded(embed, code):
    assert embed("--genetic-code", str(code))[0] == 0
    with Embeddings("o.h5") as file:
        expected = [name for n in range(20) for name, _ in translate(f"c{n}", DNA * (1 + n % 3), 500, code)]
        assert file.names == expected and file.settings["genetic_code"] == code
        assert ("c0_chunk_1F1" in file.names) == (code in (4, 25))


@pytest.mark.exhaustive
def test_the_standard_code_is_the_default_and_proteins_have_none(embed):
    assert embed()[0] == 0 and embed(output="p.h5", translated=False)[0] == 0
    assert embed("--resume", "--genetic-code", "1")[0] == 0
    assert Embeddings("o.h5").settings["genetic_code"] == 1
    assert Embeddings("p.h5").settings["genetic_code"] == "null"


@pytest.mark.parametrize("output", sample_of(["o.h5", "o.npz"], "o.h5"))
def test_another_code_does_not_continue(embed, output):
    assert embed(output=output)[0] == 0
    code, said = embed("--resume", "--genetic-code", "11", output=output)
    assert code == 1 and "genetic_code 1 and not 11" in said


@pytest.mark.exhaustive
def test_another_code_does_not_continue_what_is_unfinished(embed, tmp_path):
    (tmp_path / "in.fasta").write_text(RECORDS * 5 + ">bad\nAC>x\nAC\n")
    code, said = embed("--genetic-code", "4")
    assert code == 1 and "continues it" in said
    code, said = embed("--genetic-code", "25", "--resume")
    assert code == 1 and "genetic_code 4 and not 25" in said


@pytest.mark.exhaustive
def test_shards_of_two_codes_are_not_merged(embed, capsys):
    assert embed("--shard", "1/2", "--genetic-code", "1", output="1.h5")[0] == 0
    assert embed("--shard", "2/2", "--genetic-code", "4", output="2.h5")[0] == 0
    assert main(["merge", "whole.h5", "1.h5", "2.h5"]) == 1
    assert "2.h5 was made with genetic_code 4 and not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, said",
    [
        (["--genetic-code", "4"], "--genetic-code is for DNA: it needs --translate six-frame"),
        (["--translate", "six-frame", "--genetic-code", "7"], "invalid choice: 7"),
        (["--translate", "six-frame", "--genetic-code", "0"], "invalid choice: 0"),
        (["--translate", "six-frame", "--genetic-code", ""], "--genetic-code"),
        (["--translate", "six-frame", "--genetic-code", "standard"], "--genetic-code"),
    ],
)
def test_a_code_that_makes_no_sense_is_refused(capsys, more, said):
    with pytest.raises(SystemExit) as ended:
        main(["embed", "in.fasta", "-o", "o.h5", *more])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert 7 not in GENETIC_CODES
