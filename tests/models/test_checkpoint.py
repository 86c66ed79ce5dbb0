"""Files that are no checkpoint are refused by what they are."""

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.checkpoints import transformers_config
from tests.conftest import MODEL
from virnucpro.cli import main
from virnucpro.models import checkpoint as module
from virnucpro.models.checkpoint import CheckpointError, read_checkpoint
from virnucpro.models.esm2_flash import load_esm2_model

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


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"<"]), st.binary(max_size=300))
@example(b"\x80\x02", pickle.dumps(torch.zeros(2), protocol=2))
def test_arbitrary_bytes_are_refused(tmp_path, start, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(start + content)
    refused(path)


IN_FRONT = "encoder.sentence_encoder."
FREQUENCIES = IN_FRONT + "layers.{}.self_attn.rot_emb.inv_freq"
FIRST = IN_FRONT + "embed_tokens.weight"


@pytest.fixture
def data(checkpoint):
    """What a good checkpoint has, to be changed."""
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(checkpoint, weights_only=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def put(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda state: state.pop(FREQUENCIES.format(3)), "for some layers, and lacks layers.3.self_attn.rot_emb"),
        (
            put(FREQUENCIES.format(3), torch.ones(8)),
            "layers.3.self_attn.rot_emb.inv_freq are not those of layers.0",
        ),
        (
            put(FREQUENCIES.format(3), torch.full((8,), torch.nan)),
            "layers.3.self_attn.rot_emb.inv_freq are not all",
        ),
        (
            put(FREQUENCIES.format(3), torch.full((8,), torch.inf)),
            "layers.3.self_attn.rot_emb.inv_freq are not all",
        ),
        (
            put(FREQUENCIES.format(3), torch.ones(9)),
            "layers.3.self_attn.rot_emb.inv_freq is a tensor [9] of float32",
        ),
        (put(FREQUENCIES.format(3), torch.ones(8).int()), "inv_freq is a tensor [8] of int32, and not 8 rotary"),
        (put(FREQUENCIES.format(3), torch.ones(8).to(torch.float8_e5m2)), "is a tensor [8] of float8_e5m2"),
        (put(FREQUENCIES.format(3), None), "layers.3.self_attn.rot_emb.inv_freq is of type NoneType"),
        (put(IN_FRONT + "layers.6.fc1.bias", torch.zeros(1280)), "has encoder.sentence_encoder.layers.6.fc1.bias"),
        (put(IN_FRONT + "layers.0.fc1.lora_A.weight", torch.zeros(1)), "merge_and_unload"),
        (put(IN_FRONT + "layers.0.fc1.base_layer.weight", torch.zeros(1)), "merge_and_unload"),
        (put(IN_FRONT + "layers.0.adapter.down.weight", torch.zeros(1)), "merge_and_unload"),
        (
            put("encoder.embed_tokens.weight", torch.zeros(33, 320)),
            f"twice: as {FIRST} and as encoder.embed_tokens",
        ),
        (put("embed_tokens.weight", torch.zeros(33, 320)), f"twice: as {FIRST} and as embed_tokens.weight"),
        (
            put(IN_FRONT + "emb_layer_norm_before.weight", torch.zeros(320)),
            "emb_layer_norm_before.weight, which is",
        ),
        (put(3, torch.zeros(1)), "has 3, which is no part"),
        (put(FIRST, torch.zeros(33, 320, device="meta")), "embed_tokens.weight (it is a tensor"),
        (put(FIRST, torch.zeros(33, 320).to(torch.float8_e4m3fn)), "of float8_e4m3fn)"),
    ],
)
def test_a_state_that_is_not_understood_is_refused_by_name(data, path, change, said):
    change(data["model"])
    torch.save(data, path)
    assert said in refused(path)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    "name, said", [(FIRST, "(it is a nested tensor)"), (FREQUENCIES.format(2), "a nested tensor")]
)
def test_nested_tensors_are_refused_by_name(data, path, name, said):
    data["model"][name] = torch.nested.nested_tensor([torch.zeros(33, 320)])
    torch.save(data, path)
    told = refused(path)
    assert said in told and name.removeprefix(IN_FRONT) in told


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_frequencies_are_those_that_are_stored(data, path, dtype):
    for index in range(6):
        data["model"][FREQUENCIES.format(index)] = torch.linspace(1, 0, 8).half().to(dtype)
    torch.save(data, path)
    constants = read_checkpoint(MODEL, path).constants
    assert constants.stored and constants.frequencies == tuple(torch.linspace(1, 0, 8).half().tolist())


def test_without_frequencies_exact_ones_are_computed(data, path, checkpoint):
    for index in range(6):
        del data["model"][FREQUENCIES.format(index)]
    torch.save(data, path)
    constants = read_checkpoint(MODEL, path).constants
    assert not constants.stored
    assert constants.frequencies == pytest.approx([10_000.0 ** (-index / 8) for index in range(8)])
    assert constants != read_checkpoint(MODEL, checkpoint).constants


@pytest.mark.parametrize("prefix", ["", "encoder.", "sentence_encoder."])
def test_names_may_stand_behind_other_prefixes_and_heads_may_be_absent(data, path, prefix):
    data["model"] = {
        name.replace(IN_FRONT, prefix): value for name, value in data["model"].items() if "lm_head" not in name
    }
    torch.save(data, path)
    assert read_checkpoint(MODEL, path).constants.stored


def test_heads_may_stay(data, path):
    data["model"] |= {f"contact_head.regression.{leaf}": torch.zeros(1) for leaf in ("weight", "bias")}
    torch.save(data, path)
    assert not any("head" in name for name in read_checkpoint(MODEL, path).parameters)


def test_parameters_of_modules_are_read_as_values(data, path, checkpoint):
    data["model"] = {name: torch.nn.Parameter(value) for name, value in data["model"].items()}
    torch.save(data, path)
    found, expected = read_checkpoint(MODEL, path), read_checkpoint(MODEL, checkpoint)
    assert found.constants == expected.constants
    assert all(torch.equal(value, expected.parameters[name]) for name, value in found.parameters.items())
    load_esm2_model(MODEL, "cpu", weights=path)


@pytest.mark.parametrize("dropout", [True, False, torch.tensor(True), torch.tensor(0)])
def test_tensors_in_the_configuration_are_numbers(data, path, dropout):
    about = {"encoder_layers": torch.tensor(6), "encoder_embed_dim": torch.tensor([320])}
    data["cfg"]["model"] = Namespace(**vars(CONFIG) | about | {"token_dropout": dropout})
    torch.save(data, path)
    assert read_checkpoint(MODEL, path).constants.token_dropout == bool(dropout)


def brackets(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def saved_with(field, value, data, path):
    """A checkpoint whose configuration has `value` in a field."""
    data["cfg"]["model"] = Namespace(**vars(CONFIG) | {field: value})
    torch.save(data, path)
    return path


NO_NUMBERS = ["6", 6.0, None, 0, -6, [6], torch.tensor([6, 6]), torch.tensor(6.0), torch.tensor(6, device="meta")]
NO_TRUTHS = ["false", None, 2, [], torch.tensor([True, False]), torch.tensor(1, device="meta")]
ODD = {"brackets": brackets(300), "digits": 10**600, "both": [10**600], "namespace": Namespace(a=1)}


@pytest.mark.parametrize("value", [*NO_NUMBERS, *(pytest.param(value, id=name) for name, value in ODD.items())])
def test_a_size_that_is_no_number_is_told(data, path, value):
    said = refused(saved_with("encoder_layers", value, data, path))
    assert "its encoder_layers is no whole number above 0 but" in said and len(said) < 600


@pytest.mark.parametrize("value", [*NO_TRUTHS, *(pytest.param(value, id=name) for name, value in ODD.items())])
def test_a_token_dropout_that_is_not_true_or_false_is_told(data, path, value):
    said = refused(saved_with("token_dropout", value, data, path))
    assert "its token_dropout is not true or false but" in said and len(said) < 600


@pytest.mark.parametrize("field, value", [("encoder_layers", 10**9), ("encoder_attention_heads", 40)])
def test_a_model_of_another_shape_is_refused(data, path, field, value):
    assert f"holds another model than {MODEL}" in refused(saved_with(field, value, data, path))


@pytest.mark.parametrize("field", vars(CONFIG))
def test_a_configuration_that_lacks_something_is_told(data, path, field):
    data["cfg"]["model"] = Namespace(**{name: value for name, value in vars(CONFIG).items() if name != field})
    torch.save(data, path)
    assert f"its configuration lacks {field}" in refused(path)


class Evil:
    """What makes a file when it is unpickled."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return os.mkdir, (self.proof,)


def as_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [torch.save, as_pickle])
@pytest.mark.parametrize("place", ["weights.pt", "pytorch_model.bin", "model.safetensors", "cache"])
def test_no_file_can_run_code(tmp_path, monkeypatch, capsys, data, fair_esm_model, save, place):
    proof, path = tmp_path / "proof", tmp_path / place
    pickle.loads(pickle.dumps(Evil(proof)))
    proof.rmdir()  # it would have worked
    weights = str(path)
    if place == "cache":
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        path, weights = tmp_path / "checkpoints" / f"{MODEL}.pt", "pretrained"
        path.parent.mkdir()
    (tmp_path / "config.json").write_text(str(transformers_config(fair_esm_model)).replace("'", '"'))
    data["model"][FIRST] = Evil(proof)
    save(data, path)
    with pytest.raises(CheckpointError, match=str(path)):
        load_esm2_model(MODEL, "cpu", weights=weights)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nMK\n")
    command = ["embed", str(fasta), "-o", str(tmp_path / "o.h5"), "--model", MODEL, "--weights", weights]
    assert main([*command, "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert str(path) in said and "weights_only" not in said and "Traceback" not in said
    assert not proof.exists()


@pytest.fixture
def server(monkeypatch):
    """Sends what `server.content` is, and says that it is `server.missing` bytes more; counts requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.content) + self.server.missing))
            self.end_headers()
            self.wfile.write(self.server.content)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.missing, server.requests = b"", 0, 0
        monkeypatch.setattr(module, "URL", f"http://127.0.0.1:{server.server_port}/{{}}.pt")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """fair-esm's cache, which is not there yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


def test_a_download_is_stored_where_fair_esm_looks_and_is_read_from_there(server, cache, checkpoint):
    server.content = checkpoint.read_bytes()
    first, second = (read_checkpoint(MODEL, "pretrained") for _ in range(2))
    assert [each.name for each in cache.iterdir()] == [f"{MODEL}.pt"]
    assert (cache / f"{MODEL}.pt").read_bytes() == server.content
    assert server.requests == 1 and first.constants == second.constants


@pytest.mark.parametrize("missing", [0, 1000])
@pytest.mark.parametrize("kept", [0, 100_000, -1])
def test_a_download_that_breaks_off_leaves_nothing(server, cache, checkpoint, kept, missing):
    server.content, server.missing = checkpoint.read_bytes()[:kept], missing
    with pytest.raises(CheckpointError, match=rf"cannot read the checkpoint .*{MODEL}\.pt"):
        read_checkpoint(MODEL, "pretrained")
    assert list(cache.iterdir()) == []


def test_a_download_of_something_else_leaves_nothing(server, cache, tmp_path):
    for server.content in (b"<html>log in", pickle.dumps(Evil(tmp_path / "proof"))):
        with pytest.raises(CheckpointError, match="download failed"):
            read_checkpoint(MODEL, "pretrained")
        assert list(cache.iterdir()) == []
    assert not (tmp_path / "proof").exists()


def test_a_cache_below_a_file_is_told(server, cache):
    cache.parent.parent.write_text("a file")
    with pytest.raises(CheckpointError, match="NotADirectoryError"):
        read_checkpoint(MODEL, "pretrained")
    assert server.requests == 0


@pytest.fixture
def powerless(tmp_path):
    """Without root's right to read everything, in a folder that others reach."""
    above = [each for each in (tmp_path, *tmp_path.parents) if each.is_relative_to("/tmp")]
    modes = {each: stat.S_IMODE(each.stat().st_mode) for each in above}
    for each in above:
        each.chmod(modes[each] | 0o555)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
        for each in above:
            each.chmod(modes[each])


@pytest.fixture
def forbidden(tmp_path):
    """A folder with files that nobody may read."""
    folder = tmp_path / "forbidden"
    folder.mkdir()
    for name in ("weights.pt", "model.safetensors", "config.json"):
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("name", ["weights.pt", "model.safetensors", "config.json", ""])
def test_a_file_that_may_not_be_read_is_told(forbidden, powerless, name):
    assert "Permission denied" in refused(forbidden / name)


def test_a_folder_that_may_not_be_read_is_told(forbidden, request):
    forbidden.chmod(0)
    request.getfixturevalue("powerless")
    for name in ("", "weights.pt", "model.safetensors"):
        assert "Permission denied" in refused(forbidden / name)


def test_a_cache_that_may_not_be_read_is_told(forbidden, monkeypatch, request):
    forbidden.chmod(0)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(forbidden))
    request.getfixturevalue("powerless")
    with pytest.raises(CheckpointError, match=r"forbidden/checkpoints.*Permission denied"):
        read_checkpoint(MODEL, "pretrained")


def test_a_folder_that_lacks_a_model_is_told_what(tmp_path):
    assert f"has neither {MODEL}.pt nor config.json" in refused(tmp_path)
    (tmp_path / MODEL).mkdir()
    assert "it is a folder, and there is no config.json in it" in refused_of(tmp_path, tmp_path / MODEL)


def refused_of(weights, path):
    """What is said of `path` where `weights` was asked for."""
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(MODEL, weights)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_a_folder_of_checkpoints_has_the_models(tmp_path, checkpoint):
    shutil.copy(checkpoint, tmp_path)
    assert read_checkpoint(MODEL, tmp_path).constants == read_checkpoint(MODEL, checkpoint).constants
    (tmp_path / "config.json").write_text("{}")
    assert f"has {MODEL}.pt and config.json: name the one you mean" in refused(tmp_path)


@pytest.mark.parametrize("name", ["weights.pt", "model.safetensors", "config.json"])
def test_a_link_to_nothing_is_told(tmp_path, name):
    (tmp_path / name).symlink_to(tmp_path / "gone")
    assert "no checkpoint at" in refused(tmp_path / name)


def test_a_folder_where_the_cache_should_have_a_file_is_told(cache):
    (cache / f"{MODEL}.pt").mkdir(parents=True)
    assert "it is a folder, and there is no config.json in it" in refused_of("pretrained", cache / f"{MODEL}.pt")


PIPES = """
import os, sys
from pathlib import Path
from virnucpro.models.checkpoint import CheckpointError, read_checkpoint

for name in sys.argv[1:]:
    try:
        read_checkpoint("esm2_t6_8M_UR50D", name)
    except CheckpointError as error:
        assert "regular file" in str(error) or "there is no config.json" in str(error), error
        print(name)
"""


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    """In a process of its own, which can be ended if it waits."""
    names = []
    for name in (
        "weights.pt",
        "model.safetensors",
        "pytorch_model.bin",
        "config.json",
        "model.safetensors.index.json",
    ):
        (folder := tmp_path / name.replace(".", "_")).mkdir()
        if name != "config.json":
            (folder / "config.json").write_text(GOOD)
        os.mkfifo(folder / name)
        names.append(str(folder / name))
    names.append("/dev/null")
    ran = subprocess.run(
        [sys.executable, "-c", PIPES, *names],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.stdout.splitlines() == names, ran.stderr


GOOD = """{"model_type": "esm", "vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "num_hidden_layers": 6,
"hidden_size": 320, "num_attention_heads": 20, "intermediate_size": 1280, "position_embedding_type": "rotary"}"""


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("os.makedirs", refuse)
    with pytest.raises(CheckpointError, match=r"PermissionError: .*Permission denied"):
        read_checkpoint(MODEL, "pretrained")
