"""AsyncInferenceRunner: pooling, order, how much it holds, and what it refuses."""

import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import MODEL, RAGGED
from virnucpro.data.packing import Pack, pack
from virnucpro.data.tokens import ALPHABET, encode
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.async_inference import (
    AsyncInferenceRunner,
    InferenceResult,
    NonFiniteEmbeddingError,
    TooNarrowError,
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

    def forward_packed(self, input_ids, cu_seqlens, max_seqlen, repr_layers):
        out = input_ids[:, None].float().expand(-1, 2).clone()
        if self.value is not None:
            out[input_ids == 5] = self.value
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


@pytest.fixture(scope="module")
def alone(fair_esm_model):
    """fair-esm's representations of each protein of RAGGED alone: ``[T, D]`` by layer and name."""
    with torch.inference_mode():
        found = {
            name: fair_esm_model(torch.from_numpy(encode(name, protein))[None], repr_layers=[3, 6])[
                "representations"
            ]
            for name, protein in RAGGED
        }
    return {
        layer: {name: representations[layer][0] for name, representations in found.items()} for layer in (3, 6)
    }


def test_a_pack_gives_what_its_padded_batch_gives(loaded):
    model, converter = loaded
    (from_batch,) = AsyncInferenceRunner(model).run([converter(RAGGED)])
    (from_pack,) = AsyncInferenceRunner(model).run(pack(RAGGED, 10_000))
    assert from_pack.sequence_ids == from_batch.sequence_ids
    assert torch.equal(from_pack.embeddings, from_batch.embeddings)


@pytest.mark.parametrize("layer, absolute", [(-1, 6), (-4, 3), (3, 3)])
def test_bos_pooling_takes_the_first_token_of_the_layer(loaded, alone, layer, absolute):
    (result,) = AsyncInferenceRunner(loaded[0], pool="bos", layer=layer).run(pack(RAGGED, 10_000))
    expected = torch.stack([alone[absolute][name][0] for name in result.sequence_ids])
    assert (result.embeddings - expected).abs().max() <= 1e-5


def test_residue_pooling_gives_every_residue_of_every_protein(loaded, alone):
    (result,) = AsyncInferenceRunner(loaded[0], pool="residue").run(pack(RAGGED, 10_000))
    expected = [alone[6][name][1:-1] for name in result.sequence_ids]
    assert result.residues == [len(each) for each in expected]
    assert (result.embeddings - torch.cat(expected)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"pool": "max"}, "mean, bos, residue"),
        ({"layer": 7}, "layers 0 to 6"),
        ({"dtype": "float64"}, "float32, float16"),
    ],
)
def test_a_pool_or_layer_that_does_not_exist_is_refused(loaded, settings, said):
    with pytest.raises(ValueError, match=said):
        AsyncInferenceRunner(loaded[0], **settings)


class SmallMemory(nn.Module):
    """`model` on a device whose memory ends at so many tokens."""

    def __init__(self, model: nn.Module, tokens: int):
        super().__init__()
        self.model, self.tokens = model, tokens
        self.num_layers, self.embed_dim = model.num_layers, model.embed_dim

    def forward_packed(self, input_ids, *arguments, **keywords):
        if len(input_ids) > self.tokens:
            raise torch.OutOfMemoryError("no memory")
        return self.model.forward_packed(input_ids, *arguments, **keywords)


@pytest.mark.parametrize("pool", ["mean", "bos", "residue"])
def test_a_pack_that_does_not_fit_is_computed_in_parts_and_said_once(loaded, pool, caplog):
    entries = [(f"{name}{copy}", protein) for copy in range(3) for name, protein in RAGGED[:6]]
    packs = list(pack(entries, 400))
    expected = list(AsyncInferenceRunner(loaded[0], pool=pool).run(packs))
    found = list(AsyncInferenceRunner(SmallMemory(loaded[0], 150), pool=pool).run(packs))
    for result, reference in zip(found, expected, strict=True):
        assert (result.sequence_ids, result.residues) == (reference.sequence_ids, reference.residues)
        assert (result.embeddings - reference.embeddings).abs().max() <= 1e-5
    assert [record.message for record in caplog.records if "computed in parts" in record.message] != []
    assert len(caplog.records) == 1


def test_a_protein_that_does_not_fit_alone_is_named(loaded):
    with pytest.raises(torch.OutOfMemoryError, match="sequence 'long' of 800 residues does not fit"):
        list(AsyncInferenceRunner(SmallMemory(loaded[0], 150)).run(pack(RAGGED, 10_000)))


@pytest.mark.parametrize("pool", ["bos", "residue"])
def test_nan_is_found_in_other_pools_too(pool):
    with pytest.raises(NonFiniteEmbeddingError, match="embedding of 's1'"):
        list(AsyncInferenceRunner(Stub(float("nan")), pool=pool).run([batch([0, 4, 2], [5, 5, 5, 2])]))


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and there is none")


class Given(nn.Module):
    """A model whose representations are given, one token after the other."""

    num_layers = 1

    def __init__(self, rows: torch.Tensor):
        super().__init__()
        self.rows, self.embed_dim = nn.Parameter(rows, requires_grad=False), rows.shape[1]

    def forward_packed(self, input_ids, cu_seqlens, max_seqlen, repr_layers):
        return {"representations": {repr_layers[0]: self.rows[: len(input_ids)]}}


def halves_and_what_is_between() -> np.ndarray:
    """All float16 but NaN and Inf, what is halfway to the next one, and the float32 on both sides of that."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].astype(np.float32)
    positive = np.sort(np.abs(halves[halves > 0]))
    halfway = np.concatenate([(positive[1:] + positive[:-1]) / 2, positive[:1] / 2, [np.nextafter(65520, 0)]])
    halfway = halfway.astype(np.float32)
    near = np.concatenate([halfway[:-1], np.nextafter(halfway, 0), np.nextafter(halfway[:-1], 1e9)])
    return np.concatenate([halves, near, -near, np.float32([1e-40, -1e-40])]).astype(np.float32)


ON_EACH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])])


@ON_EACH
@pytest.mark.parametrize("computed", [torch.float32, torch.float16, torch.bfloat16])
def test_float16_has_the_bytes_of_numpys_conversion(device, computed):
    values = halves_and_what_is_between()
    values = torch.from_numpy(np.resize(values, (len(values) // 64 + 1, 64))).clamp(-65_504, 65_504).to(computed)
    values = values.clamp(-65_000, 65_000) if computed == torch.bfloat16 else values
    model, residues = Given(torch.cat([values[:1], values, values[:1]]).to(device)), len(values)
    (result,) = AsyncInferenceRunner(model, pool="residue", dtype="float16").run(
        [Pack(["p"], torch.full((residues + 2,), 5), torch.tensor([0, residues + 2]), residues + 2)]
    )
    assert result.embeddings.dtype == torch.float16
    assert result.embeddings.numpy().tobytes() == values.float().numpy().astype(np.float16).tobytes()


def rows_of_three(*of_the_second: float) -> torch.Tensor:
    """Representations of three proteins, of one, two and one residue; zeros but for the second's."""
    rows = torch.zeros(10, 4)
    rows[4 : 4 + len(of_the_second), 2] = torch.tensor(of_the_second)
    return rows


THREE = Pack(["a", "b", "c"], torch.full((10,), 5), torch.tensor([0, 3, 7, 10]), 4)


@ON_EACH
@pytest.mark.parametrize("pool", ["mean", "residue"])
@pytest.mark.parametrize(
    "values, error, said",
    [
        ([math.nan, 1.0], NonFiniteEmbeddingError, "in the embedding of 'b'"),
        ([1.0, -math.inf], NonFiniteEmbeddingError, "in the embedding of 'b'"),
        ([-65_520.0, -65_520.0], TooNarrowError, "embedding of 'b' has values up to 65,520, which float16"),
        ([1e30, 1e30], TooNarrowError, "embedding of 'b' has values up to 1[0-9,]*, which float16"),
    ],
)
def test_what_float16_cannot_hold_and_what_is_no_number_are_told_apart(device, pool, values, error, said):
    runner = AsyncInferenceRunner(Given(rows_of_three(*values).to(device)), pool=pool, dtype="float16")
    with pytest.raises(error, match=said):
        list(runner.run([THREE]))


@ON_EACH
def test_what_still_rounds_to_the_largest_float16_is_kept(device):
    model = Given(rows_of_three(float(np.nextafter(np.float32(65_520), np.float32(0)))).to(device))
    (result,) = AsyncInferenceRunner(model, pool="residue", dtype="float16").run([THREE])
    assert result.embeddings[1, 2] == 65_504


@ON_EACH
def test_a_protein_that_is_skipped_may_be_too_large_for_float16(device):
    model = Given(rows_of_three(1e30, math.nan).to(device))
    (result,) = AsyncInferenceRunner(model, pool="residue", dtype="float16", on_nan="skip").run([THREE])
    assert (result.sequence_ids, result.skipped) == (["a", "c"], {1: "b"})
    assert result.embeddings.dtype == torch.float16 and result.embeddings.shape == (2, 4)


@ON_EACH
@pytest.mark.parametrize("pool", ["mean", "residue"])
def test_results_in_pinned_memory_stay_what_they_are_as_long_as_they_are_held(checkpoint, device, pool):
    model, _ = load_esm2_model(MODEL, device, precision="fp32", weights=checkpoint)
    packs = list(pack([(f"{name}{copy}", each) for copy in range(8) for name, each in RAGGED[:6]], 150))
    assert len(packs) > 2 * AsyncInferenceRunner.batches_in_flight
    copied = list(AsyncInferenceRunner(model, pool=pool).run(packs))
    held = list(AsyncInferenceRunner(model, pool=pool, pinned=True).run(packs))
    for one, other in zip(held, copied, strict=True):
        assert torch.equal(one.embeddings, other.embeddings) and not one.embeddings.is_inference()
    assert all(one.embeddings.is_pinned() == (device == "cuda") for one in held)


@pytest.mark.parametrize("pool", ["mean", "bos", "residue"])
@ON_EACH
def test_a_protein_with_nan_is_named_alone(checkpoint, device, pool):
    model, _ = load_esm2_model(MODEL, device, precision="fp32", weights=checkpoint)
    with torch.no_grad():
        model.embed_tokens.weight[ALPHABET.get_idx("X")] = float("nan")
    with pytest.raises(NonFiniteEmbeddingError, match="in the embedding of 'rare':"):
        list(AsyncInferenceRunner(model, pool=pool).run(pack(RAGGED, 300)))


@pytest.mark.gpu
@NO_GPU
@pytest.mark.parametrize(
    "precision, pool, tolerance",
    [
        ("fp32", "mean", 1e-5),
        ("tf32", "mean", 1e-2),
        ("fp16", "mean", 1e-2),
        ("fp32", "bos", 1e-4),
        ("fp32", "residue", 1e-4),
    ],
)
def test_the_gpu_gives_the_cpus_embeddings(checkpoint, precision, pool, tolerance):
    cpu, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    gpu, _ = load_esm2_model(MODEL, "cuda", precision=precision, weights=checkpoint)
    batches = [converter(RAGGED), converter(RAGGED[:2]), converter([]), converter(RAGGED[2:])] * 3
    for expected, found in zip(
        AsyncInferenceRunner(cpu, pool=pool).run(batches),
        AsyncInferenceRunner(gpu, pool=pool).run(batches),
        strict=True,
    ):
        assert found.sequence_ids == expected.sequence_ids
        assert found.embeddings.device.type == "cpu"
        torch.testing.assert_close(found.embeddings, expected.embeddings, atol=tolerance, rtol=0)


@pytest.mark.gpu
@NO_GPU
def test_what_the_gpus_memory_does_not_hold_is_computed_in_parts_and_equal(caplog):
    model, _ = load_esm2_model(MODEL, "cuda", precision="fp16", weights="random")
    (whole,) = pack([(f"p{n}", "ACDEFGHIKLMNPQRSTVWY" * 20) for n in range(150)], 100_000)
    runner = AsyncInferenceRunner(model)
    (expected,) = runner.run([whole])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 80 * 2**20) / total)
    try:
        (found,) = runner.run([whole])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.sequence_ids == expected.sequence_ids
    torch.testing.assert_close(found.embeddings, expected.embeddings, atol=1e-3, rtol=0)
    assert ["computed in parts" in record.message for record in caplog.records] == [True]
