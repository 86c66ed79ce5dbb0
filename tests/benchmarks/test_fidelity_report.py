"""make fidelity: each precision beside FP32, and beside published embeddings."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from asv_plugin.answer import advice
from benchmarks.measure import fidelity, fidelity_report, golden
from benchmarks.suite import program
from benchmarks.suite.hardware import GIB, Hardware
from tests.checkpoints import save_in_fair_esms_format, seeded_8m
from tests.conftest import MODEL
from virnucpro.models import rotary, stored
from virnucpro.models.apart import measure
from virnucpro.models.esm2_flash import load_esm2_model

CPU = Hardware("cpu", "a CPU", 24 * GIB, (0, 0), {"torch": torch.__version__})
SEEDED = golden.FOLDER / "seeded"
FEW = {"few": [(f"p{n}", "MKTAYIAKQRQISFVKSHF"[: 3 + n % 16] + "ACDEFGHIKLMNPQRSTVWY"[n % 20]) for n in range(40)]}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """What the stored embeddings were made with, in fair-esm's cache."""
    hub = tmp_path_factory.mktemp("hub")
    (hub / "checkpoints").mkdir()
    save_in_fair_esms_format(seeded_8m(), hub / "checkpoints" / f"{MODEL}.pt")
    return hub


@pytest.fixture
def cache(seeded, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(seeded))


def lines_of(precisions=("int8",)):
    return fidelity_report.report(MODEL, "pretrained", precisions, FEW, CPU, SEEDED)


def test_the_limit_is_the_advices():
    assert fidelity.LARGEST_ERROR == golden.LIMIT == advice.LARGEST_ERROR


@pytest.mark.exhaustive
def test_pretrained_weights_are_compared_with_published_embeddings_in_every_precision(cache):
    lines = lines_of()
    assert [(line.precision, line.proteins, line.passed) for line in lines] == [
        ("fp32", "published", True),
        ("int8", "few", True),
        ("int8", "published", True),
    ]
    assert lines[0].found["of_the_norm"] <= 1e-5
    assert "frequencies rounded to FP16" in lines[0].why


@pytest.mark.exhaustive
def test_recomputed_frequencies_fail_the_comparison(cache, monkeypatch):
    exact = rotary.exact_frequencies(16)
    monkeypatch.setattr(
        stored, "constants_of", lambda _, __, about, ___: stored.Constants(exact, about.token_dropout)
    )
    first = lines_of()[0]
    assert first.passed is False
    assert first.found["of_the_norm"] > 2e-4


def test_nan_fails_the_comparison():
    published = golden.golden(MODEL, SEEDED)
    assert not golden.difference(published, published.embeddings * torch.nan, "fp32").passed


@pytest.mark.exhaustive
def test_a_model_that_memory_does_not_hold_passes_layer_by_layer(cache, monkeypatch):
    whole = lines_of()
    small = Hardware("cpu", "a CPU", 1, (0, 0), CPU.versions)
    monkeypatch.setattr(fidelity_report, "fits", lambda model, precision, _: precision != "fp32")
    by_layer = fidelity_report.report(MODEL, "pretrained", ["int8"], FEW, small, SEEDED)
    for one, other in zip(whole, by_layer, strict=True):
        for name, value in one.found.items():
            assert other.found[name] == pytest.approx(value, rel=1e-2, abs=1e-6), name


def test_what_cannot_be_judged_says_why():
    lines = fidelity_report.report(MODEL, "random", ["tf32", "fp8"], FEW, CPU)
    assert [line.passed for line in lines] == [None, None]
    assert all("NVIDIA GPUs" in line.why for line in lines)
    assert "not judged: esm2_t6_8M_UR50D in FP8" in fidelity_report.table(lines, "random", CPU)


def test_fp16_is_left_out_of_a_cpu_without_its_units_unless_asked_for(monkeypatch):
    monkeypatch.setattr(fidelity_report, "has_fp16_units", lambda: False)
    assert "PRECISIONS=fp16" in fidelity_report.skip_reason(MODEL, "fp16", CPU, asked=False)
    assert fidelity_report.skip_reason(MODEL, "fp16", CPU, asked=True) is None


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(fidelity_report, "probe", lambda: CPU)
    monkeypatch.setattr(fidelity_report, "fidelity_proteins", lambda workload: FEW["few"])
    status = fidelity_report.main(["--weights", "random", "--precisions", "int8", *words])
    return status, *capsys.readouterr()


def test_it_prints_a_line_for_each_set_with_a_word_of_judgement(monkeypatch, capsys, tmp_path):
    path = tmp_path / "mine.fasta"
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in FEW["few"]))
    status, out, _ = run(monkeypatch, capsys, "--fasta", str(path))
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines() if "PASS" in line and "INT8" in line] == [
        [MODEL, "INT8", "seeded"],
        [MODEL, "INT8", "mine.fasta"],
    ]


@pytest.mark.exhaustive
def test_json_has_the_figures(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "--json")
    (line,) = json.loads(out)
    assert status == 0 and line["passed"] is True and line["precision"] == "int8"
    assert 0 < line["found"]["error_over_distance"] < 0.05
    assert line["found"]["smallest_residue_cosine"] <= 1
    assert list(line["channels"]) == ["qkv_proj", "out_proj", "fc1", "fc2"]
    for of in line["channels"].values():
        assert 1 < of["times"] < 2 and (of["channels"], of["layers"]) == (0, 0)


@pytest.mark.exhaustive
def test_a_note_says_how_far_channels_of_int8_stand_out_once_for_a_model(monkeypatch, capsys, tmp_path):
    path = tmp_path / "mine.fasta"
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in FEW["few"]))
    _, out, _ = run(monkeypatch, capsys, "--fasta", str(path))
    (note,) = [line for line in out.splitlines() if "stands out" in line]
    times = r"1\.\d \(qkv_proj\), 1\.\d \(out_proj\), 1\.\d \(fc1\), 1\.\d \(fc2\) times"
    assert re.fullmatch(f"{MODEL} in INT8: the largest channel stands out by {times}; apart: none", note)


@pytest.mark.exhaustive
def test_it_counts_channels_apart(massive_checkpoint, monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, "--weights", str(massive_checkpoint))
    assert "apart: 6 in 6 layers (qkv_proj), 6 in 6 layers (fc1)" in out
    model, _ = load_esm2_model(MODEL, "cpu", precision="int8", weights=massive_checkpoint)
    assert len(model.channels_apart()) == 12
    found = measure(MODEL, massive_checkpoint, "cpu")
    assert found["qkv_proj"].times > 3 > found["fc2"].times > 1


def test_channels_are_measured_only_for_int8(monkeypatch):
    monkeypatch.setattr("virnucpro.models.apart.measure", None)
    (line,) = fidelity_report.report(MODEL, "random", ["bf16"], FEW, CPU)
    assert line.passed and line.channels is None
    assert "stands out" not in fidelity_report.table([line], "random", CPU)


@pytest.mark.exhaustive
def test_a_failure_is_a_word_and_an_exit_code_only_where_that_was_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(fidelity_report, "LARGEST_ERROR", 0.0)
    status, out, _ = run(monkeypatch, capsys)
    assert (status, out.count("FAIL")) == (0, 1)
    assert run(monkeypatch, capsys, "--strict")[0] == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["--weights", "gone.pt"], "no checkpoint at gone.pt"),
        (["--model", "esm3"], "unknown model 'esm3'"),
        (["--fasta", "gone.fasta"], "cannot read gone.fasta"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_another_exit_code(monkeypatch, capsys, words, said):
    status, _, err = run(monkeypatch, capsys, *words)
    assert status == 2
    assert said in err and "Traceback" not in err


def test_a_file_with_too_few_proteins_is_named(monkeypatch, capsys, tmp_path):
    path = tmp_path / "two.fasta"
    path.write_text(">a\nMK\n>b\nMKT\n")
    status, _, err = run(monkeypatch, capsys, "--fasta", str(path))
    assert status == 2
    assert "two.fasta has 2 different proteins: at least 32" in err


@pytest.mark.exhaustive
def test_a_folder_of_checkpoints_is_taken(seeded, monkeypatch, capsys, tmp_path):
    shutil.copy(seeded / "checkpoints" / f"{MODEL}.pt", tmp_path)
    status, out, _ = run(monkeypatch, capsys, "--weights", str(tmp_path))
    assert status == 0 and "PASS" in out


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_prepared_pickle_in_the_cache_runs_nothing_and_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": Runs(tmp_path / "ran")}, tmp_path / "checkpoints" / f"{MODEL}.pt")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("benchmarks.suite.program.WEIGHTS", "pretrained")
    program.load.cache_clear()
    with pytest.raises(RuntimeError, match=rf"checkpoints/{MODEL}\.pt.*objects of Python that are no tensors"):
        program.load(MODEL, "fp32", "cpu")
    status, _, err = run(monkeypatch, capsys, "--weights", "pretrained")
    assert status == 2 and f"{MODEL}.pt" in err
    assert not (tmp_path / "ran").exists()
