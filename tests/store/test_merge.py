"""Shards and their merging: the whole run's bytes, and what is refused."""

import gzip
import os
import random
import re
import subprocess
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.conftest import MODEL, sample_of
from tests.store.rows import as_another_run_has_it
from virnucpro.cli import main, parser
from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline import embed as embed_module
from virnucpro.pipeline.async_inference import InferenceResult
from virnucpro.pipeline.embed import Stopped, embed_file
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.shards import Shard
from virnucpro.store import merge as module
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import BY_NAME, PER_PROTEIN, TABLE, format_of
from virnucpro.store.merge import merge
from virnucpro.store.place import folder_of

TOKENS = 40  # a pack holds one to three of the proteins


@pytest.fixture(scope="module")
def model():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")[0]
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    rng = random.Random("virnucpro shards")
    path = tmp_path_factory.mktemp("shards") / "in.fasta"
    proteins = ("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(3, 30))) for _ in range(100))
    path.write_text("".join(f">p{number}\n{protein}\n" for number, protein in enumerate(proteins)))
    return path


def run(path, output, model, pool="mean", **keywords):
    with Fasta(path) as fasta:
        return embed_file(fasta, output, model, Options(pool, token_budget=TOKENS), **keywords)


@pytest.fixture(scope="module", params=sample_of(["mean", "residue"], "mean"))
def whole(request, fasta, model):
    output = fasta.with_name(f"whole-{request.param}.h5")
    run(fasta, output, model, request.param)
    return request.param, output


def made(fasta, model, count, pool="mean"):
    """The parts of all shards."""
    folder = fasta.with_name(f"parts-{count}-{pool}")
    paths = [folder / f"{number}.h5" for number in range(1, count + 1)]
    if not folder.exists():
        folder.mkdir()
        for number, path in enumerate(paths, 1):
            run(fasta, path, model, pool, shard=Shard(number, count))
    return paths


def content(path):
    with h5py.File(path) as file:
        found = {name: dataset[()] for name, dataset in file.items()}
        return {name: (value.dtype, value.shape, value.tolist()) for name, value in found.items()}


@pytest.mark.parametrize("count", sample_of([1, 7, 20], 20))
def test_the_parts_together_equal_the_whole(fasta, model, whole, tmp_path, count):
    pool, reference = whole
    parts = made(fasta, model, count, pool)
    random.Random(count).shuffle(parts)
    merge(tmp_path / "out.h5", parts, TABLE)
    assert content(tmp_path / "out.h5") == content(reference)
    with Embeddings(tmp_path / "out.h5") as found, Embeddings(reference) as expected:
        differing = {name for name in expected.settings if found.settings.get(name) != expected.settings[name]}
        assert differing <= {"command"} and set(found.settings) == set(expected.settings)
    assert not folder_of(tmp_path / "out.h5").exists()


def test_parts_beyond_the_files_that_may_be_open_are_opened_again(fasta, model, whole, tmp_path, monkeypatch):
    pool, reference = whole
    monkeypatch.setattr(module, "files_allowed", lambda: 2)
    merge(tmp_path / "out.h5", made(fasta, model, 7, pool), TABLE)
    assert content(tmp_path / "out.h5") == content(reference)


def test_parts_differ_by_a_block_at_most(fasta, model):
    sizes = []
    for path in made(fasta, model, 7):
        with h5py.File(path) as file:
            sizes.append(len(file["blocks"]))
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) > 7


@pytest.mark.parametrize("name", [f"out.{each}" for each in BY_NAME if each != "h5"])
def test_parts_are_merged_into_any_format(fasta, model, whole, tmp_path, name):
    if name == "out.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    pool, reference = whole
    merge(tmp_path / name, made(fasta, model, 7, pool), format_of(tmp_path / name))
    with Embeddings(tmp_path / name) as found, Embeddings(reference) as expected:
        assert found.names == expected.names and found.lengths.tolist() == expected.lengths.tolist()
        assert (found.embeddings[()] == expected.embeddings[()]).all()


@pytest.mark.exhaustive
def test_a_shard_is_resumed_with_the_same_bytes(fasta, model, tmp_path):
    reference = made(fasta, model, 3)[1]
    asked = iter([False] * 4)
    with pytest.raises(Stopped):
        run(fasta, tmp_path / "part.h5", model, shard=Shard(2, 3), stop=lambda: next(asked, True))
    with pytest.raises(StoreError, match="shard '2/3' and not '1/3'"):
        run(fasta, tmp_path / "part.h5", model, shard=Shard(1, 3), resume=True)
    summary = run(fasta, tmp_path / "part.h5", model, shard=Shard(2, 3), resume=True)
    assert 0 < summary["resumed_sequences"] < summary["sequences"]
    assert content(tmp_path / "part.h5") == content(reference)
    again = run(fasta, tmp_path / "part.h5", model, shard=Shard(2, 3), resume=True)
    assert again["resumed_sequences"] == summary["sequences"]


def test_a_shard_of_another_input_is_not_continued(fasta, model, tmp_path):
    asked = iter([False] * 4)
    with pytest.raises(Stopped):
        run(fasta, tmp_path / "part.h5", model, shard=Shard(1, 3), stop=lambda: next(asked, True))
    other = tmp_path / "other.fasta"
    other.write_text(">p0\nMK\n" + fasta.read_text())
    with pytest.raises(FastaError, match="does not begin with"):
        run(other, tmp_path / "part.h5", model, shard=Shard(1, 3), resume=True)


def test_a_complete_part_is_not_the_whole(fasta, model, tmp_path):
    run(fasta, tmp_path / "part.h5", model, shard=Shard(1, 3))
    with pytest.raises(StoreError, match="shard '1/3' and not None"):
        run(fasta, tmp_path / "part.h5", model, resume=True)
    with pytest.raises(StoreError, match="shard '1/3' and not '1/2'"):
        run(fasta, tmp_path / "part.h5", model, shard=Shard(1, 2), resume=True)
    appended = tmp_path / "more.fasta"
    appended.write_text(fasta.read_text() + ">more\nMKT\n")
    with pytest.raises(FastaError, match="is complete, and the input is not the one that it is a share of"):
        run(appended, tmp_path / "part.h5", model, shard=Shard(1, 3), resume=True)


def refused(tmp_path, parts, **keywords):
    """What is said, and nothing is written."""
    with pytest.raises(StoreError) as error:
        merge(tmp_path / "out.h5", parts, TABLE, **keywords)
    assert not (tmp_path / "out.h5").exists() and not folder_of(tmp_path / "out.h5").exists()
    return str(error.value)


def test_missing_and_doubled_parts_are_named(fasta, model, tmp_path):
    parts = made(fasta, model, 7)
    assert "2 of 7 shards are missing: 2/7, 5/7" in refused(tmp_path, [*parts[:1], *parts[2:4], *parts[5:]])
    assert re.search(r"shard 3/7 comes 2 times: .*3\.h5, .*3\.h5", refused(tmp_path, [*parts, parts[2]]))
    said = refused(tmp_path, [*parts[:6], made(fasta, model, 3)[0]])
    assert "the parts are of 3 and 7 shards; of 3: " in said and "parts-3-mean/1.h5" in said


@pytest.mark.exhaustive
def test_foreign_parts_are_named(fasta, model, tmp_path):
    parts = made(fasta, model, 3)
    other = tmp_path / "other.fasta"
    other.write_text(fasta.read_text() + ">more\nMKT\n")
    run(other, tmp_path / "2.h5", model, shard=Shard(2, 3))
    assert re.search(
        r"/2.h5 is of another input than .*1.h5", refused(tmp_path, [parts[0], tmp_path / "2.h5", parts[2]])
    )
    run(fasta, tmp_path / "3.h5", model, "bos", shard=Shard(3, 3))
    said = refused(tmp_path, [*parts[:2], tmp_path / "3.h5"])
    assert "/3.h5 was made with pool 'bos' and not 'mean', unlike" in said
    assert "cannot read" in refused(tmp_path, [*parts[:2], fasta])
    run(fasta, tmp_path / "all.h5", model)
    assert "all.h5 is not a part that `virnucpro embed --shard` wrote" in refused(tmp_path, [tmp_path / "all.h5"])


def test_an_unfinished_part_is_named(fasta, model, tmp_path):
    asked = iter([False] * 4)
    with pytest.raises(Stopped):
        run(fasta, tmp_path / "1.h5", model, shard=Shard(1, 3), stop=lambda: next(asked, True))
    said = refused(tmp_path, [tmp_path / "1.h5", *made(fasta, model, 3)[1:]])
    assert re.search(r"/1.h5 is unfinished: run its command again with --resume", said)
    assert "there is no" in refused(tmp_path, [tmp_path / "4.h5"])


def test_parts_of_other_hardware_need_leave_which_is_recorded(fasta, model, tmp_path):
    parts = made(fasta, model, 3)
    other = tmp_path / "1.h5"
    other.write_bytes(parts[0].read_bytes())
    with h5py.File(other) as file:
        device = file.attrs["device"]
    as_another_run_has_it(other, device="another GPU")
    assert "merge with --allow-mixed" in refused(tmp_path, [other, *parts[1:]])
    merge(tmp_path / "out.h5", [other, *parts[1:]], TABLE, allow_mixed=True)
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.settings["device"] == " | ".join(sorted([device, "another GPU"]))


@pytest.mark.parametrize("allow_mixed", [False, True])
def test_parts_with_other_channels_apart_are_refused_whatever_is_allowed(fasta, model, tmp_path, allow_mixed):
    parts = made(fasta, model, 3)
    other = tmp_path / "1.h5"
    other.write_bytes(parts[0].read_bytes())
    as_another_run_has_it(other, device="another GPU", channels_apart='{"layers.0.fc1": [7]}')
    said = refused(tmp_path, [other, *parts[1:]], allow_mixed=allow_mixed)
    assert """channels_apart '{}' and not '{"layers.0.fc1": [7]}'""" in said
    assert said.endswith("embed that shard again with the same settings, on the same hardware")


def test_an_output_is_not_replaced_unless_it_may_be(fasta, model, tmp_path):
    parts = made(fasta, model, 3)
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(StoreError, match="exists: give another name"):
        merge(tmp_path / "out.h5", parts, TABLE)
    with pytest.raises(StoreError, match="is the input: name another file"):
        merge(parts[0], parts, TABLE, force=True)
    assert (tmp_path / "out.h5").read_text() == "mine"
    merge(tmp_path / "out.h5", parts, TABLE, force=True)
    with Embeddings(tmp_path / "out.h5") as file:
        assert len(file) == 100


def test_a_merge_that_is_stopped_or_cannot_name_datasets_leaves_nothing(fasta, model, tmp_path):
    assert merge(tmp_path / "out.h5", made(fasta, model, 3), TABLE, stop=lambda: True) is None
    named = tmp_path / "named.fasta"
    named.write_text(">a\nMK\n>a/b\nMKT\n")
    run(named, tmp_path / "part.h5", model, shard=Shard(1, 1))
    with pytest.raises(FastaError, match="'a/b'"):
        merge(tmp_path / "out.h5", [tmp_path / "part.h5"], PER_PROTEIN)
    assert not (tmp_path / "out.h5").exists() and not folder_of(tmp_path / "out.h5").exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_shard_that_makes_no_sense_is_refused(text):
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)


def test_many_parts_merge_in_order(tmp_path):
    count, blocks = 200, 3
    for number in range(count):
        begins = [(block * count + number) * 10 for block in range(blocks)]
        numbers = [begin + index for begin in begins for index in range(10)]
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file.attrs.update({"format": "virnucpro embeddings 1", "shard": f"{number + 1}/{count}"})
            file.attrs.update({"input_sequences": count * blocks * 10, "input_digest": "x"})
            file["ids"] = np.array([f"p{each}" for each in numbers], dtype=object)
            file["lengths"] = np.full(len(numbers), 7)
            file["embeddings"] = np.array(numbers, np.float32)[:, None]
            file["blocks"] = [[begin, 10] for begin in begins]
    merge(tmp_path / "out.h5", [tmp_path / f"{number}.h5" for number in range(count)], TABLE)
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.names == [f"p{number}" for number in range(count * blocks * 10)]
        assert (file.embeddings[:, 0] == np.arange(count * blocks * 10)).all()


def test_the_commands_shard_and_merge(fasta, tmp_path, capsys):
    words = ["--model", MODEL, "--weights", "random", "--device", "cpu", "--token-budget", str(TOKENS)]
    parts = [str(tmp_path / f"{number}.h5") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        assert main(["embed", str(fasta), "-o", part, *words, "--shard", f"{number}/2"]) == 0
    assert main(["merge", str(tmp_path / "out.h5"), *parts, "--json"]) == 0
    assert '"sequences": 100' in capsys.readouterr().out
    assert main(["merge", str(tmp_path / "one.h5"), parts[0]]) == 1
    assert "virnucpro: 1 of 2 shards are missing: 2/2" in capsys.readouterr().err
    assert main(["embed", str(fasta), "-o", str(tmp_path / "x.h5"), *words, "--shard", "3/2"]) == 1
    assert "shards are numbered from 1/2 on" in capsys.readouterr().err
    assert main(["embed", str(fasta), "-o", str(tmp_path / "x.npz"), *words, "--shard", "1/2"]) == 1
    assert "virnucpro merge makes other formats" in capsys.readouterr().err


@pytest.mark.exhaustive
def test_pipes_and_gzip_are_sharded_too(fasta, model, tmp_path):
    zipped, pipe = tmp_path / "in.fasta.gz", tmp_path / "pipe"
    zipped.write_bytes(gzip.compress(fasta.read_bytes()))
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(fasta.read_bytes()), daemon=True).start()
    for number, path in ((1, zipped), (2, pipe), (3, fasta)):
        run(path, tmp_path / f"{number}.h5", model, shard=Shard(number, 3))
        assert content(tmp_path / f"{number}.h5") == content(made(fasta, model, 3)[number - 1])


class Spoilt:
    """A runner that finds NaN in every seventh protein."""

    def __init__(self, runner):
        self._runner, self.device, self._seen = runner, runner.device, 0

    def run(self, packs):
        for result in self._runner.run(packs):
            at = [index for index, name in enumerate(result.sequence_ids) if int(name[1:]) % 7 == 0]
            kept = [index for index in range(len(result.sequence_ids)) if index not in at]
            yield InferenceResult(
                [result.sequence_ids[index] for index in kept],
                result.embeddings[kept],
                [result.residues[index] for index in kept],
                {index: result.sequence_ids[index] for index in at},
            )


@pytest.mark.exhaustive
def test_sequences_left_out_for_nan_keep_the_order(fasta, model, tmp_path, monkeypatch):
    real = embed_module.runner_for
    monkeypatch.setattr(embed_module, "runner_for", lambda *given: Spoilt(real(*given)))
    run(fasta, tmp_path / "whole.h5", model)
    parts = [tmp_path / f"{number}.h5" for number in (1, 2, 3)]
    asked = iter([False] * 4)
    with pytest.raises(Stopped):
        run(fasta, parts[0], model, shard=Shard(1, 3), stop=lambda: next(asked, True))
    for number, path in enumerate(parts, 1):
        run(fasta, path, model, shard=Shard(number, 3), resume=True)
    merge(tmp_path / "out.h5", parts, TABLE)
    found = content(tmp_path / "out.h5")
    assert found == content(tmp_path / "whole.h5")
    assert found["skipped"][2] == list(range(0, 100, 7)) and found["lengths"][1] == (85,)


def test_the_job_script_of_the_documentation_is_a_command(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()
    (script,) = (part.partition("```")[0] for part in page.split("```bash\n")[1:])
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    stub = "virnucpro() { printf '%s\\n' \"$@\"; }; mkdir() { :; }\n"
    said = subprocess.run(
        ["bash", "-c", stub + script.replace("exec virnucpro", "virnucpro")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    chosen = parser().parse_args(said.splitlines())
    assert (str(chosen.output), chosen.shard, chosen.resume) == ("parts/7.h5", "7/16", True)
