"""load_esm2_model against fair-esm, and what it says when it cannot load."""

import logging
import re
from argparse import Namespace
from pathlib import Path

import esm
import pytest
import torch

from tests.conftest import MODEL, RAGGED, sample_of
from virnucpro.models import esm2_flash
from virnucpro.models.checkpoint import CheckpointError
from virnucpro.models.esm2 import ESM2, SHAPES
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.precision import PRECISIONS

ON_CPUS = re.sub(", ([^,]+)$", r" or \1", ", ".join(name for name, each in PRECISIONS.items() if each.on_cpu))
"""As a sentence lists them."""


def residues_only(representations: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return representations[tokens.ne(1)]


@pytest.mark.parametrize("some", sample_of([RAGGED, RAGGED[:-1]], RAGGED[:-1]), ids=["all", "but the long one"])
def test_fp32_equals_fair_esm_on_a_ragged_batch(fair_esm_model, checkpoint, some):
    model, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    _, _, tokens = converter(some)
    layers = [0, 1, 5, 6]
    with torch.inference_mode():
        expected = fair_esm_model(tokens, repr_layers=layers)["representations"]
        found = model(tokens, repr_layers=layers)["representations"]
    for layer in layers:
        difference = residues_only(found[layer], tokens) - residues_only(expected[layer], tokens)
        assert found[layer].dtype == torch.float32
        assert difference.abs().max() <= 1e-5, layer


def test_a_logger_that_is_given_tells_of_the_loading(checkpoint, caplog):
    """The fourth argument of VirNucPro v2's function."""
    mine = logging.getLogger("mine")
    with caplog.at_level(logging.INFO):
        load_esm2_model(MODEL, "cpu", False, mine, weights=checkpoint)
        load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint, logger_instance=None)
    told = [(each.name, each.levelname, each.getMessage()) for each in caplog.records]
    begin = f"loading {MODEL} in fp32 on cpu, weights: {checkpoint}"
    own = esm2_flash.__name__
    assert told == [(name, "INFO", text) for name in ("mine", own) for text in (begin, f"loaded {MODEL}")]


@pytest.mark.parametrize("precision, smallest_cosine", [("bf16", 0.999), ("fp16", 0.9999)])
def test_half_precision_stays_close_to_fair_esm(fair_esm_model, checkpoint, precision, smallest_cosine):
    model, converter = load_esm2_model(MODEL, "cpu", precision=precision, weights=checkpoint)
    _, _, tokens = converter(RAGGED[:5])
    with torch.inference_mode():
        expected = fair_esm_model(tokens, repr_layers=[6])["representations"][6]
        found = model(tokens)["representations"][6]
    cosine = torch.cosine_similarity(residues_only(found, tokens).float(), residues_only(expected, tokens), dim=-1)
    assert found.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert {p.dtype for p in model.parameters()} == {found.dtype}
    assert cosine.min() >= smallest_cosine


def test_a_protein_does_not_depend_on_what_it_is_batched_with(checkpoint):
    model, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    together = model(converter(RAGGED)[2])["representations"][6][0, :3]
    alone = model(converter(RAGGED[:1])[2])["representations"][6][0, :3]
    assert (together - alone).abs().max() <= 1e-5


def test_an_empty_batch_has_empty_representations(checkpoint):
    model, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    labels, proteins, tokens = converter([])
    assert (labels, proteins) == ([], [])
    assert model(tokens)["representations"][6].shape == (0, 2, 320)


def test_fp32_turns_tf32_off_for_its_own_forward_pass_only(checkpoint):
    model, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    seen = []

    def stop(*_: object) -> None:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        raise RuntimeError("stopped in the middle")

    model.layers[0].self_attn.qkv_proj.register_forward_pre_hook(stop)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="stopped in the middle"):
            model(converter(RAGGED)[2])
        assert (seen, torch.backends.cuda.matmul.fp32_precision) == (["ieee"], "tf32")
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_a_layer_that_does_not_exist_is_refused(checkpoint):
    model, converter = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    with pytest.raises(ValueError, match="layers 0 to 6"):
        model(converter(RAGGED)[2], repr_layers=[7])


def test_random_weights_are_seeded_and_the_same_in_every_precision():
    fp32, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")
    again, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")
    other, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights="random", seed=1)
    fp16, _ = load_esm2_model(MODEL, "cpu", precision="fp16", weights="random")
    for (name, value), same, half in zip(
        fp32.named_parameters(), again.parameters(), fp16.parameters(), strict=True
    ):
        assert torch.equal(value, same), name
        assert torch.equal(value.half(), half), name
    assert not torch.equal(fp32.embed_tokens.weight, other.embed_tokens.weight)


@pytest.mark.parametrize("name", SHAPES)
def test_every_size_has_fair_esms_architecture(name):
    shape = SHAPES[name]
    with torch.device("meta"):
        reference = esm.ESM2(shape.layers, shape.dim, shape.heads)
        model = ESM2(shape)
    encoder = {
        key: value.shape
        for key, value in reference.state_dict().items()
        if not key.startswith(("lm_head", "contact_head"))
    }
    assert {key: value.shape for key, value in model.fair_esm_state().items()} == encoder
    assert shape.parameters == sum(size.numel() for key, size in encoder.items() if "inv_freq" not in key)


@pytest.mark.parametrize(
    "arguments, disabled, expected",
    [
        ({}, "", torch.float32),  # what a CPU is faster in
        ({}, "1", torch.float32),
        ({"enable_fp16": True}, "", torch.float16),
        ({"enable_fp16": True}, "1", torch.float32),
        ({"enable_fp16": False}, "", torch.float32),
        ({"precision": "bf16"}, "1", torch.bfloat16),
    ],
)
def test_precision_wins_over_enable_fp16_and_the_environment(arguments, disabled, expected, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_DISABLE_FP16", disabled)
    model, _ = load_esm2_model(MODEL, "cpu", weights="random", **arguments)
    assert model.embed_tokens.weight.dtype == expected


@pytest.mark.parametrize(
    "capability, expected", [(None, "fp32"), ((6, 0), "fp32"), ((7, 0), "fp16"), ((9, 0), "fp16")]
)
def test_the_default_precision_is_that_of_precision_auto(capability, expected, monkeypatch):
    monkeypatch.delenv("VIRNUCPRO_DISABLE_FP16", raising=False)
    monkeypatch.setattr(esm2_flash, "compute_capability", lambda device: capability)
    assert load_esm2_model(MODEL, "cpu", weights="random")[0].precision == expected


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"model_name": "esm2_t7_9M"}, "unknown model 'esm2_t7_9M'.*esm2_t6_8M_UR50D"),
        ({"precision": "fp4"}, f"unknown precision 'fp4'.*{', '.join(PRECISIONS)}"),
        ({"precision": "fp8"}, f"fp8.*NVIDIA GPUs.*{ON_CPUS}"),
        ({"device": "tpu"}, "unknown device 'tpu'.*cpu, cuda"),
        ({"device": "mps"}, "unknown device 'mps'.*cpu, cuda"),
        ({"precision": "tf32"}, f"tf32.*NVIDIA GPUs.*{ON_CPUS}"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(arguments, said):
    with pytest.raises(ValueError, match=said):
        load_esm2_model(**{"model_name": MODEL, "device": "cpu", "weights": "random"} | arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"device 'cuda': .*device='cpu'"):
        load_esm2_model(MODEL, "cuda", weights="random")


def test_a_missing_checkpoint_is_named_with_the_remedy(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pt.*weights='random'"):
        load_esm2_model(MODEL, "cpu", weights=tmp_path / "gone.pt")


def test_a_truncated_checkpoint_is_named(checkpoint, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*broken\.pt"):
        load_esm2_model(MODEL, "cpu", weights=broken)


def test_a_checkpoint_of_another_size_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match="another model than esm2_t12_35M_UR50D"):
        load_esm2_model("esm2_t12_35M_UR50D", "cpu", weights=checkpoint)


def test_a_checkpoint_without_a_parameter_is_refused(checkpoint, tmp_path):
    data = torch.load(checkpoint, weights_only=False)
    del data["model"]["encoder.sentence_encoder.layers.3.fc1.bias"]
    torch.save(data, tmp_path / "partial.pt")
    with pytest.raises(CheckpointError, match=r"lacks 1 of .* first layers\.3\.fc1\.bias"):
        load_esm2_model(MODEL, "cpu", weights=tmp_path / "partial.pt")


def test_a_file_that_is_no_esm2_checkpoint_is_refused(tmp_path):
    torch.save({"args": Namespace(arch="roberta_large")}, tmp_path / "esm1.pt")
    with pytest.raises(CheckpointError, match=r"esm1\.pt is not an ESM-2 checkpoint"):
        load_esm2_model(MODEL, "cpu", weights=tmp_path / "esm1.pt")


def test_pretrained_weights_come_through_fair_esms_loader_and_cache(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{MODEL}.pt").symlink_to(checkpoint)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32")
    stored = torch.load(checkpoint, weights_only=False)["model"]
    assert torch.equal(model.layers[2].fc1.weight, stored["encoder.sentence_encoder.layers.2.fc1.weight"])


def test_a_download_that_fails_says_where_to_put_the_file(tmp_path, monkeypatch):
    def unreachable(*args: object, **kw: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(CheckpointError, match=rf"checkpoints/{MODEL}\.pt.*Network is unreachable.*by hand"):
        load_esm2_model(MODEL, "cpu")


def test_a_local_checkpoint_takes_a_path_object_or_a_string(checkpoint):
    for weights in (checkpoint, str(checkpoint), Path(checkpoint)):
        model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=weights)
        assert not model.training
