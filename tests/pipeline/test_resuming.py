"""What a run continues: an unfinished one, or a complete file whose input has grown."""

import errno
import itertools
import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import MODEL, StopAfter, sample_of
from tests.limits import PATIENCE
from tests.store.faulty_disk import FaultyDisk, fault_points
from tests.store.rows import as_another_run_has_it
from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.data.tokens import ALPHABET
from virnucpro.errors import ArgumentError
from virnucpro.models import apart
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline import embed as module
from virnucpro.pipeline import prefetch, provenance
from virnucpro.pipeline.async_inference import AsyncInferenceRunner, NonFiniteEmbeddingError
from virnucpro.pipeline.embed import Stopped, embed_file
from virnucpro.pipeline.input import Numbered
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.prefetch import BackgroundWriter
from virnucpro.pipeline.provenance import checksum
from virnucpro.pipeline.resuming import earlier_settings, recorded_channels
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError, WriteError
from virnucpro.store.journal import value_of
from virnucpro.store.place import folder_of
from virnucpro.store.run import Run
from virnucpro.store.segments import JOURNAL, NAMES, ROWS, packs_in, read_index
from virnucpro.store.settings import differences, shown

pytestmark = pytest.mark.usefixtures("one_thread")

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
PROTEINS = [(f"p{number}", LETTERS[: 3 + 5 * number % 17]) for number in range(12)]
SMALL = Options(token_budget=30)


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)[0]


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


def run(records, output, model, options=SMALL, **keywords):
    path = output.with_suffix(".fasta")
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in records))
    with Fasta(path) as fasta:
        return embed_file(fasta, output, model, options, **keywords)


def content(path):
    """All datasets' bytes, and the attributes but the command."""
    with h5py.File(path) as file:
        attributes = {name: value for name, value in file.attrs.items() if name != "command"}
        return {name: (file[name].shape, np.asarray(file[name][()]).tolist()) for name in file}, attributes


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, len(PROTEINS)),
    budget=st.integers(5, 120),
    pool=st.sampled_from(["mean", "residue"]),
    more=st.integers(0, 2),
)
def test_a_complete_file_whose_input_grew_ends_as_one_run_over_all(
    model, tmp_path_factory, before, budget, pool, more
):
    folder, options = tmp_path_factory.mktemp("grown"), Options(pool, token_budget=budget)
    run(PROTEINS, folder / "whole.h5", model, options)
    run(PROTEINS[:before], folder / "out.h5", model, options) if before else None
    for end in range(before + 1, min(before + 1 + more, len(PROTEINS))):
        run(PROTEINS[:end], folder / "out.h5", model, options, resume=True)
    summary = run(PROTEINS, folder / "out.h5", model, options, resume=True)
    assert summary["sequences"] == len(PROTEINS)
    assert content(folder / "out.h5") == content(folder / "whole.h5")
    assert not folder_of(folder / "out.h5").exists()


def test_only_the_last_pack_is_computed_again(output, model):
    run(PROTEINS[:-1], output, model)
    summary = run(PROTEINS, output, model, resume=True)
    tokens = [len(protein) + 2 for _, protein in PROTEINS]
    assert 0 < len(PROTEINS) - summary["resumed_sequences"] < len(PROTEINS) - 1
    assert sum(tokens[summary["resumed_sequences"] :]) < 2 * 30


@pytest.mark.parametrize("questions", range(3, 13, 3))
def test_a_run_that_continues_a_complete_file_can_be_stopped_too(output, tmp_path, model, questions):
    run(PROTEINS, tmp_path / "whole.h5", model)
    run(PROTEINS[:5], output, model)
    before = content(output)
    with pytest.raises(Stopped):
        run(PROTEINS, output, model, resume=True, stop=StopAfter(questions))
    assert content(output) == before
    run(PROTEINS, output, model, resume=True)
    assert content(output) == content(tmp_path / "whole.h5")


def test_an_input_that_grew_in_front_or_inside_is_refused(output, model):
    run(PROTEINS, output, model)
    before = content(output)
    for records in ([("new", "MK"), *PROTEINS], [*PROTEINS[:5], ("new", "MK"), *PROTEINS[5:]], PROTEINS[:-1]):
        with pytest.raises(FastaError, match="does not begin with the 12 sequences") as refused:
            run(records, output, model, resume=True)
        assert not refused.value.resume_helps
    assert content(output) == before and not folder_of(output).exists()


def test_records_that_are_skipped_do_not_confuse_what_is_new(output, tmp_path, model):
    records = [("empty", ""), *PROTEINS[:3], ("odd", "MJ"), *PROTEINS[3:], ("none", "")]
    run(records, tmp_path / "whole.h5", model)
    for end in (1, 5, len(records)):
        run(records[:end], output, model, resume=True)
    assert content(output) == content(tmp_path / "whole.h5")


def test_the_same_weights_at_another_path_are_the_same(output, model):
    with pytest.raises(Stopped):
        run(PROTEINS, output, model, about={"model": MODEL, "weights": "here.pt"}, stop=StopAfter(4))
    summary = run(PROTEINS, output, model, about={"model": MODEL, "weights": "there.pt"}, resume=True)
    assert summary["resumed_sequences"]
    with Embeddings(output) as file:
        assert file.settings["weights"] == "there.pt"
    run(PROTEINS, output, model, about={"model": MODEL, "weights": "elsewhere.pt"}, resume=True)


def test_rows_of_another_version_of_the_engine_are_not_continued(output, model, monkeypatch):
    with pytest.raises(Stopped):
        run(PROTEINS, output, model, stop=StopAfter(4))
    monkeypatch.setattr(provenance, "ENGINE", "another")
    with pytest.raises(StoreError, match=r"engine '.*' and not 'another'") as refused:
        run(PROTEINS, output, model, resume=True)
    assert not refused.value.resume_helps
    monkeypatch.undo()
    monkeypatch.setattr(provenance, "version_of", lambda name: "9.9" if name == "virnucpro" else torch.__version__)
    with pytest.raises(StoreError, match="fair-esm") as refused:  # libraries decide, virnucpro's number does not
        run(PROTEINS, output, model, resume=True)
    assert "virnucpro '" not in str(refused.value)


def in_int8(weights, **keywords):
    return load_esm2_model(MODEL, "cpu", precision="int8", weights=weights, **keywords)[0]


ABOUT = {"model": MODEL}


@pytest.mark.exhaustive
def test_an_int8_run_goes_on_with_the_channels_that_it_was_begun_with(output, massive_checkpoint, monkeypatch):
    chosen = in_int8(massive_checkpoint)
    assert 77 in chosen.channels_apart()["layers.3.fc1"]
    run(PROTEINS, output.with_name("whole.h5"), chosen, about=ABOUT)
    with pytest.raises(Stopped):
        run(PROTEINS[:-1], output, chosen, about=ABOUT, stop=StopAfter(4))
    monkeypatch.setattr(apart, "LARGEST", 1e9)
    monkeypatch.setattr(apart, "ROOT_MEAN_SQUARE", 1e9)
    other = in_int8(massive_checkpoint)
    assert other.channels_apart() == {}
    for records in (PROTEINS[:-1], PROTEINS):  # of an unfinished run, and of a complete file
        with pytest.raises(StoreError, match=r"channels_apart '\{\.*\"layers\.0.* and not '\{\}'"):
            run(records, output, other, about=ABOUT, resume=True)
        recorded = recorded_channels(earlier_settings(output), output, MODEL, "int8")
        assert recorded == chosen.channels_apart()
        again = in_int8(massive_checkpoint, channels_apart=recorded)
        assert run(records, output, again, about=ABOUT, resume=True)["resumed_sequences"]
    assert content(output) == content(output.with_name("whole.h5"))
    with Embeddings(output) as file:
        assert file.settings["channels_apart"] == json.dumps(recorded, sort_keys=True)


def test_only_int8_has_channels_apart(output, model):
    run(PROTEINS[:2], output, model, about=ABOUT)
    settings = earlier_settings(output)
    assert settings["channels_apart"] == "{}"
    assert recorded_channels(settings, output, MODEL, "fp32") is None
    assert recorded_channels(settings, output, MODEL, "int8") is None  # of another precision, which is refused
    settings = {**settings, "precision": "int8"}
    assert recorded_channels(settings, output, MODEL, "int8") == {}
    assert recorded_channels(settings, output, "esm2_t12_35M_UR50D", "int8") is None
    del settings["channels_apart"]
    assert recorded_channels(settings, output, MODEL, "int8") is None
    assert recorded_channels({}, output, MODEL, "int8") is None


@pytest.mark.parametrize(
    "channels, said",
    [
        ({"layers.6.fc1": [1]}, f"{MODEL} has no GEMM 'layers.6.fc1'"),
        ({"layers.0": [1]}, "no GEMM 'layers.0'"),
        ({"layers.0.fc1": [320]}, r"layers.0.fc1 can have at most 8 different ones of 0 to 319, and not \[320\]"),
        ({"layers.0.fc2": [1280]}, "0 to 1279"),
        ({"layers.0.fc1": [-1]}, "and not"),
        ({"layers.0.fc1": [1, 1]}, "and not"),
        ({"layers.0.fc1": [*range(9)]}, "and not"),
        ({"layers.0.fc1": [True]}, "and not"),
        ({"layers.0.fc1": [1.0]}, "and not"),
        ({"layers.0.fc1": [[1]]}, "and not"),
        ({"layers.0.fc1": "1"}, "and not"),
        ({"layers.0.fc1": 1}, "and not"),
        ({"layers.0.fc1": None}, "and not"),
        ([["layers.0.fc1", [1]]], "no mapping"),
        ("layers.0.fc1", "no mapping"),
    ],
    ids=str,
)
def test_channels_that_the_model_does_not_have_are_refused(output, channels, said):
    with pytest.raises(ArgumentError, match=said):
        in_int8("random", channels_apart=channels)
    begun = {"model": MODEL, "precision": "int8", "channels_apart": json.dumps(channels)}
    with pytest.raises(StoreError, match=rf"out\.h5 has no channels_apart to go on with .*{said}.* --force"):
        recorded_channels(begun, output, MODEL, "int8")


DAMAGED = ["", "{", "[" * 100_000, "9" * 5_000, b"\xff", 5, None, h5py.Empty("f8"), np.arange(3), np.float64(2)]


@pytest.mark.parametrize("recorded", DAMAGED, ids=lambda each: repr(each)[:9])
def test_a_record_of_channels_that_is_none_is_refused(output, model, recorded):
    begun = {"model": MODEL, "precision": "int8", "channels_apart": recorded}
    with pytest.raises(StoreError, match=r"out\.h5 has no channels_apart to go on with"):
        recorded_channels(begun, output, MODEL, "int8")
    if recorded is None:
        return
    run(PROTEINS[:2], output, model)
    as_another_run_has_it(output, channels_apart=recorded if len(repr(recorded)) < 9_999 else "long")
    with pytest.raises(StoreError, match=r"was made with channels_apart .* and not '\{\}'"):
        run(PROTEINS[:2], output, model, resume=True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 400) | st.floats() | st.sampled_from(["layers.5.fc2", "fc1"]),
        lambda each: st.lists(each, max_size=9) | st.dictionaries(st.sampled_from(["layers.0.fc1", "x"]), each),
    )
)
def test_whatever_is_recorded_of_channels_can_be_loaded_or_is_refused(value):
    begun = {"model": MODEL, "precision": "int8", "channels_apart": json.dumps(value)}
    try:
        found = recorded_channels(begun, "out.h5", MODEL, "int8")
    except StoreError:
        return
    assert found == value and all(0 <= at < 320 for each in found.values() for at in each)


def test_long_settings_are_told_where_they_differ():
    one = {f"layers.{layer}.fc1": [1, 2, 3] for layer in range(48)}
    texts = shown(json.dumps(one), json.dumps(one | {"layers.30.fc1": [1, 7, 3]}))
    assert all(len(text) <= 106 and '"layers.30.fc1": [1, ' in text for text in texts)
    assert "[1, 2, 3]" in texts[0] and "[1, 7, 3]" in texts[1]
    assert shown("a", 5) == ("'a'", "5")
    assert differences(
        {"a": 1, "b": np.arange(2), "c": "x"}, {"a": np.int64(1), "b": np.arange(2), "c": None}
    ) == [
        "b",
        "c",
    ]


TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int64]


def holder(**values):
    module = torch.nn.Module()
    for name, value in values.items():
        module.register_buffer(name, value)
    return module


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000, 2**20 + 3])
def test_the_checksum_tells_where_each_value_is(dtype, count):
    values = (torch.arange(count) % 61).to(dtype)
    before = checksum(holder(a=values))
    assert checksum(holder(a=values.clone())) == before
    assert checksum(holder(b=values)) != before
    assert checksum(holder(a=values[None])) != before
    if count > 1:
        swapped = values.clone()
        swapped[0], swapped[count // 2] = values[count // 2].clone(), values[0].clone()
        assert checksum(holder(a=swapped)) != before
        assert checksum(holder(a=values.float().flip(0).to(dtype))) != before
        assert checksum(holder(a=values[:-1])) != before


def test_the_checksum_tells_parameters_and_types_apart():
    one, two = torch.arange(64.0), torch.arange(64.0).flip(0)
    sums = [checksum(holder(a=a, b=b)) for a, b in ((one, two), (two, one), (one, one), (two, two))]
    assert len(set(sums)) == 4
    zeros = {dtype: checksum(holder(a=torch.zeros(64, dtype=dtype))) for dtype in TYPES}
    assert len(set(zeros.values())) == len(TYPES)


def test_the_checksum_is_the_same_however_the_values_lie_in_memory():
    values = torch.randn(40, 33)
    for other in (values.T.contiguous().T, torch.cat((torch.zeros(1), values.flatten()))[1:].view(40, 33)):
        assert checksum(holder(a=other)) == checksum(holder(a=values))


def test_permuted_weights_are_told_apart(model, checkpoint):
    other, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    assert checksum(other) == checksum(model)
    for name, parameter in other.named_parameters():
        if parameter.ndim == 2 and "layers.0" in name:
            parameter.data = parameter.data.flip(0)
            assert checksum(other) != checksum(model), name
            parameter.data = parameter.data.flip(0)
    layers = other.layers
    layers[1].fc1.weight, layers[2].fc1.weight = layers[2].fc1.weight, layers[1].fc1.weight
    assert checksum(other) != checksum(model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and there is none")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_checksum_is_the_same_on_a_gpu(dtype):
    values = torch.randint(0, 100, (5_000_003,)).to(dtype)
    assert checksum(holder(a=values)) == checksum(holder(a=values.cuda()))


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"not FASTA"])
def test_an_unusable_input_leaves_nothing(output, model, content):
    path = output.with_suffix(".fasta")
    path.write_bytes(content)
    with pytest.raises(FastaError), Fasta(path) as fasta:
        embed_file(fasta, output, model, SMALL)
    assert [each.name for each in output.parent.iterdir()] == [path.name]
    run(PROTEINS, output, model)


def test_stopping_before_anything_is_computed_leaves_nothing(output, model):
    with pytest.raises(Stopped):
        run(PROTEINS, output, model, stop=lambda: True)
    assert not folder_of(output).exists() and not output.exists()


@pytest.mark.parametrize("what", ["input", "link", "hard link", "among the rows"])
def test_the_input_is_never_the_output(output, model, what):
    path = output.with_suffix(".fasta")
    path.write_text(">a\nMK\n")
    match what:
        case "input":
            output = path
        case "link":
            output.symlink_to(path)
        case "hard link":
            output.hardlink_to(path)
        case "among the rows":
            folder_of(output).mkdir()
            path = path.rename(folder_of(output) / "names")
    with Fasta(path) as fasta, pytest.raises(StoreError, match="is the input"):
        embed_file(fasta, output, model, SMALL, force=True)
    assert path.read_text() == ">a\nMK\n"


class NotFinite:
    """A model whose representations of the proteins with a given letter are NaN."""

    def __init__(self, model, letter):
        self._model, self._token = model, ALPHABET.get_idx(letter)
        self.num_layers, self.embed_dim, self.parameters = model.num_layers, model.embed_dim, model.parameters

    def forward_packed(self, input_ids, cu_seqlens, max_seqlen, repr_layers):
        found = self._model.forward_packed(input_ids, cu_seqlens, max_seqlen, repr_layers)
        for start, end in itertools.pairwise(cu_seqlens):
            if (input_ids[start:end] == self._token).any():
                for values in found["representations"].values():
                    values[start:end] = torch.nan
        return found


@pytest.fixture
def nan_for_w(model, monkeypatch):
    """Embeddings of proteins with a W are NaN."""

    def runner_for(_, options):
        on_nan = "error" if options.strict else options.on_nan
        return AsyncInferenceRunner(NotFinite(model, "W"), pool=options.pool, on_nan=on_nan)

    monkeypatch.setattr(module, "runner_for", runner_for)


MIXED = [(name, protein + "W" * (number in (0, 4, 5, 9))) for number, (name, protein) in enumerate(PROTEINS)]
GOOD = [(name, protein) for name, protein in MIXED if "W" not in protein]


@pytest.mark.parametrize("pool", ["mean", "bos", "residue"])
def test_sequences_whose_embeddings_are_not_finite_are_left_out_and_named(output, model, nan_for_w, pool):
    options = Options(pool, token_budget=30, on_nan="skip")
    summary = run(MIXED, output, model, options)
    assert summary["sequences"] == len(GOOD)
    left_out = [name for name, protein in MIXED if "W" in protein]
    assert summary["not_finite"] == {"count": len(left_out), "names": left_out}
    with Embeddings(output) as file:
        assert file.names == [name for name, _ in GOOD]
        assert file.lengths.tolist() == [len(protein) for _, protein in GOOD]
        assert np.isfinite(file.embeddings[()]).all()
    with h5py.File(output) as file:
        assert [MIXED[place][0] for place in file["skipped"]] == left_out


@pytest.mark.parametrize("options", [SMALL, Options(token_budget=30, on_nan="skip", strict=True)])
def test_embeddings_that_are_not_finite_are_an_error_otherwise(output, model, nan_for_w, options):
    with pytest.raises(NonFiniteEmbeddingError, match=r"'p0'.* --on-nan skip leaves them out") as told:
        run(MIXED, output, model, options)
    assert not told.value.resume_helps


@pytest.mark.parametrize("questions", sample_of(range(2, 10, 2), 4))
def test_sequences_left_out_are_counted_when_a_run_is_resumed(output, tmp_path, model, nan_for_w, questions):
    options = Options(token_budget=30, on_nan="skip")
    run(MIXED, tmp_path / "whole.h5", model, options)
    with pytest.raises(Stopped):
        run(MIXED, output, model, options, stop=StopAfter(questions))
    summary = run(MIXED, output, model, options, resume=True)
    assert summary["not_finite"]["count"] == len(MIXED) - len(GOOD)
    assert content(output) == content(tmp_path / "whole.h5")


@pytest.mark.parametrize("before", sample_of([1, 5, 6, 10], 6))
def test_sequences_left_out_are_counted_when_a_complete_file_is_continued(
    output, tmp_path, model, nan_for_w, before
):
    options = Options(token_budget=30, on_nan="skip")
    run(MIXED, tmp_path / "whole.h5", model, options)
    run(MIXED[:before], output, model, options)
    run(MIXED, output, model, options, resume=True)
    assert content(output) == content(tmp_path / "whole.h5")


def test_an_error_at_nan_can_be_continued_by_skipping(output, tmp_path, model, nan_for_w):
    run(MIXED[1:], tmp_path / "whole.h5", model, Options(token_budget=30, on_nan="skip"))
    with pytest.raises(NonFiniteEmbeddingError):
        run(MIXED[1:], output, model)
    assert run(MIXED[1:], output, model, Options(token_budget=30, on_nan="skip"), resume=True)["resumed_sequences"]
    assert content(output) == content(tmp_path / "whole.h5")


class Failing:
    """A writer whose appends fail from the given one on."""

    def __init__(self, failing, errors):
        self.left, self.errors = failing, errors
        self.appended, self.commits = [], 0

    def encode(self, number, names, lengths, rows, digest, skipped):
        return SimpleNamespace(names=names, values=rows)

    def write(self, pack):
        self.left -= 1
        if self.left < 0:
            raise self.errors.pop(0)
        self.appended += pack.names

    def take(self):
        return self.appended

    def commit(self, packs):
        self.commits += 1

    def close(self):
        """Nothing is open."""


class Result:
    sequence_ids, residues, skipped, embeddings = ["a"], [1], {}, torch.zeros(1, 4)


def test_the_first_of_several_failures_is_told_and_nothing_written_after_it():
    failing = Failing(2, [StoreError("the disk"), StoreError("later")])
    with pytest.raises(StoreError, match="the disk"), BackgroundWriter(failing, lambda packs: None) as write:
        for number in range(10):
            write(Result, Numbered(None, number, number, "digest"))
    assert failing.appended == ["a", "a"] and failing.commits


def test_what_failed_before_a_write_did_is_told_first(caplog):
    with (
        pytest.raises(ValueError, match="the input"),
        BackgroundWriter(Failing(0, [StoreError("the disk")]), lambda packs: None) as write,
    ):
        write(Result, Numbered(None, 0, 0, "digest"))
        raise ValueError("the input")
    assert "the disk" in caplog.text


class Waiting(Failing):
    """A writer whose first commit is not done before another pack is written."""

    def __init__(self):
        super().__init__(100, [])
        self.more = threading.Event()

    def write(self, pack):
        super().write(pack)
        if self.commits:
            self.more.set()

    def commit(self, packs):
        super().commit(packs)
        assert self.more.wait(PATIENCE)


def test_packs_are_written_while_others_are_put_on_disk(monkeypatch):
    monkeypatch.setattr(prefetch, "COMMIT_SECONDS", 0.0)
    writer = Waiting()
    with BackgroundWriter(writer, lambda packs: None) as write:
        for number in range(3):
            write(Result, Numbered(None, number, number, "digest"))
    assert len(writer.appended) == 3 and writer.more.is_set()


class FailingCommit(Failing):
    """A writer that cannot put anything on disk."""

    def commit(self, packs):
        super().commit(packs)
        raise StoreError("the sync")


def test_after_a_commit_that_failed_nothing_is_written(monkeypatch):
    monkeypatch.setattr(prefetch, "COMMIT_SECONDS", 0.0)
    writer, told = FailingCommit(100, []), []
    background = BackgroundWriter(writer, lambda packs: None, told.append)
    with pytest.raises(StoreError, match="the sync"), background as write:
        for number in range(10):
            write(Result, Numbered(None, number, number, "digest"))
    assert len(writer.appended) <= 2 and [str(each) for each in told] == ["the sync"]


@pytest.mark.parametrize("bytes_of_rows, commits", [(15, 5), (16, 5), (17, 3), (1_000, 1)])
def test_many_rows_are_committed_before_the_time_is_up(monkeypatch, bytes_of_rows, commits):
    monkeypatch.setattr(prefetch, "COMMIT_BYTES", bytes_of_rows)
    monkeypatch.setattr(prefetch, "COMMIT_SECONDS", 1e9)
    writer = Failing(100, [])
    with BackgroundWriter(writer, lambda packs: None) as write:
        for number in range(4):  # of 16 bytes
            write(Result, Numbered(None, number, number, "digest"))
    assert writer.commits == commits


def test_the_journal_names_only_what_was_synced_while_more_is_written(output, model, monkeypatch):
    synced, named = Counter(), 0
    real_write, real_sync = os.write, os.fsync

    def path_of(descriptor):
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    def fsync(descriptor):
        size = os.fstat(descriptor).st_size
        time.sleep(0.005)  # in which more is written
        real_sync(descriptor)
        synced[path_of(descriptor)] = size

    def write(descriptor, data):
        nonlocal named
        if (path := path_of(descriptor)).name == JOURNAL:
            for pack in packs_in(value_of(bytes(data).strip()), path.parent):
                assert pack.rows_at + pack.rows_size <= synced[path.with_name(ROWS)]
                assert pack.names_at + pack.names_size <= synced[path.with_name(NAMES)]
                named += 1
        return real_write(descriptor, data)

    monkeypatch.setattr(prefetch, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "write", write)
    run(PROTEINS, output, model)
    assert named > 4


def test_what_follows_a_batch_that_is_too_wide_is_not_written(output, model, monkeypatch):
    class Huge:
        """Its third batch cannot be float16."""

        num_layers, embed_dim, parameters, batches = model.num_layers, model.embed_dim, model.parameters, 0

        def forward_packed(self, *arguments, **keywords):
            found = model.forward_packed(*arguments, **keywords)
            self.batches += 1
            if self.batches == 3:
                found["representations"][6].fill_(1e6)
            return found

    options = Options(token_budget=30, dtype="float16")
    run(PROTEINS, output.with_name("whole.h5"), model, options)
    with monkeypatch.context() as patch, pytest.raises(ArithmeticError, match="--dtype float32") as told:
        patch.setattr(module, "runner_for", lambda *_: AsyncInferenceRunner(Huge(), dtype="float16"))
        run(PROTEINS, output, model, options)
    assert not told.value.resume_helps
    with Run(output, resume=True) as begun:
        assert set(read_index(begun.segments)) == {0, 1}
    run(PROTEINS, output, model, options, resume=True)
    assert content(output) == content(output.with_name("whole.h5"))


def test_the_memory_told_is_that_of_the_models_device(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 5)
    reader = type("Reader", (), {"summary": lambda self: {"embedded_records": 0}})()
    assert module.summary_of(module.Progressed(), {}, reader, torch.device("cuda:1"))["peak_gpu_bytes"] == 5
    assert asked == [torch.device("cuda:1")]
    assert module.summary_of(module.Progressed(), {}, reader, torch.device("cpu"))["peak_gpu_bytes"] is None


@pytest.mark.parametrize("error", sample_of([errno.EIO, errno.ENOSPC], errno.EIO))
@pytest.mark.parametrize(
    "grown",
    [
        pytest.param(False, id="a new run"),
        pytest.param(True, id="a complete file that is continued", marks=pytest.mark.exhaustive),
    ],
)
def test_wherever_the_disk_fails_a_run_ends_complete_or_can_be_continued(
    tmp_path, model, monkeypatch, error, grown
):
    monkeypatch.setattr(prefetch, "COMMIT_SECONDS", 0.0)
    records, options = PROTEINS[:6], Options(token_budget=30)

    def start(output):
        if grown:
            run(records[:3], output, model, options)
        return output

    whole = start(tmp_path / "whole.h5")
    points = fault_points(tmp_path, lambda: run(records, whole, model, options, resume=True))
    assert points > 30
    before = content(start(tmp_path / "before.h5")) if grown else None
    for failing in range(points, 0, -3 if error == errno.EIO else -7):
        output = start(tmp_path / "out.h5")
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, tmp_path, failing, error)
            try:
                run(records, output, model, options, resume=True)
            except WriteError as told:
                assert os.strerror(error) in str(told)
        assert not output.exists() or content(output) in (before, content(whole))
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(patch, tmp_path)
            run(records, output, model, options, resume=True)
        assert content(output) == content(whole)
        output.unlink()
