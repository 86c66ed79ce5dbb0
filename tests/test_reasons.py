"""What is said of a mistake is what it is, and what is advised helps."""

import json
import os

import numpy as np
import pytest

from virnucpro.cli import main
from virnucpro.pipeline.async_inference import TooNarrowError, check_fits
from virnucpro.store import npz
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.settings import differing_values

MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu", "--token-budget", "20"]
RECORDS = "".join(f">p{number}\n{'MKTAYIAKQR'[: 2 + number % 8]}\n" for number in range(60))


pytestmark = pytest.mark.usefixtures("one_model")


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fasta"
    path.write_text(RECORDS)
    return path


@pytest.fixture
def embed(tmp_path, capsys):
    """Run the command; its exit code, and what it said to standard output and error."""

    def run(path, output, *more):
        code = main(["embed", str(path), "-o", str(tmp_path / output), *MODEL, *more])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def merge(tmp_path, capsys):
    def run(output, *parts):
        code = main(["merge", str(tmp_path / output), *(str(tmp_path / part) for part in parts)])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "more, said",
    [
        (["--max-length", "5"], "max_length 5 and not 1022"),
        (["--max-length", "none"], "max_length None and not 1022"),
        (["--token-budget", "30"], "token_budget 30 and not 20"),
    ],
)
def test_a_shard_of_other_settings_is_not_one_of_another_input(fasta, embed, merge, more, said):
    assert embed(fasta, "1.h5", "--shard", "1/2")[0] == 0
    assert embed(fasta, "2.h5", "--shard", "2/2", *more)[0] == 0
    code, told = merge("out.h5", "1.h5", "2.h5")
    assert code == 1 and f"2.h5 was made with {said}, unlike" in told and "another input" not in told
    assert "digest" not in told


def test_a_setting_is_shown_as_it_is_given(fasta, embed):
    pairs = differing_values(["max_length"], {"max_length": np.int64(1022)}, {"max_length": 5})
    assert pairs == "max_length 1022 and not 5"
    assert embed(fasta, "o.h5", "--layers", "1")[0] == 0
    code, _, said = embed(fasta, "o.h5", "--layers", "1", "2", "--max-length", "none", "--resume")
    assert code == 1 and "layers [1] and not [1, 2], max_length 1022 and not None" in said


@pytest.mark.parametrize("text", ["1/0", "0/0", "00/00"])
def test_no_shards_are_not_numbered(fasta, embed, text):
    code, _, said = embed(fasta, "o.h5", "--shard", text)
    assert code == 1 and "there is at least one shard" in said and "numbered" not in said


@pytest.mark.parametrize("text", ["9" * 5_000 + "/2", "1/" + "9" * 5_000, "²/3", "1/2/3", " 1/2", "1/2\n"])
def test_what_is_no_shard_is_told_without_a_traceback(fasta, embed, text):
    code, _, said = embed(fasta, "o.h5", "--shard", text)
    assert code == 1 and "a shard is written 3/16" in said


@pytest.mark.parametrize("option", ["--max-length", "--token-budget", "--chunk"])
def test_a_number_that_no_file_can_hold_is_refused_before_anything_is_computed(fasta, embed, option):
    more = ["--translate", "six-frame"] if option == "--chunk" else []
    code, _, said = embed(fasta, "o.h5", option, "9" * 30, *more)
    assert code == 1 and "at most 2,147,483,647 is possible" in said
    assert list(fasta.parent.iterdir()) == [fasta]


@pytest.mark.exhaustive
def test_the_summaries_of_shards_add_up_to_the_input(tmp_path, embed):
    path = tmp_path / "in.fasta"
    odd = ">odd{}\nM1\n>empty{}\n"
    path.write_text(
        odd.format(0, 0)
        + "".join(f">p{n % 50}\n{'MKTAYIAK' * 4}\n" + (odd.format(n, n) if n % 9 == 0 else "") for n in range(90))
    )
    assert embed(path, "one.h5")[0] == 0
    _, out, _ = embed(path, "whole.h5", "--max-length", "9", "--json")
    whole, shares = json.loads(out), []
    for number in (1, 2, 3):
        table = tmp_path / f"{number}.tsv"
        more = ["--max-length", "9", "--json", "--shard", f"{number}/3", "--skipped", str(table)]
        code, out, said = embed(path, f"{number}.h5", *more)
        assert code == 0
        shares.append(json.loads(out))
        share = shares[-1]
        assert share["input_records"] == whole["records"]
        assert share["embedded_records"] == share["sequences"] == share["truncated"]["count"]
        skipped = sum(tally["count"] for tally in share["skipped"].values())
        assert share["records"] == share["embedded_records"] + skipped
        assert len(table.read_text().splitlines()) == 1 + skipped
        assert f"{share['records']:,} records: {share['embedded_records']:,} embedded" in said or not skipped
    for name in ("records", "embedded_records", "sequences", "residues"):
        assert sum(share[name] for share in shares) == whole[name]
    for name in ("truncated", "repeated_names", "like_dna"):
        assert sum(share[name]["count"] for share in shares) == whole[name]["count"]
    for reason, tally in whole["skipped"].items():
        assert sum(share["skipped"].get(reason, {"count": 0})["count"] for share in shares) == tally["count"]


def test_an_input_of_which_nothing_is_embedded_is_the_first_shards(tmp_path, embed):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nM1\n>b\n")
    found = [json.loads(embed(path, f"{n}.h5", "--json", "--shard", f"{n}/2")[1])["records"] for n in (1, 2)]
    assert found == [2, 0]


def test_dna_of_shards_adds_up_too(tmp_path, embed):
    path = tmp_path / "in.fasta"
    path.write_text(
        "".join(f">c{n}\n{'ATGAAAACC' * (2 + n % 4)}\n>closed{n}\nTTAATTAATTAATTAA\n" for n in range(9))
    )
    more = ["--translate", "six-frame", "--chunk", "20", "--json"]
    whole = json.loads(embed(path, "whole.h5", *more)[1])
    shares = [json.loads(embed(path, f"{n}.h5", *more, "--shard", f"{n}/2")[1]) for n in (1, 2)]
    for name in ("records", "embedded_records", "sequences"):
        assert sum(share[name] for share in shares) == whole[name]
    assert sum(share["without_open_frame"]["count"] for share in shares) == 9
    assert all(share["records"] for share in shares)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: path.mkdir(), "it is a folder and not a table (.h5)"),
        (lambda path: path.write_text(">a\nMK\n"), "it is no HDF5 file"),
        (lambda path: path.write_text(""), "it is empty"),
        (lambda path: np.savez(path.open("wb"), a=1), "it is a .npz file and not a table (.h5)"),
        (os.mkfifo, "it is a pipe (FIFO): name a file"),
    ],
    ids=["folder", "fasta", "empty", "npz", "pipe"],
)
def test_what_is_no_part_is_told_in_our_words(tmp_path, merge, capsys, make, said):
    make(tmp_path / "part.h5")
    code, told = merge("out.h5", "part.h5")
    assert code == 1 and f"cannot read {tmp_path}/part.h5: {said}" in told
    assert len(told.splitlines()) == 1 and "errno" not in told
    if not said.endswith("(.h5)"):
        assert main(["verify", str(tmp_path / "part.h5")]) == 1
        assert f"cannot read {tmp_path}/part.h5: {said}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "rows, residues, named",
    [([1, 2, 1e6, 3], [5, 6, 7, 8], "'c'"), ([1, 1, 2, 1e6, 2, 3, 4], [2, 3, 1, 1], "'b'"),
     ([1e6, 2, 1e6, 3], [5, 6, 7, 8], "'a' (and 1 more of its batch)")],
)  # fmt: skip
def test_what_is_too_large_for_the_files_type_is_named(rows, residues, named):
    sizes = [1] * len(residues) if len(rows) == len(residues) else residues
    with pytest.raises(TooNarrowError) as told:
        check_fits(["a", "b", "c", "d"], sizes, np.array(rows, np.float32), np.dtype("float16"))
    assert f"the embedding of {named} has values up to 1,000,000, which float16 cannot hold" in str(told.value)


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(npz, "WIDE_BYTES", 100_000)


def test_one_long_name_does_not_take_the_memory_at_the_end(tmp_path, embed, narrow):
    path = tmp_path / "in.fasta"
    path.write_text(">" + "n" * 7_000 + "\nMK\n" + RECORDS)
    code, _, said = embed(path, "o.npz")
    assert code == 1 and "name a .h5 file, or shorten that name" in said and "n" * 90 not in said
    assert "--model" not in said and not (tmp_path / "o.npz").exists()
    assert embed(path, "o.h5")[0] == 0


def test_parts_with_one_long_name_are_not_merged_into_what_takes_the_memory(tmp_path, embed, merge, narrow):
    path = tmp_path / "in.fasta"
    path.write_text(RECORDS + ">" + "n" * 7_000 + "\nMK\n")
    assert embed(path, "part.h5", "--shard", "1/1")[0] == 0
    code, said = merge("o.npz", "part.h5")
    assert code == 1 and "name a .h5 file" in said and not (tmp_path / "o.npz.partial").exists()
    assert merge("o.h5", "part.h5")[0] == 0


def test_names_of_like_length_are_written(tmp_path, embed, narrow):
    path = tmp_path / "in.fasta"
    path.write_text("".join(f">{'n' * 900}{number}\nMK\n" for number in range(60)))
    assert embed(path, "o.npz")[0] == 0


def test_an_npz_that_does_not_fit_into_memory_can_become_hdf5(tmp_path, fasta, embed, merge, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(npz.np, "savez", full)
        code, _, said = embed(fasta, "o.npz")
        assert code == 1 and "name a .h5 file" in said and "--token-budget or" not in said
        assert f"rename {tmp_path}/o.npz.partial to NAME.h5.partial" in said
        assert embed(fasta, "part.h5", "--shard", "1/1")[0] == 0
        code, said = merge("whole.npz", "part.h5")
        assert code == 1 and "name a .h5 file" in said and "--model" not in said
    (tmp_path / "o.npz.partial").rename(tmp_path / "o.h5.partial")
    code, out, _ = embed(fasta, "o.h5", "--resume", "--json")
    assert code == 0 and json.loads(out)["resumed_sequences"] == 60
    assert len(Embeddings(tmp_path / "o.h5")) == 60
