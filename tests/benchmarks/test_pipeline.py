"""The benchmarks of the whole program: what they time, and what they skip."""

import pytest

from benchmarks.pipeline import File, Pipeline
from benchmarks.scaling import SequenceCount, SequenceLength
from benchmarks.suite.cell import Store
from benchmarks.suite.hardware import Hardware
from tests.conftest import MODEL
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.store.embeddings import Embeddings

PROTEINS = [("a", "MKTAYIAKQR"), ("b", "MSLL"), ("c", "M" * 40)]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store(Hardware("cpu", "a CPU", 2**34, (0, 0), {}))


def test_a_pass_is_from_fasta_to_hdf5(tmp_path):
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")
    file = File(str(tmp_path), PROTEINS, model)
    file.run(2)
    assert len(file.seconds) == 2
    with Embeddings(file.output) as embeddings:
        assert embeddings.names == ["a", "b", "c"]
        ids, rows = zip(
            *((r.sequence_ids, r.embeddings.numpy()) for r in file.runner.run(file.packs)), strict=True
        )
        assert ids == (["a", "b", "c"],)  # what the engine alone is timed on is the same
        assert (embeddings.embeddings[()] == rows[0]).all()


@pytest.mark.parametrize(
    "benchmark, cell, reason",
    [
        (Pipeline, ("fp16", "mixed"), "on CPUs this is measured in FP32 only"),
        (SequenceLength, ("fp16", 64), "on CPUs this is measured in FP32 only"),
        (SequenceLength, ("fp32", 2048), "more than 1,024 residues take too long on a CPU"),
        (SequenceCount, ("fp32", 100), "more than 10 sequences take too long on a CPU"),
    ],
)
def test_what_takes_too_long_on_a_cpu_is_skipped_with_the_reason(store, benchmark, cell, reason):
    with pytest.raises(NotImplementedError, match=reason):
        benchmark().setup(store, MODEL, *cell)


@pytest.mark.parametrize("benchmark, last", [(Pipeline, "mixed"), (SequenceLength, 64), (SequenceCount, 1)])
@pytest.mark.parametrize(
    "precision, reason",
    [
        ("fp32", "on GPUs this is measured in FP16 and INT8 only"),
        ("fp16", "on GPUs this is measured with esm2_t33_650M_UR50D only"),
    ],
)
def test_full_precision_and_other_models_on_a_gpu_are_skipped_with_the_reason(benchmark, last, precision, reason):
    store = Store(Hardware("cuda", "a GPU", 2**36, (9, 0), {}))
    with pytest.raises(NotImplementedError, match=reason):
        benchmark().setup(store, MODEL, precision, last)


@pytest.mark.parametrize("number", [1, 10, 100])
def test_so_many_proteins_are_made(number):
    proteins = SequenceCount().proteins(str(number), "cpu")
    assert len(dict(proteins)) == number


@pytest.mark.parametrize("number", SequenceLength.params[2])
def test_proteins_of_that_length_are_made(number):
    lengths = {len(protein) for _, protein in SequenceLength().proteins(str(number), "cpu")}
    assert lengths == {number}
