"""embed_file and embed: fair-esm's numbers, in the order of the input, and resumed where they stopped."""

import hashlib
import json
import threading
from pathlib import Path

import esm
import numpy as np
import pytest
import torch

import virnucpro
from tests.conftest import MODEL, RAGGED, StopAfter
from virnucpro.data.fasta import Fasta, FastaError
from virnucpro.models.esm2_flash import load_esm2_model, recommended_precision
from virnucpro.pipeline import provenance
from virnucpro.pipeline.embed import Stopped, embed_file
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.prefetch import ReadAhead
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import BY_NAME, PER_PROTEIN, format_of
from virnucpro.store.place import folder_of

pytestmark = pytest.mark.usefixtures("one_thread")

PROTEINS = [(name, protein[:60]) for name, protein in RAGGED if "<" not in protein]  # <mask> is not FASTA
DEFAULT = Options()
DNA = "ATGAAAACCGCGTATATTGCGAAACAGCGTCAGATTAGCTTTGTGAAAAGCCATTTTAGCCGTCAG" * 5


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)[0]


@pytest.fixture
def fasta(tmp_path):
    return write(tmp_path / "in.fasta", PROTEINS)


def write(path, records):
    path.write_text("".join(f">{name} a description\n{sequence}\n" for name, sequence in records))
    return path


def run(path, output, model, options=DEFAULT, **keywords):
    with Fasta(path) as fasta:
        return embed_file(fasta, output, model, options, **keywords)


def datasets(path):
    with Embeddings(path) as file:
        return file.names, file.lengths.tobytes(), file.embeddings[()].tobytes()


def extracted(model, path, truncation_seq_length, layers):
    """What fair-esm's scripts/extract.py computes: its batches, its truncation, its three ways to pool."""
    dataset = esm.FastaBatchedDataset.from_file(path)
    convert = esm.Alphabet.from_architecture("ESM-1b").get_batch_converter(truncation_seq_length)
    found = {"mean": {}, "bos": {}, "residue": {}}
    for indices in dataset.get_batch_indices(4096, extra_toks_per_seq=1):
        labels, proteins, tokens = convert([dataset[index] for index in indices])
        with torch.inference_mode():
            representations = model(tokens, repr_layers=layers)["representations"]
        stacked = torch.stack([representations[layer] for layer in layers], dim=2)
        for label, protein, row in zip(labels, proteins, stacked, strict=True):
            name = label.split()[0]
            kept = row[1 : min(truncation_seq_length, len(protein)) + 1]
            found["mean"][name], found["bos"][name], found["residue"][name] = kept.mean(0), row[0], kept
    return found


@pytest.mark.parametrize("pool", ["mean", "bos", "residue"])
@pytest.mark.parametrize("layers", [(-1,), (0, 3, 6)], ids=["the last layer", "three layers"])
def test_embeddings_equal_those_of_fair_esms_extraction(tmp_path, model, fair_esm_model, pool, layers):
    proteins = [*PROTEINS, ("cut", "ACDEFGHIKLMNPQRSTVWY" * 8)]
    fasta = write(tmp_path / "in.fasta", proteins)
    run(fasta, tmp_path / "out.h5", model, Options(pool, layers, max_length=100))
    expected = extracted(fair_esm_model, fasta, 100, [layer % 7 for layer in layers])[pool]
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.names == [name for name, _ in proteins]
        assert file.lengths.tolist() == [min(len(protein), 100) for _, protein in proteins]
        for name, found in file:
            there = expected[name].numpy() if len(layers) > 1 else expected[name].numpy()[..., 0, :]
            assert found.shape == there.shape
            assert np.abs(found - there).max() <= 1e-5, name


def test_the_summary_and_the_attributes_tell_what_was_done(tmp_path, model):
    records = [("a", "MKT"), ("none", ""), ("long", "M" * 30), ("a", "mk*"), ("odd", "MJ")]
    output = tmp_path / "out.h5"
    summary = run(
        write(tmp_path / "in.fasta", records),
        output,
        model,
        Options(max_length=20),
        about={"model": MODEL},
        command="the command",
    )
    json.dumps(summary)
    assert (summary["records"], summary["sequences"], summary["residues"]) == (5, 3, 25)
    assert summary["skipped"]["empty"] == {"count": 1, "names": ["none"]}
    assert summary["skipped"]["letters that ESM-2 does not know"] == {"count": 1, "names": ["odd"]}
    assert summary["truncated"] == {"count": 1, "names": ["long"]}
    assert summary["repeated_names"] == {"count": 1, "names": ["a"]}
    assert summary["tokens_per_second"] > 0 and summary["peak_resident_bytes"] > 0
    with Embeddings(output) as file:
        assert file.names == ["a", "long", "a"]
        assert file.settings["model"] == MODEL and file.settings["command"] == "the command"
        assert file.settings["torch"] == torch.__version__ and file.settings["precision"] == "fp32"


def test_the_build_of_pytorch_is_told_though_its_package_does_not(model, monkeypatch):
    monkeypatch.setattr(provenance, "version", lambda distribution: "2.13.0")
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert provenance.settings_of(model, Options(), {})["torch"] == "2.13.0+cu130"


def test_the_example_without_virnucpro_reads_the_file(tmp_path, fasta, model, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "embed.md").read_text()
    (example,) = (
        block.partition("```")[0] for block in page.split("```python\n") if block.startswith("import h5py")
    )
    run(fasta, tmp_path / "OUT.h5", model, Options("residue"), about={"model": MODEL})
    monkeypatch.chdir(tmp_path)
    exec(example)
    rows = sum(len(protein) for _, protein in PROTEINS)
    assert capsys.readouterr().out.startswith(f"{MODEL} fp32 ({rows}, 320)\none [[")


def test_dna_is_translated_and_embedded(tmp_path, model):
    path = write(tmp_path / "in.fasta", [("contig", DNA)])
    run(path, tmp_path / "out.h5", model, Options(chunk=100))
    names, embeddings = virnucpro.embed({"contig": DNA}, MODEL, weights="random", precision="fp32", chunk=100)
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.names == names and names[0] == "contig_chunk_1F1"
        assert embeddings.shape == (len(names), 320)


def test_float16_is_float32_rounded(tmp_path, fasta, model):
    run(fasta, tmp_path / "wide.h5", model)
    run(fasta, tmp_path / "narrow.h5", model, Options(dtype="float16"))
    with Embeddings(tmp_path / "wide.h5") as wide, Embeddings(tmp_path / "narrow.h5") as narrow:
        assert narrow.embeddings.dtype == np.float16
        assert (wide.embeddings[()].astype(np.float16) == narrow.embeddings[()]).all()


def test_only_what_esm2_cannot_take_is_a_file_without_rows(tmp_path, model):
    summary = run(write(tmp_path / "in.fasta", [("a", "")]), tmp_path / "out.h5", model)
    assert (summary["sequences"], summary["records"], summary["tokens_per_second"]) == (0, 1, None)
    with Embeddings(tmp_path / "out.h5") as file:
        assert file.embeddings.shape == (0, 320)


@pytest.mark.parametrize("questions", [1, 2, 4])
def test_a_stopped_run_is_resumed_with_the_same_bytes(tmp_path, fasta, model, questions):
    options = Options(token_budget=60)
    run(fasta, tmp_path / "whole.h5", model, options)
    output = tmp_path / "resumed.h5"
    with pytest.raises(Stopped):
        run(fasta, output, model, options, stop=StopAfter(questions))
    summary = run(fasta, output, model, options, resume=True)
    assert summary["resumed_sequences"] >= questions - 1
    assert datasets(output) == datasets(tmp_path / "whole.h5")
    assert not folder_of(output).exists()


def test_an_input_that_breaks_off_keeps_what_came_before(tmp_path, model, fasta):
    options, output = Options(token_budget=30), tmp_path / "out.h5"
    whole = fasta.read_bytes()
    fasta.write_bytes(whole + b">bad\nM1\n")
    with pytest.raises(FastaError, match="'bad'"):
        run(fasta, output, model, Options(token_budget=30, strict=True))
    assert not output.exists()
    fasta.write_bytes(whole)
    assert run(fasta, output, model, options, resume=True)["resumed_sequences"] >= len(PROTEINS) - 1


def test_another_input_is_not_continued(tmp_path, fasta, model):
    output, options = tmp_path / "out.h5", Options(token_budget=60)
    with pytest.raises(Stopped):
        run(fasta, output, model, options, stop=StopAfter(3))
    for records in ([("one", "K"), *PROTEINS[1:]], PROTEINS[:1]):
        with pytest.raises(FastaError, match=r"does not begin with the \d sequences that were embedded"):
            run(write(fasta, records), output, model, options, resume=True)


def test_the_token_budget_of_the_beginning_is_kept(tmp_path, fasta, model, monkeypatch):
    run(fasta, tmp_path / "whole.h5", model, Options(token_budget=60))
    output = tmp_path / "out.h5"
    monkeypatch.setattr(provenance, "token_budget", lambda model: 60)
    with pytest.raises(Stopped):
        run(fasta, output, model, stop=StopAfter(2))
    monkeypatch.setattr(provenance, "token_budget", lambda model: 1000)
    summary = run(fasta, output, model, resume=True)
    assert summary["settings"]["token_budget"] == 60
    assert datasets(output) == datasets(tmp_path / "whole.h5")


def test_other_weights_are_not_continued(tmp_path, fasta, model):
    output = tmp_path / "out.h5"
    with pytest.raises(Stopped):
        run(fasta, output, model, Options(token_budget=60), stop=StopAfter(2))
    other, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")
    with pytest.raises(StoreError, match="weights_checksum"):
        run(fasta, output, other, Options(token_budget=60), resume=True)


def test_resuming_what_is_complete_checks_it_and_leaves_it(tmp_path, fasta, model):
    output = tmp_path / "out.h5"
    run(fasta, output, model)
    before = hashlib.sha256(output.read_bytes()).hexdigest()
    folder_of(output).mkdir()  # left by a run that was killed at its very end
    (folder_of(output) / "embeddings").write_bytes(b"rows")
    assert run(fasta, output, model, resume=True)["sequences"] == len(PROTEINS)
    assert not folder_of(output).exists()
    assert hashlib.sha256(output.read_bytes()).hexdigest() == before
    with pytest.raises(StoreError, match="was made with pool 'mean' and not 'bos'"):
        run(fasta, output, model, Options(pool="bos"), resume=True)
    for records in (PROTEINS[:-1], [("other", "MK"), *PROTEINS[1:]], [("new", "MK"), *PROTEINS]):
        with pytest.raises(FastaError, match="does not begin with"):
            run(write(fasta, records), output, model, resume=True)


def test_what_is_complete_keeps_its_token_budget(tmp_path, fasta, model, monkeypatch):
    output = tmp_path / "out.h5"
    run(fasta, output, model)
    monkeypatch.setattr(provenance, "token_budget", lambda model: 7)
    assert run(fasta, output, model, resume=True)["settings"]["token_budget"] != 7


def test_a_replaced_output_stays_until_the_new_one_is_complete(tmp_path, fasta, model):
    output = tmp_path / "out.h5"
    run(fasta, output, model)
    before = datasets(output)
    with pytest.raises(Stopped):
        run(fasta, output, model, Options(pool="bos"), force=True, stop=StopAfter(2))
    assert datasets(output) == before
    run(fasta, output, model, Options(pool="bos"), resume=True)
    assert datasets(output) != before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pool": "max"}, "unknown pool 'max'; choose from mean, bos, residue"),
        ({"dtype": "float64"}, "unknown dtype"),
        ({"max_length": 0}, "max_length 0"),
        ({"token_budget": 0}, "token_budget 0"),
        ({"chunk": 2}, "chunk 2: a codon has 3"),
        ({"layers": ()}, "no layers"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_a_layer_that_does_not_exist_is_refused(tmp_path, fasta, model):
    with pytest.raises(ValueError, match="layer 7: this model has layers 0 to 6, or -7 to -1"):
        run(fasta, tmp_path / "out.h5", model, Options(layers=(7,)))


def test_embed_takes_pairs_mappings_and_files(fasta, checkpoint, tmp_path, model):
    run(fasta, tmp_path / "out.h5", model)
    with Embeddings(tmp_path / "out.h5") as file:
        expected = file.embeddings[()]
    for sequences in (PROTEINS, dict(PROTEINS), iter(PROTEINS), fasta, str(fasta)):
        names, embeddings = virnucpro.embed(sequences, MODEL, weights=checkpoint, device="cpu")
        assert names == [name for name, _ in PROTEINS]
        assert (embeddings == expected).all()


def test_embed_gives_an_array_for_each_protein_with_residues(checkpoint):
    _, arrays = virnucpro.embed(PROTEINS, MODEL, weights=checkpoint, device="cpu", pool="residue", layers=[-1, 0])
    assert [array.shape for array in arrays] == [(len(protein), 2, 320) for _, protein in PROTEINS]


def test_embed_of_nothing_is_empty(checkpoint):
    names, embeddings = virnucpro.embed([], MODEL, weights=checkpoint, device="cpu")
    assert names == [] and embeddings.shape == (0, 320)


def test_embed_refuses_what_the_command_skips(checkpoint):
    with pytest.raises(ValueError, match="'bad'"):
        virnucpro.embed({"good": "MK", "bad": "M1"}, MODEL, weights=checkpoint, device="cpu")


def test_the_recommended_precision_of_a_cpu_is_fp32():
    assert recommended_precision("cpu") == "fp32"


def test_reading_ahead_keeps_order_and_raises_at_its_place():
    def items():
        yield from range(100)
        raise RuntimeError("at the end")

    seen = []
    with pytest.raises(RuntimeError, match="at the end"), ReadAhead(items(), 3) as ahead:
        for item in ahead:
            seen.append(item)
    assert seen == list(range(100))


def test_reading_ahead_is_bounded():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    with ReadAhead(items(), 3) as ahead:
        next(ahead)
    assert len(taken) <= 6


def test_waiting_for_input_that_never_comes_can_be_stopped():
    never = threading.Event()
    asked = StopAfter(2)
    with ReadAhead(iter(never.wait, None), 3, asked) as ahead:
        assert list(ahead) == []
    never.set()


@pytest.mark.parametrize(
    "name, layout", [*((f"out.{each}", "table") for each in BY_NAME if each != "h5"), ("out.h5", "per-protein")]
)
def test_every_format_is_resumed_checked_and_replaced(tmp_path, fasta, model, name, layout):
    if name == "out.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    options, output, format = Options(token_budget=60), tmp_path / name, format_of(tmp_path / name, None, layout)
    run(fasta, tmp_path / "whole.h5", model, options)
    with pytest.raises(Stopped):
        run(fasta, output, model, options, format=format, stop=StopAfter(2))
    assert not output.exists()
    assert run(fasta, output, model, options, format=format, resume=True)["resumed_sequences"]
    assert datasets(output) == datasets(tmp_path / "whole.h5")
    assert run(fasta, output, model, options, format=format, resume=True)["resumed_sequences"] == len(PROTEINS)
    with pytest.raises(StoreError, match="exists"):
        run(fasta, output, model, options, format=format)
    run(fasta, output, model, Options(token_budget=60, pool="bos"), format=format, force=True)
    assert datasets(output) != datasets(tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.fasta", "whole.h5", name])


def test_a_complete_file_of_another_layout_is_not_taken_for_the_one_asked_for(tmp_path, fasta, model):
    run(fasta, tmp_path / "out.h5", model)
    with pytest.raises(StoreError, match="is complete, and not in the format h5, per-protein"):
        run(fasta, tmp_path / "out.h5", model, format=PER_PROTEIN, resume=True)


def test_a_name_that_cannot_be_a_dataset_is_an_error_when_it_is_read(tmp_path, model):
    path = write(tmp_path / "in.fasta", [*PROTEINS, ("a/b", "MK")])
    with pytest.raises(FastaError, match="leave out --layout per-protein"):
        run(path, tmp_path / "out.h5", model, Options(token_budget=30), format=PER_PROTEIN)
    summary = run(path, tmp_path / "out.h5", model, Options(token_budget=30), resume=True)
    assert summary["resumed_sequences"] and summary["sequences"] == len(PROTEINS) + 1


def test_a_folder_of_something_else_is_not_replaced_by_a_parquet_dataset(tmp_path, fasta, model):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / "out.parquet").mkdir()
    (tmp_path / "out.parquet" / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        run(fasta, tmp_path / "out.parquet", model, format=BY_NAME["parquet"], force=True)
    assert (tmp_path / "out.parquet" / "thesis.tex").read_text() == "mine"
