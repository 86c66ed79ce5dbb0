"""The 8-bit formats on the CPU: numbers as defined, and embeddings as fair-esm's."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import MODEL, RAGGED, sample_of
from tests.models.test_esm2_packed import random_on_cpu, run, twins
from virnucpro.data.packing import make_pack
from virnucpro.data.tokens import encode
from virnucpro.models import quantised
from virnucpro.models.attention import attend, attend_in_bf16, attend_one_by_one, has_bf16
from virnucpro.models.esm2 import SHAPES, ESM2Shape, frequency_names
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.linear import Linear
from virnucpro.models.quantised import EightBitLinear, Fp8Linear, Int8Linear, quantise
from virnucpro.models.rotary import exact_frequencies, rotary_tables
from virnucpro.models.stored import Checkpoint
from virnucpro.models.token_budget import bytes_per_token
from virnucpro.pipeline.async_inference import AsyncInferenceRunner, NonFiniteEmbeddingError

FP8 = torch.float8_e4m3fn
BOUNDS = {"int8": (0.9998, 0.9995), "fp8": (0.997, 0.995)}
"""Smallest cosine to FP32, of a protein's mean and of a residue."""


class EmulatedFp8(EightBitLinear):
    """FP8 as `Fp8Linear` defines it, multiplied in FP32: what it does to embeddings, on a CPU."""

    format = FP8

    def forward(self, x):
        return F.linear(x.values.float() * x.scales[:, None], self.plain_weight(), self.bias)

    def gelu(self, x):
        return quantise(F.gelu(self(x)), FP8)

    def add_to_(self, residual, x):
        residual += self(x) - self.bias


@pytest.fixture(params=["int8", "fp8"])
def precision(request, monkeypatch):
    """The format under test; `fp8` is emulated in the place of INT8."""
    if request.param == "fp8":
        monkeypatch.setattr("virnucpro.models.esm2.FORMATS", {"native": Linear, "int8": EmulatedFp8})
    return request.param


def load(weights, model=MODEL):
    return load_esm2_model(model, "cpu", precision="int8", weights=weights)[0]


def reference_rows(x, limit):
    """The definition in NumPy: values before the rounding, and scales."""
    largest = np.abs(x).max(1)
    at_least = np.maximum(largest, np.float32(2.0**-100))
    scales = np.where(largest == 0, np.float32(0), at_least / np.float32(limit))
    return x * (np.float32(limit) / at_least)[:, None], scales


ROWS = np.random.default_rng(0).standard_normal((9, 333)).astype(np.float32)
ROWS[1] = 0
ROWS[2] *= 1e-35
ROWS[3] *= 1e35
ROWS[4, :] = np.linspace(-127, 127, 333) / 2  # halves are rounded to even


def test_int8_is_quantised_as_defined():
    values, scales, _ = quantise(torch.from_numpy(ROWS.copy()), torch.int8)
    expected, expected_scales = reference_rows(ROWS, 127)
    assert np.array_equal(values.numpy(), np.rint(expected).astype(np.int8))
    assert np.array_equal(scales.numpy(), expected_scales)
    assert values.abs().amax(1).tolist() == [
        127,
        0,
        *[127 if i != 2 else values[2].abs().max() for i in range(2, 9)],
    ]


def test_fp8_is_quantised_as_defined():
    values, scales, _ = quantise(torch.from_numpy(ROWS.copy()), FP8)
    expected, expected_scales = reference_rows(ROWS, 448)
    assert torch.equal(values.float(), torch.from_numpy(expected).to(FP8).float())
    assert np.array_equal(scales.numpy(), expected_scales)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_has_a_scale_that_is_not(wrong):
    x = torch.ones(3, 32)
    x[1, 5] = wrong
    assert quantise(x, torch.int8).scales.isfinite().tolist() == [True, False, True]


def int8_layer(inputs, outputs):
    generator = torch.Generator().manual_seed(inputs)
    layer = Int8Linear(inputs, outputs)
    weight = torch.randn(outputs, inputs, generator=generator)
    weight[0] = 0
    layer.load_(weight, torch.randn(outputs, generator=generator), torch.float32)
    return layer


@pytest.mark.parametrize("tokens, inputs, outputs", [(1, 16, 16), (7, 320, 48), (33, 480, 1440), (257, 1280, 320)])
@pytest.mark.parametrize("extreme", [False, True])
def test_int8_products_are_exact_and_scaled_in_the_stated_order(tokens, inputs, outputs, extreme):
    layer = int8_layer(inputs, outputs)
    x = layer.operand(torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(1)))
    if extreme:
        x.values.fill_(-127)
        layer.weight.fill_(127)
    x.scales[tokens // 2] = 0
    sums = x.values.numpy().astype(np.int64) @ layer.weight.numpy().astype(np.int64).T
    product = sums.astype(np.float32) * x.scales.numpy()[:, None]
    assert np.array_equal(layer.row_scaled(x).numpy(), product)
    assert rounded_once_or_twice(layer(x), product, layer.weight_scales, layer.bias)
    residual = torch.randn(tokens, outputs)
    before = residual.clone()
    layer.add_to_(residual, x)
    assert rounded_once_or_twice(residual, product, layer.weight_scales, before)


def rounded_once_or_twice(found, product, scales, addend):
    """Whether each number is ``product * scales + addend``, where the compiler may have fused the two."""
    scales, addend = scales.numpy(), addend.numpy()
    twice = product * scales + addend
    once = (product.astype(np.float64) * scales + addend).astype(np.float32)
    return ((found.numpy() == twice) | (found.numpy() == once)).all()


def test_the_hidden_values_are_the_exact_gelu():
    layer = int8_layer(320, 64)
    x = layer.operand(torch.randn(5, 320))
    assert torch.equal(layer.gelu(x), F.gelu(layer(x)))


def test_a_cpu_with_wrong_int8_products_is_refused(monkeypatch):
    """As AVX2 without VNNI adds pairs of unsigned by signed products: in 16 bits, which saturate."""

    def saturating(a, b):
        products = (a.int() + 128)[:, :, None] * b.int()[None]
        pairs = products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(1) - 128 * b.int().sum(0)).int()

    quantised.check_int8_products.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    try:
        with pytest.raises(RuntimeError, match=r"INT8 products are wrong on this CPU.*another precision"):
            load("random")
    finally:
        quantised.check_int8_products.cache_clear()


def test_fp8_products_by_the_library_are_those_of_its_numbers():
    """PyTorch's CPU has the same call, so that its arguments are tested without a GPU."""
    layer = Fp8Linear(64, 48)
    layer.load_(torch.randn(48, 64), torch.randn(48), torch.float32)
    x = quantise(torch.randn(33, 64), FP8)
    expected = F.linear(x.values.float() * x.scales[:, None], layer.plain_weight(), layer.bias)
    torch.testing.assert_close(layer(x).float(), expected, atol=0.05, rtol=0.02)


def cosines(found, expected):
    """The smallest cosine of a protein's mean over residues and of a token."""
    pooled = min(F.cosine_similarity(found[n][1:-1].mean(0), expected[n][1:-1].mean(0), dim=0) for n in expected)
    return pooled, min(F.cosine_similarity(found[n], expected[n]).min() for n in expected)


@pytest.fixture(scope="module")
def expected(fair_esm_model):
    """fair-esm's last layer for each protein of RAGGED."""
    with torch.inference_mode():
        return {
            name: fair_esm_model(torch.from_numpy(encode(name, protein))[None], repr_layers=[6])[
                "representations"
            ][6][0]
            for name, protein in RAGGED
        }


ALL = len(RAGGED)
BUT_THE_LONG_ONE = ALL - 1  # a CPU without VNNI takes seconds for it in INT8


@pytest.mark.parametrize("some", sample_of([ALL, BUT_THE_LONG_ONE], BUT_THE_LONG_ONE))
def test_ragged_proteins_are_close_to_fair_esms(checkpoint, expected, precision, some):
    found = run(load(checkpoint), RAGGED[:some])
    pooled, residue = cosines(found, {name: expected[name] for name in found})
    assert (pooled >= BOUNDS[precision][0], residue >= BOUNDS[precision][1]) == (True, True), (pooled, residue)


@pytest.mark.parametrize("factor", sample_of([20, 100], 100))
def test_outlier_channels_cost_nothing(checkpoint, expected, factor, tmp_path):
    """Three channels of each norm's output many times as large; the next weights' columns as much smaller."""
    data = torch.load(checkpoint, weights_only=False)
    generator = torch.Generator().manual_seed(0)
    for layer in range(6):
        prefix = f"encoder.sentence_encoder.layers.{layer}."
        for norm, gemms in (
            ("self_attn_layer_norm", [f"self_attn.{part}_proj" for part in "qkv"]),
            ("final_layer_norm", ["fc1"]),
        ):
            channels = torch.randperm(320, generator=generator)[:3]
            for leaf in ("weight", "bias"):
                data["model"][f"{prefix}{norm}.{leaf}"][channels] *= factor
            for gemm in gemms:
                data["model"][f"{prefix}{gemm}.weight"][:, channels] /= factor
    torch.save(data, tmp_path / "outliers.pt")
    found = run(load(tmp_path / "outliers.pt"), RAGGED[:BUT_THE_LONG_ONE])
    pooled, residue = cosines(found, {name: expected[name] for name in found})
    assert (pooled >= BOUNDS["int8"][0], residue >= BOUNDS["int8"][1]) == (True, True), (pooled, residue)


@pytest.mark.exhaustive
def test_a_protein_of_4000_residues_is_close_to_fair_esms(tmp_path, monkeypatch):
    reference, plain = twins(layers=1, dim=320, heads=20)
    model = copy_as_int8(plain, monkeypatch)
    entries = [("one", "M"), ("long", "ACDEFGHIKLMNPQRSTVWY" * 200)]
    with torch.inference_mode():
        tokens = torch.from_numpy(encode(*entries[1]))[None]
        expected = reference(tokens, repr_layers=[1])["representations"][1][0]
    found = run(model, entries, layer=1)["long"]
    assert F.cosine_similarity(found, expected).min() >= BOUNDS["int8"][1]


def stored(model):
    """A model's weights as a checkpoint of them would have them."""
    frequencies = set(frequency_names(model.shape))
    parameters = {name: values for name, values in model.fair_esm_state().items() if name not in frequencies}
    return Checkpoint(parameters, model.constants)


def copy_as_int8(plain, monkeypatch):
    """A model of `plain`'s weights in INT8."""
    monkeypatch.setitem(SHAPES, "twin", plain.shape)
    monkeypatch.setattr("virnucpro.models.weights.read_checkpoint", lambda *_: stored(plain))
    return load("made up", "twin")


@pytest.mark.parametrize("some", sample_of([ALL, BUT_THE_LONG_ONE], BUT_THE_LONG_ONE))
def test_results_depend_neither_on_the_pack_nor_on_the_order(checkpoint, some):
    """Up to what a last bit of FP32 does to a rounding: FP16's bound."""
    model, entries = load(checkpoint), RAGGED[:some]
    together, reversed_ = run(model, entries), run(model, entries[::-1])
    for entry in entries:
        (alone,) = run(model, [entry]).values()
        for other in (together, reversed_):
            assert (other[entry[0]] - alone).abs().max() <= 1e-3 * alone.abs().max(), entry[0]


def test_an_empty_pack_has_empty_representations(checkpoint):
    empty = make_pack([], [])
    found = load(checkpoint).forward_packed(empty.input_ids, empty.cu_seqlens, 0)["representations"][6]
    assert found.shape == (0, 320)


@pytest.mark.parametrize(
    "name, wrong",
    [("self_attn.v_proj.weight", "nan"), ("self_attn.out_proj.weight", "inf"), ("fc1.weight", "nan"),
     ("fc2.weight", "inf"), ("fc1.bias", "nan"), ("final_layer_norm.weight", "nan")],
)  # fmt: skip
def test_weights_that_are_not_finite_are_found(checkpoint, precision, name, wrong, tmp_path):
    data = torch.load(checkpoint, weights_only=False)
    data["model"][f"encoder.sentence_encoder.layers.3.{name}"].flatten()[7] = float(wrong)
    torch.save(data, tmp_path / "broken.pt")
    pack = make_pack(["a"], [encode("a", "MKTAYIAKQR")])
    with pytest.raises(NonFiniteEmbeddingError, match="'a'"):
        list(AsyncInferenceRunner(load(tmp_path / "broken.pt")).run([pack]))


def test_activations_that_are_not_finite_are_found_where_they_are(checkpoint):
    model = load(checkpoint)
    model.embed_tokens.weight[5] = float("nan")  # A
    packs = [make_pack(["good", "bad"], [encode("good", "MKTYI"), encode("bad", "MKTAYI")])]
    with pytest.raises(NonFiniteEmbeddingError, match="embedding of 'bad'"):
        list(AsyncInferenceRunner(model).run(packs))


def test_fair_esms_state_is_what_the_numbers_stand_for(checkpoint, fair_esm_model):
    """Off by at most half a step of its row's scale."""
    state, exact = load(checkpoint).fair_esm_state(), fair_esm_model.state_dict()
    assert set(state) == set(
        load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)[0].fair_esm_state()
    )
    for name, value in state.items():
        assert value.dtype == torch.float32
        if value.ndim == 2 and name != "embed_tokens.weight":
            assert F.cosine_similarity(value, exact[name]).min() >= 0.9995, name
        else:
            torch.testing.assert_close(value, exact[name], atol=1e-6, rtol=1e-5)


def test_the_state_has_every_number_that_decides(checkpoint):
    """So that the checksum of the weights covers scales, and the channels apart with their digits."""
    model, _ = load_esm2_model(
        MODEL, "cpu", precision="int8", weights=checkpoint, channels_apart={"layers.0.fc1": [3]}
    )
    found = {name: value.dtype for name, value in model.layers[0].state_dict().items()}
    assert found["fc1.weight"] == torch.int8
    assert {"fc1.weight_scales", "fc1.channels", "fc1.digits"} <= set(found)
    assert not {"fc1.kept", "fc1.places", "fc1.columns"} & set(found)  # follow from these


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors on the CPU held at a time."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == "cpu":
            storage = result.untyped_storage()
            self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.live = {key: each for key, each in self.live.items() if not each[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def test_loading_holds_no_16_bit_copy_of_the_model(monkeypatch):
    shape = ESM2Shape(layers=40, dim=64, heads=4)
    monkeypatch.setitem(SHAPES, "deep", shape)
    with LiveBytes() as measured:
        model, _ = load_esm2_model("deep", "cpu", precision="int8", weights="random", channels_apart={})
    held = sum(value.nbytes for value in model.parameters())
    assert shape.parameters <= held <= measured.peak <= 1.7 * shape.parameters


def test_a_tokens_memory_counts_8_bit_operands_beside_the_activations(checkpoint):
    """In FP32: the residual and 4 D hidden values, and these once more in a byte each."""
    assert bytes_per_token(load(checkpoint)) == 320 * (5 * 4 + 4)


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no BF16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [16, 128])
def test_attention_in_bf16_is_that_of_fp32_up_to_its_rounding(dtype, head_dim, monkeypatch):
    """In blocks of every shape: some heads, some rows of one head, the whole."""
    lengths = [1, 3, 31, 40, 0, 130, 32]
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    qkv = torch.randn(int(ends[-1]), 3, 4, head_dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = attend_one_by_one(qkv.float(), ends)
    for scores in (64, 2000, 2**20):
        monkeypatch.setattr("virnucpro.models.attention.SCORES_AT_A_TIME", scores)
        found = attend_in_bf16(qkv.clone(), ends)
        assert found.dtype == dtype
        for own, right in zip(found.float().split(lengths), expected.split(lengths), strict=True):
            assert (own - right).abs().sum() <= 0.02 * right.abs().sum(), (scores, len(own))


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no BF16")
def test_a_nan_in_attention_in_bf16_stays_in_its_protein():
    ends = torch.tensor([0, 40, 75, 123], dtype=torch.int32)
    qkv = torch.randn(123, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    expected = attend_in_bf16(qkv.clone(), ends)
    qkv[40:75] = torch.nan
    found = attend_in_bf16(qkv, ends)
    assert found[40:75].isnan().all()
    assert torch.equal(found[:40], expected[:40]) and torch.equal(found[75:], expected[75:])


def test_fp32_attention_stays_exact():
    """BF16 products are for the precisions that ask for them."""
    qkv = torch.randn(50, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0, 50], dtype=torch.int32)
    rotary = (torch.zeros(50, dtype=torch.int32), *rotary_tables(64, exact_frequencies(16), torch.device("cpu")))
    found = attend(qkv.clone(), rotary, ends, 50)
    exact = attend_one_by_one(qkv.double(), ends)
    assert (found - exact).abs().max() <= 1e-6


def on_gpu(plain, precision, monkeypatch):
    """A model of `plain`'s weights on the GPU."""
    monkeypatch.setitem(SHAPES, "twin", plain.shape)
    monkeypatch.setattr("virnucpro.models.weights.read_checkpoint", lambda *_: stored(plain))
    return load_esm2_model("twin", "cuda", precision=precision, weights="made up")[0]


def run_on_gpu(model, entries):
    """Each protein's last layer from one pack of all, FP32 on the CPU."""
    packed = make_pack([name for name, _ in entries], [encode(*entry) for entry in entries])
    found = model.forward_packed(packed.input_ids.cuda(), packed.cu_seqlens.cuda(), packed.max_seqlen)
    (last,) = found["representations"].values()
    return dict(zip(packed.sequence_ids, last.float().cpu().split(packed.lengths), strict=True))


def gpu_precisions():
    """INT8, and FP8 where there is a GPU that has it."""
    has_fp8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
    lacking = pytest.mark.skipif(not has_fp8, reason="needs compute capability 8.9")
    return ["int8", pytest.param("fp8", marks=lacking)]


class TestOnGPU:
    pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

    @pytest.mark.parametrize("precision", gpu_precisions())
    @pytest.mark.parametrize("name", [MODEL, "esm2_t12_35M_UR50D", "esm2_t33_650M_UR50D"])
    def test_ragged_proteins_are_close_to_the_cpus_fp32(self, name, precision, monkeypatch):
        """Which is held to fair-esm's in test_esm2_packed."""
        plain = random_on_cpu(name)
        long = ("4000", "ACDEFGHIKLMNPQRSTVWY" * 200)
        entries = RAGGED if name == "esm2_t33_650M_UR50D" else [*RAGGED, long]
        found = run_on_gpu(on_gpu(plain, precision, monkeypatch), entries)
        pooled, residue = cosines(found, run(plain, entries, plain.num_layers))
        assert (pooled >= BOUNDS[precision][0], residue >= BOUNDS[precision][1]) == (True, True), (pooled, residue)

    @pytest.mark.parametrize("precision", gpu_precisions())
    @pytest.mark.parametrize("head_dim", [32, 128])
    def test_heads_of_other_models_are_close_to_fair_esms(self, head_dim, precision, monkeypatch):
        reference, plain = twins(layers=2, dim=256, heads=256 // head_dim)
        with torch.inference_mode():
            expected = {
                name: reference(torch.from_numpy(encode(name, protein))[None], repr_layers=[2])["representations"][
                    2
                ][0]
                for name, protein in RAGGED
            }
        pooled, residue = cosines(run_on_gpu(on_gpu(plain, precision, monkeypatch), RAGGED), expected)
        assert (pooled >= BOUNDS[precision][0], residue >= BOUNDS[precision][1]) == (True, True), (pooled, residue)

    @pytest.mark.parametrize("precision", gpu_precisions())
    def test_weights_are_quantised_as_on_the_cpu(self, precision, monkeypatch):
        plain = random_on_cpu(MODEL)
        layer = on_gpu(plain, precision, monkeypatch).layers[0]
        weight = plain.layers[0].fc2.weight  # whose channels nothing evens out
        values, scales, _ = quantise(weight.clone(), layer.fc2.format)
        assert torch.equal(layer.fc2.weight.cpu().view(torch.int8), values.view(torch.int8))
        assert torch.equal(layer.fc2.weight_scales.cpu(), scales)

    @pytest.mark.parametrize("precision", gpu_precisions())
    @pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
    @pytest.mark.parametrize("where", ["embed_tokens", "fc1", "out_proj"])
    def test_what_is_not_finite_is_found(self, precision, wrong, where, monkeypatch):
        plain = copy.deepcopy(random_on_cpu(MODEL))
        layer = plain.layers[3]
        weights = {"embed_tokens": plain.embed_tokens, "fc1": layer.fc1, "out_proj": layer.self_attn.out_proj}
        weights[where].weight[5, 7] = wrong  # the embedding of A
        pack = make_pack(["a"], [encode("a", "MKTAYIAKQR")])
        with pytest.raises(NonFiniteEmbeddingError, match="'a'"):
            list(AsyncInferenceRunner(on_gpu(plain, precision, monkeypatch)).run([pack]))

    @pytest.mark.parametrize("precision", gpu_precisions())
    def test_results_depend_neither_on_the_pack_nor_on_the_order(self, precision, monkeypatch):
        model = on_gpu(random_on_cpu(MODEL), precision, monkeypatch)
        together, reversed_ = run_on_gpu(model, RAGGED), run_on_gpu(model, RAGGED[::-1])
        for entry in RAGGED:
            (alone,) = run_on_gpu(model, [entry]).values()
            for other in (together, reversed_):
                assert F.cosine_similarity(other[entry[0]], alone).min() >= 0.99999, entry[0]

    @pytest.mark.parametrize("precision", gpu_precisions())
    def test_fair_esms_state_is_what_the_numbers_stand_for(self, precision, monkeypatch):
        plain = random_on_cpu(MODEL)
        state = on_gpu(plain, precision, monkeypatch).fair_esm_state()
        for name, exact in plain.fair_esm_state().items():
            if exact.ndim == 2:
                found, real = state[name].float().cpu(), exact.any(dim=1)  # padding's embedding is zero
                assert not found[~real].any()
                assert F.cosine_similarity(found[real], exact[real]).min() >= BOUNDS[precision][1], name

    @pytest.mark.parametrize("precision", gpu_precisions())
    def test_loading_holds_no_16_bit_copy_of_the_model(self, precision):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model, _ = load_esm2_model("esm2_t33_650M_UR50D", "cuda", precision=precision, weights="random")
        parameters = model.shape.parameters
        # The allocator's blocks are up to a MiB larger than what was asked for; a copy would be twice as large
        assert torch.cuda.memory_allocated() - before <= 1.05 * parameters
        assert torch.cuda.max_memory_allocated() - before <= 1.5 * parameters

    def test_an_empty_pack_has_an_empty_result(self, monkeypatch):
        empty = make_pack([], [])
        model = on_gpu(random_on_cpu(MODEL), "int8", monkeypatch)
        found = model.forward_packed(empty.input_ids.cuda(), empty.cu_seqlens.cuda(), 0)["representations"]
        assert found[6].shape == (0, 320)
