"""An input that changes while it is read: an error that keeps what was embedded, or the rows of what it is now."""

import gzip
import os
import random
import shutil
import threading

import h5py
import pytest

from tests.store.test_proofs import model, quick  # noqa: F401 - fixtures: nothing is computed
from virnucpro.data.fasta import Fasta
from virnucpro.errors import FastaError
from virnucpro.pipeline import embed as embed_module
from virnucpro.pipeline.embed import Stopped, embed_file
from virnucpro.pipeline.input import InputChangedError
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.shards import Shard
from virnucpro.store.place import folder_of

RNG = random.Random("input that changes")
RECORDS = [f">p{number}\n{''.join(RNG.choices('ACDEFGHIKLMNPQRSTVWY', k=1_500))}\n" for number in range(300)]
OPTIONS = Options(token_budget=4_096, on_nan="skip")
KINDS = [
    pytest.param("plain", None, id="plain"),
    pytest.param("gzip", None, id="gzip", marks=pytest.mark.exhaustive),
    pytest.param("several", None, id="several"),
    pytest.param("plain", Shard(2, 3), id="shard", marks=pytest.mark.exhaustive),
]


@pytest.fixture
def inputs(tmp_path, request):
    """Files, larger than all that is read ahead; the second one of several is the one that is changed."""
    kind = request.param
    parts = [RECORDS] if kind != "several" else [RECORDS[:10], RECORDS[10:]]
    paths = [tmp_path / f"in{number}.fasta" for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        data = "".join(part).encode()
        path.write_bytes(gzip.compress(data, 1, mtime=0) if kind == "gzip" else data)
        assert len(part) == 10 or path.stat().st_size > 250_000
        shutil.copy2(path, f"{path}.original")
    return paths


def restore(paths):
    for path in paths:
        shutil.copy2(f"{path}.original", f"{path}.again")
        os.replace(f"{path}.again", path)  # noqa: PTH105


def run(paths, output, model, change=lambda path: None, after=None, **keywords):  # noqa: F811
    """Embed; when `after` sequences, by default one of the last file, are embedded, change the last file."""
    changes, after = [change], after or (1 if len(paths) == 1 else 11)

    def progress(done):
        if changes and done.sequences >= after:
            changes.pop()(paths[-1])

    with Fasta(*paths) as fasta:
        return embed_file(fasta, output, model, OPTIONS, progress=progress, **keywords)


def content(path):
    with h5py.File(path) as file:
        attributes = {name: value for name, value in file.attrs.items() if name not in ("command", "checksums")}
        return {name: file[name][()].tobytes() for name in file if name != "ids"}, list(file["ids"]), attributes


def overwrite(path, at, letter=b"W"):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(letter)


def overwrite_and_set_the_time_back(path):
    about = path.stat()
    overwrite(path, 100)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def replace(path, content):
    path.with_suffix(".new").write_bytes(content)
    os.replace(path.with_suffix(".new"), path)  # noqa: PTH105


ERRORS = {
    "cut": (lambda path: os.truncate(path, path.stat().st_size - 1_000), "had .* bytes and has"),
    "cut before what was read": (lambda path: os.truncate(path, 10), "had .* bytes and has 10"),
    "emptied": (lambda path: os.truncate(path, 0), "had .* bytes and has 0"),
    "grown": (lambda path: path.open("ab").write(b">more\nMKT\n") and None, "had .* bytes and has"),
    "replaced": (lambda path: replace(path, b">p0\nMKT\n"), "was replaced by another file"),
    "replaced by the same": (lambda path: replace(path, path.read_bytes()), "was replaced by another file"),
    "removed": (lambda path: path.unlink(), "was removed"),
    "overwritten": (lambda path: overwrite(path, 100), "was changed while it was read|damaged"),
    "overwritten, and the time set back": (
        overwrite_and_set_the_time_back,
        "was changed while it was read|damaged",
    ),
}


@pytest.mark.parametrize("change", ERRORS)
@pytest.mark.parametrize(("inputs", "shard"), KINDS, indirect=["inputs"])
def test_a_file_that_changes_is_an_error_that_keeps_what_was_embedded(tmp_path, model, inputs, change, shard):  # noqa: F811
    how, message = ERRORS[change]
    run(inputs, tmp_path / "reference.h5", model, shard=shard)
    output = tmp_path / "out.h5"
    with pytest.raises(FastaError, match=message) as told:
        run(inputs, output, model, how, shard=shard)
    assert str(inputs[-1]) in str(told.value)
    assert not output.exists() and folder_of(output).exists()
    restore(inputs)
    summary = run(inputs, output, model, shard=shard, resume=True)
    assert summary["resumed_sequences"] > 0
    assert content(output) == content(tmp_path / "reference.h5")


PASSES = {
    "touched": lambda path: os.utime(path),
    "set to an old time": lambda path: os.utime(path, (1, 1)),
    "made read-only": lambda path: path.chmod(0o444),
    "given another name": lambda path: os.link(path, f"{path}.link"),
}


@pytest.mark.parametrize("change", PASSES)
@pytest.mark.parametrize(("inputs", "shard"), KINDS, indirect=["inputs"])
def test_a_file_that_is_only_touched_is_read_again_and_passes(tmp_path, model, inputs, change, shard):  # noqa: F811
    run(inputs, tmp_path / "reference.h5", model, shard=shard)
    run(inputs, tmp_path / "out.h5", model, PASSES[change], shard=shard)
    assert content(tmp_path / "out.h5") == content(tmp_path / "reference.h5")


@pytest.mark.parametrize("inputs", ["plain", "several"], indirect=True)
def test_a_file_that_is_overwritten_where_it_was_not_read_yet_is_the_new_one(tmp_path, model, inputs):  # noqa: F811
    run(inputs, tmp_path / "out.h5", model, lambda path: overwrite(path, path.stat().st_size - 10, b"WWW"))
    run(inputs, tmp_path / "reference.h5", model)
    assert content(tmp_path / "out.h5") == content(tmp_path / "reference.h5")


@pytest.mark.parametrize("inputs", ["plain"], indirect=True)
def test_a_file_beside_a_pipe_cannot_be_read_again_so_touching_it_is_an_error(tmp_path, model, inputs):  # noqa: F811
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(">p1\nMKT\n",))
    writer.start()
    with pytest.raises(InputChangedError, match="was changed while it was read"):
        run([pipe, *inputs], tmp_path / "out.h5", model, os.utime)
    writer.join()


@pytest.mark.parametrize("inputs", ["plain"], indirect=True)
def test_reading_a_touched_file_again_can_be_stopped(tmp_path, model, inputs):  # noqa: F811
    touched = []

    def touch(path):
        os.utime(path)
        touched.append(path)

    again = []

    class Again(Fasta):
        def __init__(self, *paths):
            super().__init__(*paths)
            again.append(paths)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(embed_module, "Fasta", Again)
        run(inputs, tmp_path / "out.h5", model, touch, stop=lambda: bool(again))
    assert len(again) == 1 and folder_of(tmp_path / "out.h5").exists()


@pytest.mark.parametrize("inputs", ["several"], indirect=True)
@pytest.mark.parametrize("change", ["cut", "grown", "replaced", "removed"])
def test_a_file_that_was_read_to_its_end_may_change(tmp_path, model, inputs, change):  # noqa: F811
    run(inputs, tmp_path / "reference.h5", model)
    run(inputs, tmp_path / "out.h5", model, lambda _: ERRORS[change][0](inputs[0]), after=30)
    assert content(tmp_path / "out.h5") == content(tmp_path / "reference.h5")
