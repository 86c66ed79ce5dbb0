"""What `virnucpro.embed` takes, what it calls it, and what it refuses."""

import collections
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from Bio import SeqIO
from Bio.Seq import MutableSeq, Seq
from Bio.SeqRecord import SeqRecord

import virnucpro
from tests.conftest import MODEL, sample_of
from tests.limits import PATIENCE
from virnucpro.data.fasta import FastaError
from virnucpro.errors import UserError
from virnucpro.pipeline import in_memory
from virnucpro.pipeline.in_memory import named

PAIRS = [("0", "MK"), ("1", "AC")]
FASTA = ">0 first\nMK\n>1\nAC\n"
RECORDS = [SeqRecord(Seq("MK"), "0"), SeqRecord(Seq("AC"), "1")]


class Series:
    """What of a column of pandas' matters here: it iterates its values, and has keys."""

    def __init__(self, values):
        self._values = values

    def __iter__(self):
        return iter(self._values.values())

    def __len__(self):
        return len(self._values)

    def keys(self):
        return self._values.keys()

    def items(self):
        return self._values.items()


ACCEPTED = {
    "strings": ["MK", "AC"],
    "a tuple": ("MK", "AC"),
    "an array": np.array(["MK", "AC"]),
    "a generator": (sequence for sequence in ["MK", "AC"]),
    "a deque": collections.deque(["MK", "AC"]),
    "Seqs": [Seq("MK"), MutableSeq("AC")],
    "pairs": PAIRS,
    "lists as pairs": [["0", "MK"], [1, "AC"]],
    "pairs of Seqs": [("0", Seq("MK")), ("1", RECORDS[1])],
    "a mapping": {"0": "MK", "1": "AC"},
    "a mapping by number": {0: "MK", 1: "AC"},
    "items of a mapping": dict(PAIRS).items(),
    "values of a mapping": {"a": "MK", "b": "AC"}.values(),
    "a mapping of records": {"0": RECORDS[0], "1": RECORDS[1]},
    "a column of pandas'": Series({"0": "MK", "1": "AC"}),
    "SeqRecords": RECORDS,
    "Biopython's parser": SeqIO.parse(io.StringIO(FASTA), "fasta"),
    "Biopython's dictionary": SeqIO.to_dict(SeqIO.parse(io.StringIO(FASTA), "fasta")),
}


@pytest.mark.parametrize("sequences", ACCEPTED.values(), ids=ACCEPTED)
def test_these_are_sequences_and_their_names(sequences):
    assert list(named(sequences)) == PAIRS


def test_a_biopython_index_of_a_file_is_a_mapping(tmp_path):
    (tmp_path / "in.fasta").write_text(FASTA)
    index = SeqIO.index(str(tmp_path / "in.fasta"), "fasta")
    assert list(named(index)) == PAIRS
    index.close()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_a_file(tmp_path, checkpoint, kind):
    (tmp_path / "in.fasta").write_text(FASTA)
    expected = virnucpro.embed(["MK", "AC"], MODEL, weights=checkpoint, device="cpu")
    found = virnucpro.embed(kind(tmp_path / "in.fasta"), MODEL, weights=checkpoint, device="cpu")
    assert found[0] == expected[0] == ["0", "1"] and np.array_equal(found[1], expected[1])


REFUSED = {
    "nothing": None,
    "a number": 3,
    "bytes": b"MK",
    "an open file": io.StringIO(FASTA),
    "one Seq": Seq("MK"),
    "one SeqRecord": RECORDS[0],
    "a set": {"MK", "AC"},
    "numbers": [1, 2],
    "bytes in a list": [b"MK"],
    "pairs of bytes": [("a", b"MK")],
    "triples": [("a", "MK", "AC")],
    "pairs without a name": [(None, "MK")],
    "a mapping to numbers": {"a": 1},
    "a mapping to lists": {"a": ["MK"]},
    "a table": np.zeros((2, 2)),
    "nested lists": [["MK"], ["AC"]],
    "not a number in a column": Series({"a": "MK", "b": float("nan")}),
}


@pytest.mark.parametrize("sequences", REFUSED.values(), ids=REFUSED)
def test_anything_else_is_a_type_error_that_says_what_is_accepted(sequences, monkeypatch):
    monkeypatch.setattr(in_memory, "load_esm2_model", None)  # it is told before anything is loaded
    with pytest.raises(
        TypeError, match=r"a list of sequences, \{name: sequence\}, pairs .* the path of a FASTA file"
    ):
        virnucpro.embed(sequences, MODEL)


@pytest.mark.parametrize("text", ["MKTAYIAK", "missing.fasta", "M" * 5_000, "", ">a\nMK\n", "MK\0"])
def test_a_string_that_is_no_file_is_an_error_that_tells_how_to_embed_one_sequence(text):
    with pytest.raises(FastaError, match=r"there is no file .*embed\(\['") as raised:
        virnucpro.embed(text, MODEL)
    assert isinstance(raised.value, ValueError | UserError) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "sequences, said",
    [
        (["MK", "M1"], r"'1' .*letters that ESM-2 does not know \('1' in place 2\)"),
        (["MK", ""], "'1' .*empty"),
        ([("a", "MK"), ("a", "AC")], "two sequences are called 'a'"),
    ],
)
def test_what_the_command_would_skip_is_an_error(checkpoint, sequences, said):
    with pytest.raises(ValueError, match=said) as raised:
        virnucpro.embed(sequences, MODEL, weights=checkpoint, device="cpu")
    assert "--strict" not in str(raised.value)


def test_dna_without_an_open_frame_is_an_error(checkpoint):
    with pytest.raises(ValueError, match=r"'0' .*no open reading frame"):
        virnucpro.embed(["TTAATTAATTAATTAA"], MODEL, weights=checkpoint, device="cpu", chunk=500)


def test_proteins_that_are_cut_are_told(checkpoint, caplog):
    proteins = {f"long{number}": "M" * (7 + number) for number in range(12)} | {"fits": "M" * 6}
    virnucpro.embed(proteins, MODEL, weights=checkpoint, device="cpu", max_length=6)
    (said,) = [message for message in caplog.messages if "cut to" in message]
    assert said.startswith("cut to 6 residues: 12 (long0, long1, ") and "long9, ...)" in said
    assert "max_length=None embeds all of them" in said
    caplog.clear()
    virnucpro.embed(proteins, MODEL, weights=checkpoint, device="cpu", max_length=None)
    virnucpro.embed({"fits": "M" * 6}, MODEL, weights=checkpoint, device="cpu", max_length=6)
    assert not caplog.messages


@pytest.mark.parametrize("precision", sample_of(["fp32", "bf16", "int8"], "fp32"))
def test_the_callers_default_type_and_device_change_nothing(massive_checkpoint, precision):
    def embedded():
        how = {"weights": massive_checkpoint, "device": "cpu", "precision": precision}
        several = virnucpro.embed(["MKTAYIAK" * 9, "M"], MODEL, layers=[0, 3, -1], **how)[1]
        residues = virnucpro.embed(["MKTAYIAK" * 9], MODEL, pool="residue", **how)[1]
        return [each.tobytes() for each in (several, *residues)]

    expected = embedded()
    for default in (torch.float64, torch.float16, torch.bfloat16):
        torch.set_default_dtype(default)
        try:
            assert embedded() == expected, default
        finally:
            torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")
    try:
        assert embedded() == expected
    finally:
        torch.set_default_device(None)


FORK = """
import os, sys, time, torch, virnucpro
from virnucpro.models.esm2_flash import load_esm2_model

def embedded():
    return virnucpro.embed(["MKTAYIAK" * 20], "esm2_t6_8M_UR50D", weights="random", device="cpu")[1].tobytes()

torch.set_num_threads(2)
if {by_torch}:
    torch.rand(500, 500) @ torch.rand(500, 500)
else:
    expected = embedded()
child = os.fork()
if not child:
    if {by_torch}:
        expected = embedded()
    os._exit(0 if embedded() == expected else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FORKED_LOAD = """
import os, sys, torch
from virnucpro.models.esm2_flash import load_esm2_model

torch.set_num_threads(2)
load_esm2_model("esm2_t6_8M_UR50D", "cpu", weights="random")[0]
child = os.fork()
if not child:
    load_esm2_model("esm2_t6_8M_UR50D", "cpu", weights="random")
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    "by_torch",
    [
        pytest.param(False, id="by this package"),
        pytest.param(True, id="by PyTorch alone", marks=pytest.mark.exhaustive),
    ],
)
def test_a_child_that_was_forked_after_its_parent_computed_embeds(by_torch):
    code = FORK.format(by_torch=by_torch)
    done = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.exhaustive
def test_loading_a_model_in_such_a_child_is_an_error_with_the_remedy():
    done = subprocess.run([sys.executable, "-c", FORKED_LOAD], timeout=PATIENCE, capture_output=True, text=True)
    assert "get_context('spawn')" in done.stderr
