"""The table of ``--skipped``: nothing is replaced by it without leave, and it is whole or continued."""

import contextlib
import fcntl
import os
import shutil
import signal
import sys

import pytest
import torch

from tests.conftest import random_model
from virnucpro.cli import main
from virnucpro.cli.skipped import HEADER
from virnucpro.data.tokens import ALPHABET
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.embed import Progressed
from virnucpro.store.disk import NEW
from virnucpro.store.place import folder_of

NAME = "esm2_t6_8M_UR50D"
MODEL = ["--model", NAME, "--device", "cpu", "--token-budget", "12"]
RECORDS = ">a\nMKTAYIAK\n>odd\nM1\n>b\nMKV\n>c\nMLTAYI\n"
LINES = [HEADER.rstrip("\n"), "odd"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, one_model):
    """The tests' folder, in which there is an input; and one model for all of them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.fasta").write_text(RECORDS)
    return tmp_path


@pytest.fixture
def embed(capsys):
    """Run the command; its exit code, and what it said."""

    def run(*more, output="o.h5", also=()):
        weights = [] if "--weights" in more else ["--weights", "random"]
        code = main(["embed", "in.fasta", *also, "-o", output, *MODEL, *weights, *more])
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def unloaded(monkeypatch):
    """Nothing is spent: no weights are read."""

    def fail(*_, **__):
        raise AssertionError("the weights are read")

    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", fail)


def everything(folder):
    """What is in a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def names(path):
    return [line.split("\t")[0] for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("more", [[], ["--resume"], ["--force"]])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize(
    "what", ["in.fasta", "second.fasta", "w.pt", "o.h5", "o.h5.partial/settings.json", "hub/config.json"]
)
def test_nothing_of_the_run_is_replaced(here, embed, unloaded, monkeypatch, what, link, more):
    for each in (
        "second.fasta",
        "w.pt",
        "o.h5",
        "o.h5.partial/settings.json",
        "hub/config.json",
        "hub/x.safetensors",
    ):
        (here / each).parent.mkdir(exist_ok=True)
        (here / each).write_bytes(b">a\nMK\n")
    name = what
    if link is not None:
        link(here / what, here / "another name")
        name = "another name"
    before = everything(here)
    weights = "hub/x.safetensors" if what.startswith("hub") else "w.pt"
    code, said = embed("--weights", weights, *more, "--skipped", name, also=["second.fasta"])
    assert code == 1 and everything(here) == before
    if more:
        assert f"--skipped {name}" in said and "name another file" in said
        assert ("a file of the weights" in said) == (what in ("w.pt", "hub/config.json"))


@pytest.mark.parametrize("name", ["o.h5", "./o.h5", "link", "o.h5.partial", "o.h5.partial/x"])
def test_an_output_that_is_not_there_yet_is_not_the_table(here, embed, unloaded, name):
    (here / "link").symlink_to("o.h5")
    code, said = embed("--skipped", name)
    assert code == 1 and f"--skipped {name.removeprefix('./')}" in said
    assert {path.name for path in here.iterdir()} == {"in.fasta", "link"}


@pytest.mark.parametrize("output, table", [("t.new", "t"), ("p.parquet", "p.parquet/part-00000.parquet")])
def test_where_the_table_is_made_is_not_the_output_either(here, embed, unloaded, output, table):
    if output == "p.parquet":
        (here / output).mkdir()
        (here / table).write_bytes(b"mine")
    before = everything(here)
    code, said = embed("--skipped", table, "--force", output=output)
    assert code == 1 and "name another file" in said and everything(here) == before


def test_an_input_where_the_table_is_made_is_kept(here, embed, unloaded):
    (here / "t.new").write_text(RECORDS)
    code, said = embed("--skipped", "t", "--force", also=["t.new"])
    assert code == 1 and "t.new, which is an input or the output" in said
    assert (here / "t.new").read_text() == RECORDS


@pytest.mark.parametrize("more", [[], ["--resume"], ["--force"]])
@pytest.mark.parametrize(
    "make, said",
    [
        (lambda path: path.mkdir(), "a folder"),
        (os.mkfifo, "a pipe (FIFO)"),
        (lambda path: path.symlink_to("/dev/full"), "a device"),
        (lambda path: path.symlink_to(path), "a loop of symbolic links"),
        (lambda path: path.symlink_to("missing/there"), "there is no folder"),
    ],
    ids=["folder", "pipe", "device", "loop", "dangling"],
)
def test_what_is_no_file_is_named(here, embed, unloaded, make, said, more):
    make(here / "t")
    code, told = embed("--skipped", "t", *more)
    assert code == 1 and "cannot write --skipped t: " in told and said in told
    assert {path.name for path in here.iterdir()} == {"in.fasta", "t"}


def test_a_standard_stream_is_not_a_file(embed, capsys):
    for more in (["--skipped", "-"], ["-o", "-"]):
        with pytest.raises(SystemExit) as ended:
            embed(*more)
        assert ended.value.code == 2 and "no standard stream" in capsys.readouterr().err


def test_where_standard_output_goes_is_not_replaced(here, embed, unloaded, monkeypatch):
    with (here / "t").open("w") as file, monkeypatch.context() as patch:
        patch.setattr("virnucpro.cli.commands.STREAMS", {file.fileno(): "where standard output goes"})
        code, said = embed("--skipped", "t", "--force")
        assert code == 1 and "t is where standard output goes" in said
        code, said = embed("--force", output="t")
        assert code == 1 and "t is where standard output goes" in said


def test_a_file_of_the_cache_of_weights_is_kept(here, embed, unloaded, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(here / "torch"))
    cached = here / "torch" / "hub" / "checkpoints" / f"{NAME}.pt"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"weights")
    code, said = embed("--weights", "pretrained", "--force", "--skipped", str(cached))
    assert code == 1 and "a file of the weights" in said
    code, said = embed("--weights", "pretrained", "--force", output=str(cached))
    assert code == 1 and cached.read_bytes() == b"weights"


@pytest.mark.parametrize("content", ["", "mine\n", RECORDS, HEADER.replace("detail", "details"), HEADER[:-1]])
def test_what_exists_is_replaced_with_force_only(here, embed, content):
    table = here / "t"
    table.write_text(content)
    for more, message in ([], "exists: give another name, or --force"), (["--resume"], "is no table of skipped"):
        code, said = embed("--skipped", "t", *more)
        assert code == 1 and message in said and table.read_text() == content
        assert {path.name for path in here.iterdir()} == {"in.fasta", "t"}
    assert embed("--skipped", "t", "--force")[0] == 0
    assert names(table) == ["odd"] and not (here / "t.new").exists()


def test_a_table_of_another_run_is_not_continued(here, embed):
    assert embed("--skipped", "t")[0] == 0
    before = (here / "t").read_bytes()
    code, said = embed("--skipped", "t", "--resume", output="other.h5")
    assert code == 1 and "is of another run" in said and (here / "t").read_bytes() == before
    assert not (here / "other.h5").exists()
    assert embed("--skipped", "t", "--resume")[0] == 0
    assert (here / "t").read_bytes() == before


def test_a_table_is_replaced_when_the_run_is_complete_and_not_before(here, embed):
    assert embed("--skipped", "t")[0] == 0
    before = (here / "t").read_bytes()
    shutil.copy("in.fasta", "good.fasta")
    (here / "in.fasta").write_text(RECORDS + ">bad\nMK>x\nMK\n")
    code, said = embed("--skipped", "t", "--force")
    assert code == 1 and "continues it" in said and (here / "t").read_bytes() == before
    assert names(here / "t.new") == ["odd"]
    (here / "in.fasta").write_text(RECORDS + ">odd2\nM2\n")
    code, said = embed("--skipped", "t", "--resume")
    assert code == 0, said
    assert names(here / "t") == ["odd", "odd2"] and not (here / "t.new").exists()


def test_a_run_of_which_nothing_can_be_continued_leaves_no_table(here, embed):
    (here / "in.fasta").write_text(">odd\nM1\n>bad\nMK>x\nMK\n")
    assert embed("--skipped", "t")[0] == 1
    assert {path.name for path in here.iterdir()} == {"in.fasta"}


@pytest.mark.parametrize("more", [["--layers", "99"], ["--device", "tpu"], ["--shard", "3/2"]])
def test_a_mistake_leaves_no_table(here, embed, more, monkeypatch):
    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", load_esm2_model)
    assert embed("--skipped", "t", *more)[0] == 1
    assert {path.name for path in here.iterdir()} == {"in.fasta"}


@pytest.fixture
def stopped(embed, monkeypatch):
    """Stop a run after its first batch."""

    def run(*more):
        with monkeypatch.context() as patch:
            patch.setattr(
                "virnucpro.cli.commands.Progress",
                lambda: contextlib.nullcontext(lambda done: os.kill(os.getpid(), signal.SIGTERM)),
            )
            patch.setattr("virnucpro.pipeline.prefetch.COMMIT_SECONDS", 0.0)
            code, said = embed(*more)
        assert code == 143, said

    return run


def test_what_a_stopped_run_left_is_continued(here, embed, stopped):
    (here / "in.fasta").write_text(RECORDS * 20)
    stopped("--skipped", "t")
    assert not (here / "t").exists() and (here / "t.new").read_text().startswith(HEADER)
    for more, message in ([], "holds an unfinished run"), (["--resume", "--pool", "bos"], "pool 'mean'"):
        code, said = embed("--skipped", "t", *more)
        assert code == 1 and message in said and (here / "t.new").exists()
    assert embed("--skipped", "t", "--resume")[0] == 0
    assert names(here / "t") == ["odd"] * 20
    assert {path.name for path in here.iterdir()} == {"in.fasta", "o.h5", "t"}


def test_a_run_begun_anew_drops_what_a_stopped_one_left(here, embed, stopped):
    (here / "in.fasta").write_text(RECORDS * 20)
    stopped("--skipped", "t")
    (here / "in.fasta").write_text(RECORDS)
    assert embed("--skipped", "t", "--force")[0] == 0
    assert names(here / "t") == ["odd"] and not (here / "t.new").exists()


def test_something_else_where_the_table_is_made_is_kept(here, embed, unloaded):
    (here / "t.new").write_text("mine")
    for more in [], ["--resume"], ["--force"]:
        code, said = embed("--skipped", "t", *more)
        assert code == 1 and "t.new, where something else is: move it" in said
        assert (here / "t.new").read_text() == "mine"


def test_the_table_of_a_killed_run_is_not_dropped_unasked(here, embed):
    (here / "t.new").write_text(HEADER + "a\tb\tc\t1\td\n")
    code, said = embed("--skipped", "t")
    assert code == 1 and "continue that with --resume, or drop it with --force" in said
    assert embed("--skipped", "t", "--resume")[0] == 0
    assert names(here / "t") == ["odd"]


def test_two_processes_do_not_write_one_table(here, embed):
    with (here / "t.new").open("w") as file:
        file.write(HEADER)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        for more in ["--resume"], ["--force"]:
            code, said = embed("--skipped", "t", *more)
            assert code == 1 and "another process is writing" in said
    assert (here / "t.new").read_text() == HEADER and not (here / "o.h5").exists()


def test_lines_of_nan_are_kept_through_stops_and_nothing_else_is(here, embed, stopped, monkeypatch):
    model, _ = load_esm2_model(NAME, "cpu", precision="fp32", weights="random")
    with torch.inference_mode():
        model.embed_tokens.weight[ALPHABET.get_idx("W")] = float("nan")
    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", lambda *_, **__: (model, None))
    (here / "in.fasta").write_text(">nan\nMW\n" + RECORDS * 20 + ">nan2\nMW\n")
    more = ["--skipped", "t", "--on-nan", "skip"]
    stopped(*more)
    assert "nan" in names(here / "t.new")
    stopped(*more, "--resume")
    assert embed(*more, "--resume")[0] == 0
    assert sorted(names(here / "t")) == ["nan", "nan2", *["odd"] * 20]
    before = sorted((here / "t").read_text().splitlines())
    assert embed(*more, "--resume")[0] == 0  # complete
    assert sorted((here / "t").read_text().splitlines()) == before
    assert embed(*more, "--force")[0] == 0
    assert sorted((here / "t").read_text().splitlines()) == before
    (here / "o.h5").unlink()
    (here / "t").rename(here / "t.new")
    code, said = embed(*more, "--resume")
    assert code == 1 and "is the table of another run" in said


def test_names_of_files_do_not_break_the_table(here, embed):
    (here / "a\tb\nc.fasta").write_text(">odd\x0b2\nM1\n")
    assert embed("--skipped", "t", also=["a\tb\nc.fasta"])[0] == 0
    rows = [line.split("\t") for line in (here / "t").read_text().split("\n")[1:-1]]
    assert [len(row) for row in rows] == [5, 5] and rows[1][2] == "a\\tb\\nc.fasta"


def test_a_table_that_cannot_be_moved_into_place_is_told_and_kept(here, embed, monkeypatch):
    real = os.replace

    def replace(one, other):
        if str(other).endswith("/t"):
            raise OSError(28, "No space left on device")
        return real(one, other)

    monkeypatch.setattr(os, "replace", replace)
    code, said = embed("--skipped", "t")
    assert code == 1 and "o.h5 is complete, but --skipped t cannot be written: No space left" in said
    assert (
        names(here / f"t{NEW}") == ["odd"] and (here / "o.h5").exists() and not folder_of(here / "o.h5").exists()
    )
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", lambda name, *_, **__: random_model(name))
    assert embed("--skipped", "t", "--resume")[0] == 0
    assert names(here / "t") == ["odd"]


def test_what_came_to_its_place_meanwhile_is_kept(here, embed, monkeypatch):
    def progress(done: Progressed):
        (here / "t").write_text("mine")

    monkeypatch.setattr("virnucpro.cli.commands.Progress", lambda: contextlib.nullcontext(progress))
    code, said = embed("--skipped", "t")
    assert code == 1 and "is complete, but" in said and "something is there now" in said
    assert (here / "t").read_text() == "mine" and names(here / "t.new") == ["odd"]


@pytest.mark.parametrize("command", ["merge", "verify"])
def test_other_commands_name_no_standard_stream(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "-", "x.h5"])
    assert "no standard stream" in capsys.readouterr().err and sys.stdin is not None
