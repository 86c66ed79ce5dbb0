"""``--estimate``: what it tells is what a run then does, and nothing is written."""

import json

import pytest
import torch

from tests.conftest import sample_of
from virnucpro.cli import main
from virnucpro.cli.report import duration
from virnucpro.pipeline import estimate as module

MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu"]
RECORDS = "".join(f">protein{number}\n{'MKTAYIAKQR'[: 3 + number % 8]}\n" for number in range(150)) + ">odd\nM1\n"
DNA = "".join(f">c{number}\n{'ATGAAAACCTGG' * (2 + number % 9)}\n" for number in range(60))


@pytest.fixture
def embed(tmp_path, monkeypatch, capsys, one_model):
    """Run the command in the tests' folder; its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "MEASURED_SECONDS", 0.2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)

    def run(*words, output="o.h5", text=RECORDS):
        (tmp_path / "in.fasta").write_text(text)
        code = main(["embed", *words, "-o", output, *MODEL])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def found(folder):
    return {path.name for path in folder.iterdir()}


CASES = {
    "table": ("o.h5", RECORDS, []),
    "half of it": ("o.h5", RECORDS, ["--dtype", "float16", "--max-length", "5"]),
    "layers": ("o.h5", RECORDS, ["--layers", "0", "-1"]),
    "residues": ("o.h5", RECORDS, ["--pool", "residue"]),
    "per protein": ("o.h5", RECORDS, ["--layout", "per-protein"]),
    "npz": ("o.npz", RECORDS, []),
    "virnucpro": ("o", RECORDS, ["--layout", "virnucpro"]),
    "dna": ("o.h5", DNA, ["--translate", "six-frame", "--genetic-code", "4", "--chunk", "50"]),
    "a shard": ("o.h5", RECORDS, ["--shard", "1/2", "--token-budget", "60"]),
}


@pytest.mark.parametrize("name", sample_of(CASES, "residues", "a shard"))
def test_what_is_estimated_is_what_is_done(tmp_path, embed, name):
    output, text, more = CASES[name]
    code, out, said = embed("in.fasta", *more, "--estimate", "1000", "--json", output=output, text=text)
    assert code == 0 and found(tmp_path) == {"in.fasta"}, said
    told = json.loads(out)
    code, out, said = embed("in.fasta", *more, "--json", output=output, text=text)
    assert code == 0, said
    done = json.loads(out)
    for each in ("records", "embedded_records", "skipped", "truncated", "sequences", "residues"):
        assert told[each] == done[each], each
    assert told["tokens"] == done["residues"] + 2 * done["sequences"]
    assert told["hours"] == pytest.approx(told["tokens"] / 1000 / 3600, abs=1e-6) and not told["measured"]
    whole = tmp_path / output
    size = sum(path.stat().st_size for path in (whole.iterdir() if whole.is_dir() else [whole]))
    assert 0.85 < told["output_bytes"] / size < 1.25


def test_a_rate_that_is_not_given_is_measured(tmp_path, embed):
    code, out, _ = embed("--estimate", "in.fasta", "--json")
    told = json.loads(out)
    assert code == 0 and told["measured"] and told["tokens_per_second"] > 100 and told["sequences"] == 150
    assert told["hours"] == pytest.approx(told["tokens"] / told["tokens_per_second"] / 3600, rel=0.01, abs=1e-6)
    code, out, said = embed("in.fasta", "--estimate")
    assert code == 0 and said == "" and "(measured)" in out and found(tmp_path) == {"in.fasta"}


def test_it_is_told_in_words(embed):
    code, out, said = embed("in.fasta", "--estimate", "3.6e3", "--max-length", "5")
    assert code == 0 and said == ""
    assert out.splitlines() == [
        "records:   151, 1 of which give nothing to embed",
        "sequences: 150, 693 residues, 993 tokens, after 93 were cut",
        out.splitlines()[2],
        "time:      0.3 seconds at 3,600 tokens/s (given)",
    ]
    assert out.splitlines()[2].startswith("output:    2")
    assert [duration(hours) for hours in (1234.5, 0.5, 0.001)] == ["1,234.5 hours", "30.0 minutes", "3.6 seconds"]


def test_an_output_that_exists_is_no_reason_to_refuse_and_is_kept(tmp_path, embed):
    (tmp_path / "o.h5").write_text("mine")
    (tmp_path / "t").write_text("mine")
    assert embed("in.fasta", "--estimate", "9", "--skipped", "t", "--force")[0] == 0
    assert (tmp_path / "o.h5").read_text() == (tmp_path / "t").read_text() == "mine"
    assert found(tmp_path) == {"in.fasta", "o.h5", "t"}


def test_nothing_to_embed_takes_no_time(embed):
    code, out, _ = embed("in.fasta", "--estimate", "--json", text=">odd\nM1\n")
    told = json.loads(out)
    assert code == 0 and (told["hours"], told["sequences"], told["tokens_per_second"]) == (0.0, 0, None)
    assert embed("in.fasta", "--estimate", text=">odd\nM1\n")[0] == 0


@pytest.mark.parametrize(
    "more, said",
    [
        (["--layers", "99"], "layer 99: this model has layers 0 to 6"),
        (["--model", "esm3"], "unknown model 'esm3'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--shard", "1/0"], "at least one shard"),
    ],
)
def test_a_mistake_is_told(tmp_path, capsys, more, said):
    path = tmp_path / "in.fasta"
    path.write_text(RECORDS)
    assert main(["embed", str(path), "-o", str(tmp_path / "o.h5"), *MODEL, "--estimate", "9", *more]) == 1
    told = capsys.readouterr().err
    assert said in told and "--resume" not in told


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e999"])
def test_a_rate_that_makes_no_sense_is_refused(capsys, rate):
    with pytest.raises(SystemExit) as ended:
        main(["embed", "in.fasta", "-o", "o", "--estimate", rate])
    assert ended.value.code == 2 and "a number above 0 is needed" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--estimate=fast"], ["--estimate", "9", "--ray"]])
def test_a_wrong_command_is_told_with_its_usage(capsys, more):
    with pytest.raises(SystemExit) as ended:
        main(["embed", "in.fasta", "-o", "o", *more])
    assert ended.value.code == 2 and "usage: virnucpro embed" in capsys.readouterr().err


def test_weights_that_are_not_there_are_told_before_a_week_is_planned(tmp_path, capsys):
    (tmp_path / "in.fasta").write_text(RECORDS)
    words = ["embed", str(tmp_path / "in.fasta"), "-o", str(tmp_path / "o.h5"), *MODEL[:2], "--weights", "w.pt"]
    assert main([*words, "--estimate"]) == 1 and "no checkpoint at w.pt" in capsys.readouterr().err
