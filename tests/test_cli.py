"""The command: killed, stopped, on a full disk, and what it says to odd input."""

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import random
import select
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.command import start
from tests.conftest import sample_of
from tests.limits import PATIENCE
from tests.store.rows import as_another_run_has_it
from virnucpro import cli
from virnucpro.cli import main
from virnucpro.cli.arguments import installed_version
from virnucpro.cli.progress import Progress
from virnucpro.data.fasta import FastaError
from virnucpro.data.tokens import ALPHABET
from virnucpro.models.precision import PRECISIONS
from virnucpro.pipeline.async_inference import POOLS
from virnucpro.pipeline.embed import Progressed
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.place import folder_of
from virnucpro.store.run import begun_settings, has_segments

MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu"]


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
    deadline = time.monotonic() + PATIENCE
    while not has_segments(folder_of(output)) and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.exhaustive
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


@pytest.mark.parametrize(
    "number, code", sample_of([(signal.SIGINT, 130), (signal.SIGTERM, 143)], (signal.SIGTERM, 143))
)
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


@pytest.mark.parametrize("precision", sample_of(["fp32", "bf16"], "fp32"))
def test_a_second_signal_ends_a_record_that_takes_minutes(tmp_path, precision):
    path, log = tmp_path / "in.fasta", tmp_path / "log"
    path.write_text(">long\n" + "".join(random.Random(1).choices("ACDEFGHIKLMNPQRSTVWY", k=200_000)))
    more = ["--max-length", "none", "--precision", precision]
    process = start(["embed", str(path), "-o", str(tmp_path / "out.h5"), *MODEL, *more], log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not folder_of(tmp_path / "out.h5").exists():
            assert process.is_alive() and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(5)
        for _ in range(2):
            os.kill(process.pid, signal.SIGTERM)
            process.join(1)
        process.join(PATIENCE)
        assert process.exitcode == 143, log.read_text()
        assert log.read_text().splitlines() == ["virnucpro: stopped"]
    finally:
        process.kill()


BUSY = """
import hashlib, sys, threading, os, signal, time
from virnucpro.cli.interrupts import Stop

def signals():
    for _ in range(int(sys.argv[1])):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

Stop.PATIENCE = 0.5
stop = Stop(lambda stop: print(stop.signal.name, flush=True) or 77)
with stop.on_signals():
    threading.Thread(target=signals).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[2]))  # Python sees no signal until it ends
os._exit(0)
"""


@pytest.mark.parametrize("signals, rounds, code", [(2, 10**9, 77), (1, 3 * 10**6, 0)])
def test_a_second_signal_ends_what_python_cannot_interrupt(signals, rounds, code):
    words = [sys.executable, "-c", BUSY, str(signals), str(rounds)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (code, "SIGINT\n" if code else ""), done.stderr


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
        f"virnucpro: skipped, letters that ESM-2 does not know: 1: odd ('1' in line 4 of {path})",
        "virnucpro: cut to 5 residues: 1 (a)",
        "virnucpro: names that came again: 1 (a)",
        "virnucpro: 3 records: 2 embedded, 1 skipped",
    ]
    summary = json.loads(said.out)
    assert summary["sequences"] == 2 and summary["seconds"] >= summary["embedding_seconds"]
    assert summary["settings"]["device"].startswith("CPU") and summary["settings"]["precision"] == "fp32"


@pytest.mark.parametrize(
    "content, more, message",
    [
        (b"", [], "is empty: it has no FASTA record"),
        (b"\x00\xff", [], "is not FASTA"),
        (b">a\nM1\n", ["--strict"], "sequence 'a' cannot be embedded: letters that ESM-2 does not know"),
        (b">a\nMK\n>a\nM\n", ["--strict"], "two sequences are called 'a', the second in line 3"),
        (
            b">a\nNNNNNN\n",
            ["--translate", "six-frame", "--strict"],
            "'a' cannot be embedded: no codon that is known",
        ),
        (b">a\nMK>b\nMK\n", [], "a '>' inside the sequence of 'a' in line 2, where 'b' seems to begin"),
        (
            b">a\nMK\n",
            ["--skipped", "missing/folder"],
            "cannot write --skipped missing/folder: there is no folder",
        ),
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


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["in.fasta"],
        ["in.fasta", "-o", "o", "--max-length", "0"],
        ["in.fasta", "-o", ""],
        ["", "-o", "o"],
        ["in.fasta", "-o", "o", "--weights", ""],
        ["in.fasta", "-o", "o", "--skipped", ""],
        ["in.fasta", "-o", "o", "--chunk", "300"],
        ["in.fasta", "-o", "o", "--strict", "--on-nan", "skip"],
    ],
)
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


def embed(path, output, *more):
    return main(["embed", *map(str, path if isinstance(path, list) else [path]), "-o", str(output), *MODEL, *more])


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKT\n")
    return path


def test_every_record_is_in_the_summary_and_on_standard_error(tmp_path, capsys):
    path, skipped = tmp_path / "in.fasta", tmp_path / "skipped.tsv"
    path.write_text(
        ">good\nATGAAAACC\n>closed\nTTAATTAATTAATTAA\n>n\nNNNN\nNNNN\n>short\nAC\n>protein\nATG\nMKE\n"
    )
    assert embed(path, tmp_path / "out.h5", "--translate", "six-frame", "--json", "--skipped", str(skipped)) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    reasons = {reason: tally["count"] for reason, tally in summary["skipped"].items()}
    assert reasons == {
        "no codon that is known": 1,
        "under three nucleotides": 1,
        "letters that are no nucleotides": 1,
    }
    assert summary["without_open_frame"] == {"count": 1, "names": ["closed"]}
    assert summary["records"] == summary["embedded_records"] + sum(reasons.values()) + 1 == 5
    assert "virnucpro: 5 records: 1 embedded, 3 skipped, 1 without an open reading frame" in said.err.splitlines()
    header, *lines = [line.split("\t") for line in skipped.read_text().splitlines()]
    assert header == ["name", "reason", "file", "line", "detail"]
    assert [(name, reason, file, line) for name, reason, file, line, _ in lines] == [
        ("closed", "no open reading frame", str(path), "3"),
        ("n", "no codon that is known", str(path), "5"),
        ("short", "under three nucleotides", str(path), "8"),
        ("protein", "letters that are no nucleotides", str(path), "12"),
    ]
    assert lines[-1][4] == f"'E' in line 12 of {path}"


def test_the_table_of_skipped_records_has_them_all(tmp_path):
    path, skipped = tmp_path / "in.fasta", tmp_path / "skipped.tsv"
    path.write_text(">a\nMK\n" + ">odd\nM1\n" * 1_000)
    assert embed(path, tmp_path / "out.h5", "--skipped", str(skipped)) == 0
    assert len(skipped.read_text().splitlines()) == 1_001


@pytest.mark.parametrize("name", ["in.fasta", "out.h5", "./out.h5"])
def test_the_table_of_skipped_records_does_not_replace_input_or_output(small, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.h5").write_text("mine")
    assert embed("in.fasta", "out.h5", "--force", "--skipped", name) == 1
    assert "is an input or the output" in capsys.readouterr().err
    assert small.read_text() == ">a\nMKT\n" and (tmp_path / "out.h5").read_text() == "mine"


def test_several_inputs_are_one(tmp_path, small, capsys):
    second = tmp_path / "second.fasta"
    second.write_bytes(gzip.compress(b">b\nM1\n>c\nMK\n"))
    assert embed([small, second], tmp_path / "out.h5") == 0
    assert f"1: b ('1' in line 2 of {second})" in capsys.readouterr().err
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.names == ["a", "c"]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_input_that_is_cut_short_keeps_what_came_before(tmp_path, capsys, compress):
    whole = compress(
        "".join(f">p{number}\n{'MKTAYIAK' * 9}{number % 7 * 'K'}\n" for number in range(300)).encode()
    )
    path, output = tmp_path / "in.fasta", tmp_path / "out.h5"
    path.write_bytes(whole[:-9])
    assert embed(path, output, "--max-length", "1") == 1
    assert "cut short or damaged" in capsys.readouterr().err and not output.exists()


@pytest.mark.exhaustive
def test_resume_takes_the_recorded_channels_and_refuses_what_are_none(
    small, tmp_path, capsys, monkeypatch, massive_checkpoint
):
    output, words = tmp_path / "out.h5", ["--weights", str(massive_checkpoint), "--precision", "int8"]

    def recorded():
        with Embeddings(output) as file:
            return file.settings["channels_apart"]

    assert embed(small, output, *words) == 0
    before = recorded()
    assert 77 in json.loads(before)["layers.3.fc1"]
    monkeypatch.setattr("virnucpro.models.apart.LARGEST", 1e9)
    monkeypatch.setattr("virnucpro.models.apart.ROOT_MEAN_SQUARE", 1e9)
    small.write_text(">a\nMKT\n>b\nMKTA\n")
    assert embed(small, output, *words, "--resume") == 0
    assert recorded() == before
    as_another_run_has_it(output, channels_apart=before.replace("77", "777"))
    capsys.readouterr()
    assert embed(small, output, *words, "--resume") == 1
    said = capsys.readouterr().err
    assert f"{output} has no channels_apart to go on with" in said and "Traceback" not in said
    assert embed(small, output, *words, "--force") == 0
    assert recorded() == "{}"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.split()[0] == "virnucpro"


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


class FullWhenFlushed(io.StringIO):
    """A stream on a full disk that tells so when its buffer is written."""

    def flush(self):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stream", [Full, FullWhenFlushed])
def test_a_summary_that_cannot_be_written_is_an_error_and_the_output_is_complete(
    small, tmp_path, capsys, monkeypatch, stream
):
    monkeypatch.setattr(sys, "stdout", stream())
    assert embed(small, tmp_path / "out.h5", "--json") == 1
    said = capsys.readouterr().err
    assert "out.h5 is complete, but its summary cannot be written to standard output: No space left" in said
    assert "--resume" not in said
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.names == ["a"]


@pytest.mark.parametrize("stream", [Full, FullWhenFlushed])
def test_messages_that_cannot_be_written_change_nothing(tmp_path, monkeypatch, stream):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKT\n>odd\nM1\n")
    monkeypatch.setattr(sys, "stderr", stream())
    assert embed(path, tmp_path / "out.h5") == 0
    assert embed(path, tmp_path / "out.h5") == 1  # it exists


@pytest.mark.parametrize(
    "closed, more, code",
    [([2], [], 0), ([2], ["--strict"], 1), ([0, 1, 2], [], 0), ([1], ["--json"], 1), ([1, 2], ["--json"], 1)],
)
def test_closed_standard_streams_are_no_reason_to_fail(small, tmp_path, closed, more, code):
    small.write_text(">a\nMKT\n>odd\nM1\n")
    output, log = tmp_path / "out.h5", tmp_path / "log"
    process = start(words(small, output, *more), log, closed=closed)
    process.join(PATIENCE)
    assert process.exitcode == code
    assert "Traceback" not in log.read_text()
    assert output.exists() == ("--strict" not in more)
    if 1 in closed and more:
        assert 2 in closed or "cannot be written to standard output" in log.read_text()


def test_a_closed_standard_input_is_not_another_file(tmp_path):
    log = tmp_path / "log"
    process = start(words("-", tmp_path / "out.h5"), log, closed=[0])
    process.join(PATIENCE)
    assert process.exitcode == 1
    assert "cannot read standard input" in log.read_text()


def test_too_little_memory_is_told_without_a_traceback(tmp_path):
    path, log = tmp_path / "in.fasta", tmp_path / "log"
    path.write_text(f">a\n{'MKTAYIAK' * 5_000}\n")
    process = start(
        words(path, tmp_path / "out.h5", "--max-length", "none", "--pool", "residue"), log, more_memory=150_000_000
    )
    process.join(PATIENCE)
    said = log.read_text()
    assert process.exitcode == 1, said
    assert "Traceback" not in said and "the memory, or what a limit leaves of it, is used up" in said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 12 bytes"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("out of memory"),
        FastaError("cannot read it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_way_to_be_out_of_memory_is_told_as_one(small, tmp_path, capsys, monkeypatch, error):
    def fail(*_, **__):
        if isinstance(error, FastaError):
            raise error from MemoryError()
        raise error

    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", fail)
    assert embed(small, tmp_path / "out.h5") == 1
    assert "memory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, RuntimeError, ZeroDivisionError, KeyError, TypeError])
def test_a_mistake_of_the_program_keeps_its_traceback(small, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error("ours")

    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", fail)
    with pytest.raises(error, match="ours"):
        embed(small, tmp_path / "out.h5")


def test_debug_shows_where_an_error_came_from(small, tmp_path, capsys):
    assert embed(small, tmp_path / "out.h5", "--device", "tpu", "--debug") == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and "find_device" in said
    assert said.splitlines()[-1].startswith("virnucpro: unknown device 'tpu'")


def test_a_home_that_cannot_be_written_is_told(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "makedirs", refuse)
    command = ["embed", str(small), "-o", str(tmp_path / "out.h5"), *MODEL[:2], "--device", "cpu"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"cannot read the checkpoint {tmp_path / 'home'}" in said and "Permission denied" in said


def done(sequences, fraction):
    about = {"tokens": 10 * sequences, "seconds": sequences, "fraction": fraction}
    return Progressed(sequences=sequences, **about)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress() as progress:
        for number in range(1, 11):
            progress(done(number * 1_000, number / 10))
    shown = sys.stderr.getvalue()
    assert "%|" in shown and "1,000 sequences, 10 tokens/s" in shown and "\n" not in shown


def test_progress_is_shown_on_a_terminal_that_tells_no_width(monkeypatch):
    reading, writing = os.openpty()
    with os.fdopen(writing, "w") as terminal, monkeypatch.context() as patch:
        assert os.get_terminal_size(writing).columns == 0
        patch.setattr(sys, "stderr", terminal)
        with Progress() as progress:
            progress(done(1_000, 0.5))
        assert select.select([reading], [], [], PATIENCE)[0]
        shown = os.read(reading, 10_000).decode()
    os.close(reading)
    assert "50%|" in shown and "1,000 sequences" in shown


def test_progress_of_an_input_of_unknown_size_has_no_percentage(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress() as progress:
        progress(done(1_000, None))
    shown = sys.stderr.getvalue()
    assert "%" not in shown and "1,000 sequences" in shown


def test_progress_is_a_line_a_minute_in_a_log(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Progress() as progress:
        for number in range(1, 151):
            now = float(number)
            progress(done(number, number / 300))
    assert capsys.readouterr().err.splitlines() == [
        "virnucpro: 60 sequences, 10 tokens/s, 20%, about 4 min left",
        "virnucpro: 120 sequences, 10 tokens/s, 40%, about 3 min left",
    ]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("virnucpro em", {"embed "}),
        ("virnucpro embed in.fa --prec", {"--precision "}),
        ("virnucpro embed in.fa --precision ", {"auto", *PRECISIONS}),
        ("virnucpro embed in.fa --model esm2_t6", {"esm2_t6_8M_UR50D "}),
    ],
)
def test_a_shell_completes_words(tmp_path, line, expected):
    found = tmp_path / "found"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    environment = {**os.environ, **asked, "_ARGCOMPLETE_STDOUT_FILENAME": str(found)}
    subprocess.run([sys.executable, "-c", "from virnucpro.cli import main; main()"], env=environment, check=True)
    assert set(found.read_text().split("\n")) == expected


def test_the_module_is_marked_for_completion():
    assert "PYTHON_ARGCOMPLETE_OK" in Path(cli.__file__).read_text()[:1024]


@pytest.fixture
def without_w(checkpoint, tmp_path):
    """A checkpoint with which W is embedded as NaN."""
    with torch.serialization.safe_globals([Namespace]):
        data = torch.load(checkpoint, weights_only=True)
    data["model"]["encoder.sentence_encoder.embed_tokens.weight"][ALPHABET.get_idx("W")] = torch.nan
    torch.save(data, tmp_path / "weights.pt")
    return ["--weights", str(tmp_path / "weights.pt")]


def test_what_is_left_out_because_of_nan_is_accounted_for(tmp_path, capsys, without_w):
    path, skipped = tmp_path / "in.fasta", tmp_path / "skipped.tsv"
    path.write_text(">a\nMKT\n>nan\nMW\n>odd\nM1\n>b\nMKTAY\n")
    more = [*without_w, "--on-nan", "skip", "--json", "--skipped", str(skipped)]
    assert embed(path, tmp_path / "out.h5", *more) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["not_finite"] == {"count": 1, "names": ["nan"]}
    assert (summary["records"], summary["embedded_records"], summary["sequences"]) == (4, 2, 2)
    assert "virnucpro: left out, because of NaN or Inf in the embedding: 1 (nan)" in said.err.splitlines()
    assert "virnucpro: 4 records: 2 embedded, 2 skipped" in said.err.splitlines()
    lines = {line.split("\t")[0]: line.split("\t")[1] for line in skipped.read_text().splitlines()[1:]}
    assert lines == {"nan": "NaN or Inf in the embedding", "odd": "letters that ESM-2 does not know"}


def test_what_was_left_out_stays_in_the_table_when_the_run_is_continued(tmp_path, capsys, without_w):
    path, skipped = tmp_path / "in.fasta", tmp_path / "skipped.tsv"
    path.write_text(">a\nMKT\n>nan\nMW\n>odd\nM1\n>b\nMKTAY\n")
    more = [*without_w, "--on-nan", "skip", "--skipped", str(skipped), "--resume"]
    assert embed(path, tmp_path / "out.h5", *more) == 0
    before = sorted(skipped.read_text().splitlines())
    assert embed(path, tmp_path / "out.h5", *more) == 0
    assert sorted(skipped.read_text().splitlines()) == before
    assert "NaN or Inf in the embedding: 1 (by an earlier run)" in capsys.readouterr().err


def test_a_file_name_that_is_no_utf8_is_embedded_and_named(tmp_path, checkpoint):
    path, skipped = tmp_path / os.fsdecode(b"pr\xe9.fasta"), tmp_path / "skipped.tsv"
    path.write_text(">a\nMKT\n>odd\nM1\n")
    output = tmp_path / "out.h5"
    assert embed(path, output, "--weights", str(checkpoint), "--skipped", str(skipped)) == 0
    assert embed(path, output, "--weights", str(checkpoint), "--resume") == 0
    assert "pr\\udce9.fasta" in skipped.read_text()


def test_nan_is_an_error_by_default(tmp_path, capsys, without_w):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKT\n>nan\nMW\n")
    assert embed(path, tmp_path / "out.h5", *without_w) == 1
    said = capsys.readouterr().err
    assert "'nan'" in said and "--on-nan skip" in said and "Traceback" not in said


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"virnucpro {installed_version()}\n"
