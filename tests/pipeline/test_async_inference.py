"""AsyncInferenceRunner: pooling, order, how much it holds, and what it refuses."""

import weakref

import pytest
import torch
from torch import nn

from tests.conftest import MODEL, RAGGED
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.async_inference import (
    AsyncInferenceRunner,
    InferenceResult,
    NonFiniteEmbeddingError,
)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)


class Stub(nn.Module):
    """A model whose representation of a token is its index, or `value` at every position."""

    num_layers, embed_dim = 1, 2

    def __init__(self, value: float | None = None):
        super().__init__()
        self.value = value
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, tokens, repr_layers):
        out = tokens[..., None].float().expand(-1, -1, 2).clone()
        if self.value is not None:
            out[tokens == 5] = self.value
        out[tokens == 1] = torch.nan  # what stands at padding must not matter
        return {"representations": {repr_layers[0]: out}}


def batch(*rows: list[int]):
    width = max(map(len, rows))
    tokens = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    return [f"s{index}" for index in range(len(rows))], [""] * len(rows), tokens


def test_embeddings_equal_fair_esms_mean_over_residues(loaded, fair_esm_model):
    model, converter = loaded
    (result,) = AsyncInferenceRunner(model).run([converter(RAGGED)])
    for label, protein in RAGGED:
        _, _, tokens = converter([(label, protein)])
        with torch.inference_mode():
            alone = fair_esm_model(tokens, repr_layers=[6])["representations"][6][0]
        expected = alone[1:-1].mean(0)  # as fair-esm's extraction script: no BOS, no EOS
        row = result.embeddings[result.sequence_ids.index(label)]
        assert (row - expected).abs().max() <= 1e-5, label


def test_bos_eos_and_padding_are_left_out_of_the_mean():
    (result,) = AsyncInferenceRunner(Stub()).run([batch([0, 4, 6, 2], [0, 9, 2])])
    assert result.embeddings.tolist() == [[5, 5], [9, 9]]


def test_results_come_in_order_one_for_each_batch(loaded):
    model, converter = loaded
    entries = [(f"p{index}", "MKTAYIAK"[: 1 + index % 8]) for index in range(10)]
    batches = [converter(entries[start : start + 3]) for start in range(0, 10, 3)]
    results = list(AsyncInferenceRunner(model).run(batches))
    assert [result.sequence_ids for result in results] == [list(labels) for labels, _, _ in batches]


def test_embeddings_are_float32_on_the_cpu_in_half_precision(checkpoint):
    model, converter = load_esm2_model(MODEL, "cpu", precision="bf16", weights=checkpoint)
    (result,) = AsyncInferenceRunner(model).run([converter(RAGGED[:3])])
    assert (result.embeddings.dtype, result.embeddings.device.type) == (torch.float32, "cpu")
    assert result.embeddings.shape == (3, 320)


def test_an_empty_batch_gives_an_empty_result(loaded):
    model, converter = loaded
    (result,) = AsyncInferenceRunner(model).run([converter([])])
    assert result.sequence_ids == []
    assert result.embeddings.shape == (0, 320)


def test_no_batches_give_no_results(loaded):
    assert list(AsyncInferenceRunner(loaded[0]).run([])) == []


def test_few_batches_are_held_however_long_the_input():
    alive: list[weakref.ref] = []
    most = 0

    def endless():
        nonlocal most
        for _ in range(50):
            labels, proteins, tokens = batch([0, 4, 2])
            alive.append(weakref.ref(tokens))
            yield labels, proteins, tokens
            del tokens
            most = max(most, sum(ref() is not None for ref in alive))

    taken = 0
    for _ in AsyncInferenceRunner(Stub()).run(endless()):
        taken += 1
        assert len(alive) <= taken + AsyncInferenceRunner.batches_in_flight
    assert taken == 50
    assert most <= AsyncInferenceRunner.batches_in_flight


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_raise_naming_the_sequences(value):
    with pytest.raises(NonFiniteEmbeddingError, match=r"embedding of 's1': .*bf16 or fp32"):
        list(AsyncInferenceRunner(Stub(value)).run([batch([0, 4, 2], [0, 5, 2])]))


def test_a_protein_without_residues_is_named():
    with pytest.raises(ValueError, match="no residue to average in 's1'"):
        list(AsyncInferenceRunner(Stub()).run([batch([0, 4, 2], [0, 2])]))


def test_labels_and_tokens_must_match():
    with pytest.raises(ValueError, match="1 labels for tokens of shape"):
        list(AsyncInferenceRunner(Stub()).run([(["only"], [""], torch.zeros((2, 4), dtype=torch.long))]))


def test_embeddings_have_no_gradient_and_can_train_a_classifier(loaded):
    model, converter = loaded
    (result,) = AsyncInferenceRunner(model).run([converter(RAGGED[:1])])
    assert isinstance(result, InferenceResult)
    assert not result.embeddings.requires_grad
    weight = torch.ones(320, requires_grad=True)
    (result.embeddings @ weight).sum().backward()
    assert torch.equal(weight.grad, result.embeddings[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and there is none")
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("tf32", 1e-2), ("fp16", 1e-2)])
def test_the_gpu_gives_the_cpus_embeddings(checkpoint, precision, tolerance):
    cpu, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    gpu, _ = load_esm2_model(MODEL, "cuda", precision=precision, weights=checkpoint)
    batches = [converter(RAGGED), converter(RAGGED[:2]), converter([]), converter(RAGGED[2:])] * 3
    for expected, found in zip(
        AsyncInferenceRunner(cpu).run(batches), AsyncInferenceRunner(gpu).run(batches), strict=True
    ):
        assert found.sequence_ids == expected.sequence_ids
        assert found.embeddings.device.type == "cpu"
        torch.testing.assert_close(found.embeddings, expected.embeddings, atol=tolerance, rtol=0)
