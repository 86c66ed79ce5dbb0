"""The command: killed, stopped, on a full disk, and what it says to odd input."""

import json
import os
import random
import shlex
import signal
import time

import pytest

from tests.command import start
from virnucpro.cli import main
from virnucpro.models.precision import PRECISIONS
from virnucpro.pipeline.async_inference import POOLS
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.journal import begun_settings, folder_of

MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu"]
PATIENCE = 60  # seconds


def datasets(path):
    with Embeddings(path) as file:
        return file.names, file.lengths.tobytes(), file.embeddings[()].tobytes()


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    rng = random.Random("virnucpro command")
    path = tmp_path_factory.mktemp("command") / "in.fasta"
    proteins = ("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(5, 40))) for _ in range(150))
    path.write_text("".join(f">p{number}\n{protein}\n" for number, protein in enumerate(proteins)))
    return path


def words(fasta, output, *more):
    return ["embed", str(fasta), "-o", str(output), *MODEL, "--token-budget", "100", *more]


@pytest.fixture(scope="module")
def whole(fasta):
    """An uninterrupted run, in a process like those that are interrupted; and how long it took."""
    output, log = fasta.with_name("whole.h5"), fasta.with_name("whole.log")
    process = start(words(fasta, output, "--json"), log)
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()
    return output, json.loads(log.read_text())["seconds"]


@pytest.fixture
def run(fasta, tmp_path):
    """Start the command on out.h5; the process."""

    def begin(*more, **keywords):
        return start(words(fasta, tmp_path / "out.h5", *more), tmp_path / "log", **keywords)

    return begin


def wait_for_work(process, output):
    """Until something was committed."""
    journal = folder_of(output) / "journal"
    deadline = time.monotonic() + PATIENCE
    while not (journal.exists() and journal.stat().st_size) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_killed_twenty_times_it_ends_with_the_same_bytes(run, whole, tmp_path):
    reference, seconds = whole
    output, rng, kills = tmp_path / "out.h5", random.Random("kill"), 0
    while kills < 20:
        process = run("--resume", "--json")
        if rng.random() < 0.5:
            wait_for_work(process, output)
        process.join(rng.random() * seconds / 4)
        process.kill()
        process.join(PATIENCE)
        kills += process.exitcode == -signal.SIGKILL
        if output.exists() and begun_settings(output) is None:  # it had come to its end: once more
            assert datasets(output) == datasets(reference)
            output.unlink()
    process = run("--resume", "--json")
    process.join(PATIENCE)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert datasets(output) == datasets(reference)
    assert not folder_of(output).exists()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_work_and_says_how_to_go_on(run, fasta, whole, tmp_path, number, code):
    output = tmp_path / "out.h5"
    process = run()
    wait_for_work(process, output)
    os.kill(process.pid, number)
    process.join(PATIENCE)
    said = (tmp_path / "log").read_text()
    assert process.exitcode == code, said
    assert "Traceback" not in said and not output.exists()
    assert shlex.split(said.splitlines()[-1]) == ["virnucpro", *words(fasta, output), "--resume"]
    process = run("--resume", "--json")
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert json.loads((tmp_path / "log").read_text())["resumed_sequences"] > 0
    assert datasets(output) == datasets(whole[0])


def test_ctrl_c_ends_the_wait_for_a_pipe_that_brings_nothing_more(fasta, tmp_path):
    pipe, log = tmp_path / "pipe", tmp_path / "log"
    os.mkfifo(pipe)
    writing = os.open(pipe, os.O_RDWR)  # so that it has no end
    os.write(writing, b"".join(fasta.read_bytes().splitlines(keepends=True)[:40]))
    process = start(words(pipe, tmp_path / "out.h5"), log)
    try:
        wait_for_work(process, tmp_path / "out.h5")
        time.sleep(0.5)  # until the rest is computed too
        os.kill(process.pid, signal.SIGINT)
        process.join(PATIENCE)
        assert process.exitcode == 130, log.read_text()
    finally:
        process.kill()
        os.close(writing)


def test_a_full_disk_keeps_the_work(run, whole, tmp_path):
    output = tmp_path / "out.h5"
    process = run(most_bytes=100_000)  # about half of the embeddings
    process.join(PATIENCE)
    said = (tmp_path / "log").read_text()
    assert process.exitcode == 1 and not output.exists()
    assert f"cannot write {output}" in said and "File too large" in said and "--resume" in said
    assert "Traceback" not in said
    process = run("--resume", "--json")
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert json.loads((tmp_path / "log").read_text())["resumed_sequences"] > 0
    assert datasets(output) == datasets(whole[0])


def test_it_is_quiet_but_for_what_must_be_known(tmp_path, capsys):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKT\n>odd\nM1\n>a\nMKTAYIAK\n")
    assert main(["embed", str(path), "-o", str(tmp_path / "out.h5"), *MODEL, "--max-length", "5", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "virnucpro: skipped, letters that ESM-2 does not know: 1 (odd)",
        "virnucpro: cut to 5 residues: 1 (a)",
        "virnucpro: names that came again: 1 (a)",
    ]
    summary = json.loads(said.out)
    assert summary["sequences"] == 2 and summary["seconds"] >= summary["embedding_seconds"]
    assert summary["settings"]["device"].startswith("CPU") and summary["settings"]["precision"] == "fp32"


@pytest.mark.parametrize(
    "content, more, message",
    [
        (b"", [], "is empty: it has no FASTA record"),
        (b"\x00\xff", [], "is not FASTA"),
        (b">a\nM1\n", ["--strict"], "sequence 'a': letters that ESM-2 does not know"),
        (b">a\nMK\n", ["--weights", "missing.pt"], "no checkpoint at missing.pt"),
        (b">a\nMK\n", ["--model", "esm3"], "unknown model 'esm3'"),
        (b">a\nMK\n", ["--device", "tpu"], "unknown device 'tpu'"),
        (b">a\nMK\n", ["--precision", "tf32"], "precision 'tf32' is a mode of NVIDIA GPUs"),
        (b">a\nMK\n", ["--layers", "9"], "layer 9: this model has layers 0 to 6"),
        (b">a\nMK\n", ["--translate", "six-frame", "--chunk", "2"], "a codon has 3 nucleotides"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(tmp_path, capsys, content, more, message):
    path = tmp_path / "in.fasta"
    path.write_bytes(content)
    assert main(["embed", str(path), "-o", str(tmp_path / "out.h5"), *MODEL, *more]) == 1
    said = capsys.readouterr()
    assert message in said.err and said.out == ""
    assert not (tmp_path / "out.h5").exists()


def test_an_output_that_exists_is_kept_before_anything_is_loaded(tmp_path, capsys):
    path, output = tmp_path / "in.fasta", tmp_path / "out.h5"
    path.write_text(">a\nMKT\n")
    output.write_text("mine")
    assert main(["embed", str(path), "-o", str(output), "--weights", "missing.pt"]) == 1
    assert "exists: give another name, or --force" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main(["embed", str(path), "-o", str(path), *MODEL, "--force"]) == 1
    assert "is the input: name another file" in capsys.readouterr().err
    assert path.read_text() == ">a\nMKT\n"


@pytest.mark.parametrize("more", [[], ["in.fasta"], ["in.fasta", "-o", "o", "--max-length", "0"]])
def test_a_wrong_command_is_told_with_its_usage(capsys, more):
    with pytest.raises(SystemExit) as ended:
        main(["embed", *more])
    assert ended.value.code == 2
    assert "usage: virnucpro embed" in capsys.readouterr().err


def test_the_choices_of_the_command_are_the_programs(capsys):
    with pytest.raises(SystemExit):
        main(["embed", "--help"])
    said = capsys.readouterr().out
    assert f"{{{','.join(['auto', *PRECISIONS])}}}" in said
    assert f"{{{','.join(POOLS)}}}" in said
