"""What Transformers saved: read as it reads it, or refused by what is not understood."""

import json
import shutil
import struct

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from tests.checkpoints import (
    save_in_transformers_format,
    transformers_config,
    transformers_state,
)
from tests.conftest import MODEL, RAGGED
from virnucpro.data.tokens import encode
from virnucpro.models.checkpoint import CheckpointError, read_checkpoint
from virnucpro.models.esm2_flash import load_esm2_model

QUICK = [*RAGGED[:5], ("middle", RAGGED[5][1])]
FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
WORDS = "esm.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def saved(fair_esm_model, tmp_path_factory):
    return save_in_transformers_format(fair_esm_model, tmp_path_factory.mktemp("transformers"))


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "saved")


@pytest.fixture(scope="module")
def expected(fair_esm_model):
    with torch.inference_mode():
        return [
            fair_esm_model(torch.from_numpy(encode(*entry))[None], repr_layers=[6])["representations"][6][0]
            for entry in QUICK
        ]


def embeddings(weights, entries=QUICK):
    model, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=weights)
    return [model(converter([entry])[2])["representations"][6][0] for entry in entries]


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ((ours - theirs).norm(dim=-1) <= 1e-5 * theirs.norm(dim=-1)).all()


def refused(path, named=None):
    """What is said of a checkpoint; it names `named`, by default the file or folder that was asked for."""
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(MODEL, path)
    assert str(named or path) in str(raised.value)
    return str(raised.value)


def spoil(folder, change):
    """`change` the state that a folder has."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def shared(state, name="esm.rotary_embeddings.inv_freq"):
    """One tensor of frequencies for all layers, as Transformers 5 has."""
    for index in range(6):
        state[name] = state.pop(FREQUENCIES.format(index))


def as_5_23_writes(state):
    shared(state, FREQUENCIES.format("*"))
    for name in [each for each in state if "LayerNorm." in each]:
        other = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        state[other] = state.pop(name)


def without_heads(state):
    for name in [each for each in state if each.startswith("lm_head") or "contact" in each or "position" in each]:
        del state[name]
    state["esm.pooler.dense.weight"] = torch.zeros(320, 320)


@pytest.mark.parametrize(
    "change", [lambda state: None, shared, as_5_23_writes, without_heads], ids=["4", "5", "5.23", "no heads"]
)
def test_embeddings_equal_fair_esms(folder, expected, change):
    assert_equal(embeddings(spoil(folder, change)), expected)


def test_names_of_the_encoder_alone_are_read_too(fair_esm_model, tmp_path, expected):
    folder = save_in_transformers_format(fair_esm_model, tmp_path / "bare", transformers_state(fair_esm_model, ""))
    assert_equal(embeddings(folder), expected)


def is_same(checkpoint, other):
    return checkpoint.constants == other.constants and all(
        torch.equal(value, other.parameters[name]) for name, value in checkpoint.parameters.items()
    )


@pytest.mark.parametrize("name", ["", "config.json", "model.safetensors"])
def test_a_folder_or_either_of_its_files_can_be_named(saved, checkpoint, name):
    assert is_same(read_checkpoint(MODEL, saved / name), read_checkpoint(MODEL, checkpoint))


def test_a_folder_of_the_models_name_is_found_in_another(folder, checkpoint):
    folder.rename(folder.with_name(MODEL))
    assert is_same(read_checkpoint(MODEL, folder.parent), read_checkpoint(MODEL, checkpoint))


@pytest.mark.parametrize("name", ["", "config.json", "pytorch_model.bin"])
def test_pytorchs_form_is_read(folder, checkpoint, name):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert is_same(read_checkpoint(MODEL, folder / name), read_checkpoint(MODEL, checkpoint))


def in_parts(folder, form="safetensors"):
    """Save the model as two files and an index; the index."""
    single = "model.safetensors" if form == "safetensors" else "pytorch_model.bin"
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for part in (0, 1):
        name = f"{single.partition('.')[0]}-0000{part + 1}-of-00002.{form}"
        some = {key: state[key] for key in sorted(state)[part::2]}
        (save_file if form == "safetensors" else torch.save)(some, folder / name)
        places |= dict.fromkeys(some, name)
    index = folder / f"{single}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_model_in_several_parts_is_read_by_its_index(folder, checkpoint, form):
    index = in_parts(folder, form)
    for path in (folder, index):
        assert is_same(read_checkpoint(MODEL, path), read_checkpoint(MODEL, checkpoint))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_part_alone_is_refused(folder, form):
    in_parts(folder, form)
    part = next(folder.glob(f"*-00001-of-00002.{form}"))
    assert f"it is one of several parts: name the folder {folder}" in refused(part)


@pytest.mark.parametrize(
    "place", ["../model.safetensors", "/dev/zero", "..", "", "gone.safetensors", "a\0b", "\ud800"]
)
def test_an_index_can_name_files_beside_it_only(folder, place):
    index = in_parts(folder)
    shutil.copy(next(folder.glob("*00001-of*")), folder.parent / "model.safetensors")
    places = json.loads(index.read_text())
    places["weight_map"][WORDS] = place
    index.write_text(json.dumps(places))
    assert "which is no file beside it" in refused(folder)


@pytest.mark.parametrize("places", [None, [], 3, {"a": 3}, {"a": None}])
def test_an_index_without_places_is_refused(folder, places):
    in_parts(folder).write_text(json.dumps({"weight_map": places}))
    assert "model.safetensors.index.json has no weight_map" in refused(folder)


def test_an_index_and_parts_that_do_not_agree_are_refused(folder):
    index = in_parts(folder)
    places = json.loads(index.read_text())
    name = places["weight_map"].pop(WORDS)
    index.write_text(json.dumps(places))
    assert f"{name} has {WORDS}" in refused(folder)
    places["weight_map"] |= {WORDS: name, "more": name}
    index.write_text(json.dumps(places))
    assert f"{name} lacks more" in refused(folder)


@pytest.mark.parametrize(
    "field, value",
    [
        ("model_type", "esm_fold"),
        ("model_type", None),
        ("model_type", ["esm"]),
        ("vocab_size", 31),
        ("vocab_size", None),
        ("pad_token_id", 0),
        ("mask_token_id", 4),
        ("mask_token_id", None),
        ("position_embedding_type", "absolute"),
        ("position_embedding_type", {}),
        ("emb_layer_norm_before", True),
        ("is_folding_model", True),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
        ("intermediate_size", 640),
        ("intermediate_size", "1280"),
        ("hidden_size", 320.0),
        ("hidden_size", -320),
        ("num_hidden_layers", 10**4000),
        ("num_hidden_layers", None),
        ("num_attention_heads", 0),
        ("num_attention_heads", [20]),
        ("token_dropout", "false"),
        ("token_dropout", []),
        ("layer_norm_eps", 0.0),
        ("layer_norm_eps", None),
        ("layer_norm_eps", "1e-5"),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", 10**4000),
        ("rope_theta", -1.0),
        ("rope_theta", float("inf")),
        ("rope_theta", True),
    ],
)
def test_a_configuration_of_no_esm2_is_refused_by_field(folder, fair_esm_model, field, value):
    config = folder / "config.json"
    config.write_text(json.dumps(transformers_config(fair_esm_model, **{field: value})))
    said = refused(folder, config)
    assert f"its {field} is" in said and len(said) < 500


@pytest.mark.parametrize("field", ["vocab_size", "position_embedding_type", "hidden_size", "model_type"])
def test_a_field_that_is_not_there_has_transformers_default(folder, fair_esm_model, field):
    config = transformers_config(fair_esm_model)
    del config[field]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, folder / "config.json")


def test_a_model_of_another_size_is_refused_by_name(folder, fair_esm_model):
    more = {"num_hidden_layers": 12, "hidden_size": 480, "intermediate_size": 1920}
    (folder / "config.json").write_text(json.dumps(transformers_config(fair_esm_model, **more)))
    assert "it is esm2_t12_35M_UR50D" in refused(folder)


def test_the_epsilon_of_norms_and_token_dropout_are_those_of_the_configuration(folder, fair_esm_model):
    more = {"layer_norm_eps": 1e-12, "token_dropout": False, "mask_token_id": None}
    (folder / "config.json").write_text(json.dumps(transformers_config(fair_esm_model, **more)))
    constants = read_checkpoint(MODEL, folder).constants
    assert (constants.norm_eps, constants.token_dropout) == (1e-12, False)


def test_without_frequencies_those_of_the_configurations_base_are_computed(folder, fair_esm_model):
    def remove(state):
        for index in range(6):
            del state[FREQUENCIES.format(index)]

    (folder / "config.json").write_text(json.dumps(transformers_config(fair_esm_model, rope_theta=100.0)))
    constants = read_checkpoint(MODEL, spoil(folder, remove)).constants
    assert not constants.stored
    assert constants.frequencies == pytest.approx([100.0 ** (-index / 8) for index in range(8)])


def put(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda state: state.pop(FREQUENCIES.format(3)), "for some layers, and lacks encoder.layer.3.attention"),
        (
            put(FREQUENCIES.format(3), torch.ones(8)),
            "encoder.layer.3.attention.self.rotary_embeddings.inv_freq are",
        ),
        (put("esm.rotary_embeddings.inv_freq", torch.ones(8)), "are not those of rotary_embeddings.inv_freq"),
        (lambda state: state.pop(WORDS), "first embeddings.word_embeddings.weight"),
        (put(WORDS, torch.zeros(33, 320, dtype=torch.int32)), "(it is a tensor [33, 320] of int32)"),
        (put(WORDS, torch.zeros(33, 320).to(torch.float8_e4m3fn)), "of float8_e4m3fn)"),
        (put(WORDS.removeprefix("esm."), torch.zeros(33, 320)), "embeddings.word_embeddings.weight twice: as"),
        (
            put("esm.encoder.layer.6.output.dense.bias", torch.zeros(320)),
            "has esm.encoder.layer.6.output.dense.bias",
        ),
        (put("esm.encoder.layer.0.output.dense.lora_A.default.weight", torch.zeros(2)), "merge_and_unload"),
        (put("classifier.dense.weight", torch.zeros(2)), "has classifier.dense.weight, which is no part of"),
        (put("esm.embeddings.layer_norm.weight", torch.zeros(2)), "has esm.embeddings.layer_norm.weight"),
    ],
)
def test_a_state_that_is_not_understood_is_refused_by_name(folder, change, said):
    assert said in refused(spoil(folder, change))


def test_an_adapter_is_refused_with_the_remedy(folder):
    (folder / "adapter_config.json").write_text("{}")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    for path in (folder, folder / "adapter_config.json", folder / "adapter_model.safetensors"):
        assert "merge_and_unload" in refused(path)
    (folder / "config.json").unlink()
    for path in (folder, folder / "adapter_config.json", folder / "adapter_model.safetensors"):
        assert "merge_and_unload" in refused(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe\xfa", b"[" * 100_000, b'{"a":' * 900, b"nul"]
)
def test_a_configuration_that_is_no_json_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json is damaged" in refused(folder)


def test_a_value_of_many_brackets_is_refused(folder, fair_esm_model):
    text = json.dumps(transformers_config(fair_esm_model, vocab_size="HERE"))
    (folder / "config.json").write_text(text.replace('"HERE"', "[" * 400 + "]" * 400))
    assert "its vocab_size is" in refused(folder, folder / "config.json")


@pytest.mark.parametrize("kept", [0, 4, 9, 1000, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(folder, kept):
    path, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "model.safetensors is" in refused(folder)
    refused(path)


def test_a_file_without_a_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    assert "there is no config.json beside it" in refused(folder / "model.safetensors")
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert "there is no config.json beside it" in refused(folder / "pytorch_model.bin")


def test_a_configuration_without_a_model_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "there is none of model.safetensors, pytorch_model.bin" in refused(folder)


def small_folder(tmp_path, fair_esm_model):
    folder = tmp_path / "saved"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(transformers_config(fair_esm_model)))
    return folder


some = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted([
    "model_type", "vocab_size", "mask_token_id", "pad_token_id", "num_hidden_layers", "hidden_size", "is_decoder",
    "num_attention_heads", "intermediate_size", "position_embedding_type", "emb_layer_norm_before", "rope_theta",
    "token_dropout", "layer_norm_eps", "quantization_config", "is_folding_model", "add_cross_attention",
])  # fmt: skip


@some
@given(st.dictionaries(st.sampled_from(FIELDS), anything, min_size=1))
def test_arbitrary_configurations_give_nothing_but_a_refusal(tmp_path, fair_esm_model, fields):
    folder = small_folder(tmp_path, fair_esm_model)
    (folder / "config.json").write_text(json.dumps(transformers_config(fair_esm_model, **fields)))
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    refused(folder, folder)


@some
@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_a_configuration_are_refused(tmp_path, fair_esm_model, content):
    folder = small_folder(tmp_path, fair_esm_model)
    (folder / "config.json").write_bytes(content)
    refused(folder)


def with_length(header):
    return struct.pack("<Q", len(header)) + header


HEADERS = st.dictionaries(
    st.sampled_from([WORDS, "a", "__metadata__"]),
    anything
    | st.fixed_dictionaries({
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F4", "F8_E8M0", "F6_E2M3", "C64", "BOOL", "U64", "X"]),
        "shape": st.lists(st.integers(-1, 2**64), max_size=3) | st.just([0]) | st.just([1]) | st.just([2]),
        "data_offsets": st.lists(st.integers(0, 9), min_size=2, max_size=2) | st.just([0, 0]) | st.just([0, 4]),
    }),
    max_size=2,
)  # fmt: skip


@some
@given(
    st.binary(max_size=100)
    | st.binary(max_size=100).map(with_length)
    | HEADERS.map(lambda header: with_length(json.dumps(header).encode()) + bytes(4))
    | st.integers(0, 80).map(lambda kept: save({"a": torch.zeros(2)})[:kept])
)
@example(struct.pack("<Q", 2**63) + b"{}")
@example(with_length(b'{"a":' * 100_000))
def test_arbitrary_bytes_as_parameters_are_refused(tmp_path, fair_esm_model, content):
    folder = small_folder(tmp_path, fair_esm_model)
    (folder / "model.safetensors").write_bytes(content)
    refused(folder)
    refused(folder / "model.safetensors")


class TestTransformersItself:
    """Embeddings equal its last_hidden_state."""

    @pytest.fixture(autouse=True)
    def quiet(self, monkeypatch):
        logging = pytest.importorskip("transformers").logging
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        yield
        logging.set_verbosity(before)

    def made(self, kind, **fields):
        import transformers

        torch.manual_seed(0)
        config = transformers.EsmConfig(
            vocab_size=33, mask_token_id=32, pad_token_id=1, hidden_size=320, num_hidden_layers=6,
            num_attention_heads=20, intermediate_size=1280, position_embedding_type="rotary",
            **{"layer_norm_eps": 1e-5, "token_dropout": True} | fields,
        )  # fmt: skip
        model = getattr(transformers, kind)(config).eval()
        frequencies = (model.esm if kind == "EsmForMaskedLM" else model).rotary_embeddings.inv_freq
        frequencies.copy_(frequencies.half())
        return model

    def theirs(self, model):
        encoder = getattr(model, "esm", model)
        with torch.inference_mode():
            return [encoder(torch.from_numpy(encode(*entry))[None]).last_hidden_state[0] for entry in QUICK]

    @pytest.mark.parametrize("most", ["5GB", "4MB"])
    @pytest.mark.parametrize("kind", ["EsmModel", "EsmForMaskedLM"])
    def test_embeddings_of_a_model_that_it_saves(self, tmp_path, kind, most):
        model = self.made(kind)
        model.save_pretrained(tmp_path, max_shard_size=most)
        assert (tmp_path / "model.safetensors").exists() == (most == "5GB")
        assert_equal(embeddings(tmp_path), self.theirs(model))

    @pytest.mark.parametrize("kind", ["EsmModel", "EsmForMaskedLM"])
    def test_embeddings_of_a_state_that_pytorch_saves(self, tmp_path, kind):
        model = self.made(kind)
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        assert_equal(embeddings(tmp_path), self.theirs(model))

    def test_embeddings_with_the_defaults_of_its_configuration(self, tmp_path):
        model = self.made("EsmModel", layer_norm_eps=1e-12, token_dropout=False)
        model.save_pretrained(tmp_path)
        assert_equal(embeddings(tmp_path), self.theirs(model))

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_embeddings_of_a_folder_as_transformers_4_wrote_it(self, saved, expected, attention):
        import transformers

        model = transformers.EsmModel.from_pretrained(
            saved, attn_implementation=attention, add_pooling_layer=False
        )
        theirs = self.theirs(model.eval())
        assert_equal(theirs, expected)
        assert_equal(embeddings(saved), theirs)
