"""Files that are no checkpoint are refused by what they are."""

import errno
import pickle
from argparse import Namespace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import MODEL
from virnucpro.models.checkpoint import CheckpointError, read_checkpoint

CONFIG = Namespace(encoder_layers=6, encoder_embed_dim=320, encoder_attention_heads=20, token_dropout=True)


def refused(path):
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(MODEL, path)
    said = str(raised.value)
    assert str(path) in said and "weights_only" not in said and "trusted" not in said
    return said


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html></html>", "it is a web page (HTML)"),
        (b"\r\n  <html>", "it is a web page (HTML)"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS"),
        (b"\x40\0\0\0\0\0\0\0{}", "it is a safetensors file"),
        (b"hello", "PyTorch did not write it"),
        (b"\x1f\x8b\x08\0", "PyTorch did not write it"),
        (pickle.dumps({"model": print}), "it is damaged, or has objects of Python that are no tensors"),
        (
            pickle.dumps({"model": print}, protocol=2),
            "it is damaged, or has objects of Python that are no tensors",
        ),
    ],
)
def test_what_is_no_checkpoint_is_told_without_pytorchs_advice(tmp_path, content, said):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path, checkpoint, kept):
    path, whole = tmp_path / "weights.pt", checkpoint.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path)


@pytest.mark.parametrize(
    "data",
    [
        [],
        3,
        torch.zeros(3),
        {"model": {}},
        {"model": [], "cfg": {"model": CONFIG}},
        {"model": {1: torch.zeros(1)}, "cfg": {"model": CONFIG}},
        {"model": {}, "cfg": {"model": Namespace()}},
        {"model": {}, "cfg": {"model": CONFIG}},
    ],
)
def test_other_data_are_refused(tmp_path, data):
    torch.save(data, tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "value",
    [3, None, [0.0], torch.zeros(33, 320, dtype=torch.int64), torch.zeros(33, 320, dtype=torch.complex64),
     torch.zeros(33, 320).to_sparse(), torch.zeros(320, 33)],
    ids=["int", "None", "list", "int64", "complex", "sparse", "shape"],
)  # fmt: skip
def test_parameters_that_are_no_floating_point_tensors_are_refused_by_name(tmp_path, checkpoint, value):
    with torch.serialization.safe_globals([Namespace]):
        data = torch.load(checkpoint, weights_only=True)
    data["model"]["encoder.sentence_encoder.embed_tokens.weight"] = value
    torch.save(data, tmp_path / "weights.pt")
    assert "lacks 1 of" in (said := refused(tmp_path / "weights.pt")) and "embed_tokens.weight" in said


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"<"]), st.binary(max_size=300))
@example(b"\x80\x02", pickle.dumps(torch.zeros(2), protocol=2))
def test_arbitrary_bytes_are_refused(tmp_path, start, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(start + content)
    refused(path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"PermissionError: .*Permission denied"):
        read_checkpoint(MODEL, "pretrained")
