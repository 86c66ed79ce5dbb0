"""Long proteins in windows, and equal proteins once: the rows, and that runs continue and share work as ever."""

import itertools
import json
import random

import numpy as np
import pytest
import torch

import virnucpro
from tests.conftest import MODEL, StopAfter, sample_of
from tests.pipeline.test_async_inference import SmallMemory
from tests.pipeline.test_resuming import NotFinite
from virnucpro.cli import main
from virnucpro.data.fasta import Fasta
from virnucpro.data.tokens import ALPHABET, encode
from virnucpro.data.windows import Window
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline import embed as module
from virnucpro.pipeline import parts
from virnucpro.pipeline.async_inference import AsyncInferenceRunner, NonFiniteEmbeddingError
from virnucpro.pipeline.embed import Stopped, embed_file
from virnucpro.pipeline.estimate import estimate
from virnucpro.pipeline.input import NumberedPacks
from virnucpro.pipeline.options import DEDUPE_TOKENS, Options
from virnucpro.pipeline.parts import Whole, in_parts, packs_of
from virnucpro.pipeline.shards import Shard
from virnucpro.pipeline.worker import Plan, Worker, compact
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import TABLE, format_of
from virnucpro.store.merge import merge
from virnucpro.store.run import Run
from virnucpro.store.segments import read_index

pytestmark = pytest.mark.usefixtures("one_thread")

RANDOM = random.Random("proteins")
WINDOW = Window(50, 15)
LENGTHS = {"a": 30, "b": 180, "c": 50, "d": 51, "e": 9}
LONG = [(name, "".join(RANDOM.choices("ACDEFGHIKLMNPQRSTVWY", k=length))) for name, length in LENGTHS.items()]
REPEATED = [*LONG, *((f"{name}_{copy}", protein) for copy in "23" for name, protein in LONG[::-1])]
BOTH = {"long": WINDOW, "dedupe": True, "max_length": None}


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)[0]


@pytest.fixture
def small_packs(monkeypatch):
    """Equal proteins are looked for among so few that a run has several packs."""
    monkeypatch.setattr(parts, "DEDUPE_TOKENS", 400)


def run(records, output, model, options, **keywords):
    path = output.with_suffix(".fasta")
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in records))
    with Fasta(path) as fasta:
        return embed_file(fasta, output, model, options, **keywords)


def content(path):
    with Embeddings(path) as file:
        rows = np.concatenate([np.atleast_2d(each) for each in file.values()])
        return file.names, file.lengths.tolist(), rows.tobytes()


def looped(fair_esm_model, protein, window, layers=(6,)):
    """Residues as a plain loop over windows has them of fair-esm: ``[residues, D]``, or of several layers."""
    size = min(window.size, len(protein))
    starts = [*range(0, len(protein) - size, window.size - window.overlap), len(protein) - size]
    total, weights = 0.0, np.zeros(len(protein))
    for start in starts:
        tokens = torch.from_numpy(encode("", protein[start : start + size]))[None]
        with torch.inference_mode():
            found = fair_esm_model(tokens, repr_layers=layers)["representations"]
        rows = np.stack([found[layer][0, 1:-1].numpy() for layer in layers], axis=1).astype(np.float64)
        weight = np.minimum(np.arange(size) + 1, size - np.arange(size))
        weights[start : start + size] += weight
        there = np.zeros((len(protein), *rows.shape[1:]))
        there[start : start + size] = weight[:, None, None] * rows
        total = total + there
    combined = total / weights[:, None, None]
    return combined[:, 0] if len(layers) == 1 else combined


@pytest.mark.parametrize("layers", [(6,), pytest.param((0, 6), marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("budget", [60, 2_048], ids=["a window a pack", "all in one"])
def test_residues_and_means_are_those_of_a_loop_over_fair_esm(tmp_path, model, fair_esm_model, layers, budget):
    for pool in ("residue", "mean"):
        options = Options(pool, layers, None, long=WINDOW, token_budget=budget)
        run(LONG, tmp_path / f"{pool}.h5", model, options)
    with Embeddings(tmp_path / "residue.h5") as residues, Embeddings(tmp_path / "mean.h5") as means:
        assert residues.names == means.names == [name for name, _ in LONG]
        assert residues.lengths.tolist() == means.lengths.tolist() == [len(protein) for _, protein in LONG]
        for name, protein in LONG:
            expected = looped(fair_esm_model, protein, WINDOW, layers)
            far = np.linalg.norm(residues[name] - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
            assert far.max() <= 1e-5, name
            mean = expected.mean(0)
            assert np.linalg.norm(means[name] - mean) <= 1e-5 * np.linalg.norm(mean), name


@pytest.mark.parametrize("pool", ["mean", "residue"])
def test_rows_in_float16_are_those_in_float32_rounded_once(tmp_path, model, pool):
    for dtype in ("float32", "float16"):
        options = Options(pool, max_length=None, long=WINDOW, token_budget=100, dtype=dtype)
        run(LONG, tmp_path / f"{dtype}.h5", model, options)
    with Embeddings(tmp_path / "float32.h5") as exact, Embeddings(tmp_path / "float16.h5") as rounded:
        assert (rounded.embeddings[()] == exact.embeddings[()].astype(np.float16)).all()


@pytest.mark.parametrize("pool", ["mean", "residue"])
def test_proteins_that_are_one_window_have_the_same_bytes_as_without(tmp_path, model, pool):
    short = [(name, protein[:50]) for name, protein in LONG]
    run(short, tmp_path / "whole.h5", model, Options(pool, token_budget=100))
    run(short, tmp_path / "windows.h5", model, Options(pool, max_length=None, token_budget=100, long=WINDOW))
    assert content(tmp_path / "windows.h5") == content(tmp_path / "whole.h5")


@pytest.mark.parametrize("pool", ["mean", "bos", "residue"])
def test_equal_proteins_have_the_rows_of_one_and_are_computed_once(tmp_path, model, pool):
    class Counting(AsyncInferenceRunner):
        def run(self, batches):
            return super().run(computed.append(each) or each for each in batches)

    computed = []
    options = Options(pool, dedupe=True, token_budget=200)
    (whole,) = packs_of(REPEATED, options, 200, (320,))
    (found,) = in_parts(Counting(model, pool=pool), options, 200).run([whole])
    (expected,) = AsyncInferenceRunner(model, pool=pool).run([whole])
    assert (found.sequence_ids, found.residues, found.skipped) == (expected.sequence_ids, expected.residues, {})
    assert (found.embeddings - expected.embeddings).abs().max() <= 1e-5
    assert [name for each in computed for name in each.sequence_ids] == [name for name, _ in LONG]
    assert all(len(each.input_ids) <= 200 for each in computed)


def test_packs_among_which_equal_proteins_are_looked_for_are_bounded(monkeypatch):
    monkeypatch.setattr(parts, "DEDUPE_TOKENS", 100)
    monkeypatch.setattr(parts, "DEDUPE_BYTES", 4 * 10 * 7)
    proteins = [("p", "M" * 8)] * 30

    def sizes(pool, budget):
        return {len(each) for each in packs_of(proteins, Options(pool, dedupe=True), budget, (10,))}

    assert sizes("mean", 20) == {7, 2}  # seven rows of ten values
    assert sizes("residue", 20) == {2}  # not seven residues, but the token budget
    monkeypatch.setattr(parts, "DEDUPE_BYTES", 2**20)
    assert sizes("mean", 20) == sizes("residue", 20) == {10}
    assert sizes("mean", 200) == {20, 10}


@pytest.mark.parametrize("pool", sample_of(["mean", "residue"], "mean"))
def test_what_the_memory_does_not_hold_is_halved_with_its_weights(model, pool):
    options = Options(pool, **BOTH)
    (whole,) = packs_of(REPEATED, options, 400, (320,))
    (expected,) = in_parts(AsyncInferenceRunner(model, pool=pool), options, 400).run([whole])
    (found,) = in_parts(AsyncInferenceRunner(SmallMemory(model, 150), pool=pool), options, 400).run([whole])
    assert (found.embeddings - expected.embeddings).abs().max() <= 1e-5


@pytest.mark.parametrize("pool", ["mean", "residue"])
def test_nan_in_a_window_leaves_out_the_protein_and_all_its_copies(model, pool):
    odd = ("odd", "M" * 120 + "X")
    records = [*LONG[:2], odd, *LONG[2:], ("odd2", odd[1]), LONG[1]]
    options = Options(pool, **BOTH)
    (whole,) = packs_of(records, options, 100, (320,))
    spoilt = NotFinite(model, "X")
    (found,) = in_parts(AsyncInferenceRunner(spoilt, pool=pool, on_nan="skip"), options, 100).run([whole])
    (expected,) = in_parts(AsyncInferenceRunner(model, pool=pool), options, 100).run(
        packs_of([each for each in records if "X" not in each[1]], options, 100, (320,))
    )
    assert found.skipped == {2: "odd", 6: "odd2"} and found.sequence_ids == expected.sequence_ids
    assert (found.embeddings - expected.embeddings).abs().max() <= 1e-5
    with pytest.raises(NonFiniteEmbeddingError, match="in the embedding of 'odd': "):
        list(in_parts(AsyncInferenceRunner(spoilt, pool=pool), options, 100).run([whole]))


@pytest.mark.parametrize("pool", ["mean", "residue"])
@pytest.mark.parametrize("ending", sample_of(["h5", "npz", "parquet"], "h5"))
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bytes(tmp_path, model, small_packs, pool, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    options = Options(pool, token_budget=100, **BOTH)
    run(REPEATED, tmp_path / f"whole.{ending}", model, options, format=format_of(tmp_path / f"whole.{ending}"))
    output = tmp_path / f"out.{ending}"
    stopped = 0
    for questions in itertools.count():
        try:
            run(REPEATED, output, model, options, format=format_of(output), resume=True, stop=StopAfter(questions))
            break
        except Stopped:
            stopped += 1
    assert stopped >= 3
    assert content(output) == content(tmp_path / f"whole.{ending}")
    with Embeddings(output) as file:
        assert file.settings["long"] == "window:50:15" and file.settings["dedupe"] == DEDUPE_TOKENS


def test_records_that_are_appended_give_the_file_of_one_run(tmp_path, model, small_packs):
    options = Options(token_budget=100, **BOTH)
    run(REPEATED, tmp_path / "whole.h5", model, options)
    run(REPEATED[:8], tmp_path / "out.h5", model, options)
    run(REPEATED, tmp_path / "out.h5", model, options, resume=True)
    assert content(tmp_path / "out.h5") == content(tmp_path / "whole.h5")


@pytest.mark.parametrize("other", sample_of([{"long": Window(50, 14)}, {"dedupe": False}, {"long": None}]))
def test_other_settings_do_not_continue(tmp_path, model, other):
    run(LONG, tmp_path / "out.h5", model, Options(token_budget=100, **BOTH))
    (name,) = other
    with pytest.raises(StoreError, match=f"complete and was made with {name} "):
        run(LONG, tmp_path / "out.h5", model, Options(token_budget=100, **{**BOTH, **other}), resume=True)


def test_a_file_from_before_there_were_these_settings_is_complete(tmp_path, model, monkeypatch):
    def of_old(*given):
        return {name: value for name, value in real(*given).items() if name not in ("long", "dedupe")}

    real = module.settings_of
    with monkeypatch.context() as patch:
        patch.setattr(module, "settings_of", of_old)
        run(LONG, tmp_path / "out.h5", model, Options())
    assert run(LONG, tmp_path / "out.h5", model, Options(), resume=True)["resumed_sequences"] == len(LONG)


@pytest.mark.parametrize("pool", sample_of(["mean", "residue"], "residue"))
def test_shards_merge_into_the_file_of_one_run(tmp_path, model, small_packs, pool):
    options, records = Options(pool, token_budget=100, **BOTH), REPEATED * 3
    run(records, tmp_path / "whole.h5", model, options)
    shards = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, path in enumerate(shards, 1):
        run(records, path, model, options, shard=Shard(number, 2))
    merge(tmp_path / "out.h5", shards, TABLE)
    assert content(tmp_path / "out.h5") == content(tmp_path / "whole.h5")
    assert all(len(Embeddings(path)) for path in shards)


def test_a_worker_of_several_makes_the_rows_of_one_process(tmp_path, checkpoint, model, small_packs):
    options = Options("residue", token_budget=100, **BOTH)
    run(REPEATED, tmp_path / "whole.h5", model, options)
    packs = [compact(each) for each in NumberedPacks(packs_of(REPEATED, options, 100, (320,)))]
    with Run(tmp_path / "out.h5", resume=False) as begun:
        plan = Plan(
            *(MODEL, str(checkpoint), "auto", "cpu", options),
            *(begun.folder, begun.segments, begun.proof),
        )
        worker = Worker(plan)
        worker.start(worker.about({"threads": 1})["settings"])
        assert worker.embed(packs).sequences == len(REPEATED)
        found = read_index(begun.segments)
        begun.add(pack for number in sorted(found) for pack in found[number].values())
        rows = np.concatenate(list(begun.rows(sorted(found), 320, "float32").embeddings()))
    assert len(packs) > 2 and rows.tobytes() == content(tmp_path / "whole.h5")[2]


def test_the_estimate_has_the_tokens_that_are_computed(tmp_path, model):
    options = Options(token_budget=100, **BOTH)
    run(REPEATED, tmp_path / "out.h5", model, options)
    with Fasta(tmp_path / "out.fasta") as fasta:
        told = estimate(fasta, model, options, TABLE, rate=10.0)
    windows = sum(2 + min(len(protein), 50) for _, protein in LONG for _ in WINDOW.of(len(protein)))
    assert told["tokens"] == windows
    assert told["sequences"] == len(REPEATED) and told["residues"] == sum(len(protein) for _, protein in REPEATED)


def test_a_long_protein_is_cut_as_it_is_computed(model):
    options = Options("residue", max_length=None, long=Window(1_000, 900))
    (whole,) = packs_of([("titin", "M" * 36_000)], options, 2_048, (320,))
    handed_out = Whole(whole, options, 2_048).parts()
    assert next(handed_out).lengths == [1_002, 1_002]
    assert 2 + sum(len(each) for each in handed_out) == 351


def test_python_has_both(checkpoint):
    given = {"model": MODEL, "weights": checkpoint, "precision": "fp32", "device": "cpu"}
    names, once = virnucpro.embed(REPEATED, long="window:50:15", dedupe=True, **given)
    again, plain = virnucpro.embed(REPEATED, long="window:50:15", **given)
    assert names == again and np.abs(once - plain).max() <= 1e-5
    _, cut = virnucpro.embed(REPEATED, max_length=50, **given)
    assert np.abs(cut - plain).max() > 1e-2


@pytest.mark.parametrize(
    "chosen, said",
    [
        ({"max_length": 50, "long": WINDOW}, "max_length 50 cuts a longer protein, and window:50:15 embeds all"),
        ({"pool": "bos", "max_length": None, "long": WINDOW}, "a long protein has a BOS for each window"),
    ],
)
def test_contradictions_are_refused(chosen, said):
    with pytest.raises(ValueError, match=said):
        Options(**chosen)


@pytest.mark.parametrize(
    "more, code, said",
    [
        (["--max-length", "1022", "--long", "window:50:15"], 2, "--long embeds all of it: choose one"),
        (["--pool", "bos", "--long", "window:50:15"], 1, "a long protein has a BOS for each window"),
        (["--long", "windows"], 1, "write window:SIZE:OVERLAP"),
        (["--long", "window:50:15", "--max-length", "none", "--translate", "six-frame", "--dedupe"], 0, ""),
    ],
)
def test_the_command_has_both(tmp_path, capsys, one_model, more, code, said):
    (tmp_path / "in.fasta").write_text(">dna\n" + "ATGAAAACCGCG" * 30 + "\n")
    words = ["embed", str(tmp_path / "in.fasta"), "-o", str(tmp_path / "out.h5"), "--json", "--chunk", "300"]
    words += [] if "--translate" in more else ["--translate", "six-frame"]
    words += ["--model", MODEL, "--weights", "random", "--device", "cpu"]
    try:
        ended = main([*words, *more])
    except SystemExit as exit_:
        ended = exit_.code
    out, told = capsys.readouterr()
    assert ended == code and said in told, told
    if not code:
        settings = json.loads(out)["settings"]
        assert (settings["max_length"], settings["long"], settings["dedupe"]) == (
            None,
            "window:50:15",
            DEDUPE_TOKENS,
        )


def test_the_tokens_of_windows_are_those_of_proteins():
    options = Options(max_length=None, long=WINDOW)
    (whole,) = packs_of(LONG[1:2], options, 2_048, (320,))
    (part,) = Whole(whole, options, 2_048).parts()
    protein, ends = LONG[1][1], part.cu_seqlens.tolist()
    for (start, _), (begin, end) in zip(WINDOW.of(len(protein)), itertools.pairwise(ends), strict=True):
        assert part.input_ids[begin:end].tolist() == encode("", protein[start : start + 50]).tolist()
        assert part.input_ids[begin] == ALPHABET.cls_idx
