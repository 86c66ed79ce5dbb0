"""VirNucPro's own program: the suite's batches, pooling and weights around a made one of its form."""

import pytest
import torch

from benchmarks.measure.gemms import float32_gemms
from benchmarks.measure.seeded import write_checkpoint
from benchmarks.suite import padded
from benchmarks.suite.workloads import fidelity_proteins, proteins
from tests.conftest import MODEL
from tests.padded_program import LOADER
from virnucpro.data.packing import pack
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.async_inference import AsyncInferenceRunner

FEW = fidelity_proteins("mixed")[:9:2]


def loader_of(source: str):
    """The `load_esm2_model` of a module's text."""
    module: dict = {}
    exec(source, module)
    return module["load_esm2_model"]


WRAPPED = loader_of(LOADER.format(before=""))


def load(precision: str = "fp32", weights: str = "random", loader=WRAPPED):
    return padded.load(loader, MODEL, "cpu", precision=precision, weights=weights)[0]


def embed(esm2, **options):
    return [*padded.AsyncInferenceRunner(esm2, **options).run(padded.pack(FEW, 150))]


def rows(results) -> torch.Tensor:
    return torch.cat([each.embeddings for each in results])


def test_embeddings_of_a_checkpoint_are_the_engines(tmp_path):
    path = str(write_checkpoint(tmp_path / f"{MODEL}.pt", padded.SHAPES[MODEL], "cpu"))
    found = embed(load(weights=path))
    engine, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=path)
    expected = rows(AsyncInferenceRunner(engine).run(pack(FEW, 1_000)))
    assert [label for each in found for label in each.sequence_ids] == [label for label, _ in FEW]
    assert (rows(found) - expected).norm(dim=1).max() < 1e-4 * expected.norm(dim=1).max()


def test_the_mean_over_residues_leaves_out_bos_eos_and_padding():
    esm2 = load()
    mean, residues = embed(esm2), embed(esm2, pool="residue")
    lengths = [length for each in residues for length in each.residues]
    assert lengths == [len(protein) for _, protein in FEW]
    assert max(len(each.sequence_ids) for each in mean) > 1  # proteins of several lengths in a batch
    means = torch.stack([each.mean(0) for each in rows(residues).split(lengths)])
    assert torch.allclose(rows(mean), means, atol=1e-5)


def test_random_weights_are_the_same_each_time_and_in_fp16():
    first, again, half = (load(precision).fair_esm_state() for precision in ("fp32", "fp32", "fp16"))
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert torch.equal(value.half(), half[name])


def test_fair_esms_loader_is_put_back():
    before = padded.esm.pretrained.load_model_and_alphabet_hub
    load()
    assert padded.esm.pretrained.load_model_and_alphabet_hub is before


def test_a_model_in_another_precision_than_asked_for_is_a_failure():
    always_half = loader_of(LOADER.format(before="").replace("if half else", "if True else"))
    with pytest.raises(RuntimeError, match=r"asked for in FP32 and has torch\.float16"):
        load("fp32", loader=always_half)


def test_fp32_with_tf32_gemms_is_a_failure():
    with float32_gemms("tf32"), pytest.raises(RuntimeError, match=r"asked for in FP32 and has .* 'tf32'"):
        load("fp32")


def test_a_program_that_chooses_its_precision_offers_none():
    assert set(padded.precisions_of(WRAPPED)) == {"fp32", "fp16"}
    assert padded.precisions_of(lambda model_name, device, logger_instance=None: None) == {}


def test_a_checkpoint_with_other_parameters_is_refused(tmp_path):
    path = write_checkpoint(tmp_path / f"{MODEL}.pt", padded.Shape(5, 320, 20), "cpu")
    with pytest.raises(RuntimeError, match=r"do not have the same parameters: layers\.5\."):
        load(weights=str(path))


@pytest.mark.parametrize("tokens", [1, 130, 400, 10_000])
def test_batches_hold_all_proteins_in_their_order_and_at_most_so_many_tokens(tokens):
    batches = list(padded.pack(entries := proteins("mixed", "cpu")[::-1], tokens))
    assert [pair for labels, residues, _ in batches for pair in zip(labels, residues, strict=True)] == entries
    for labels, residues, batch in batches:
        assert batch.shape == (len(labels), max(map(len, residues)) + 2)
        assert batch.numel() <= tokens or len(labels) == 1
