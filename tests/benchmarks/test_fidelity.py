"""Fidelity: how far embeddings move, beside how far apart they lie."""

import hashlib
import itertools
import os
from collections import Counter

import pytest
import torch

from benchmarks.measure import fidelity as measured_by
from benchmarks.measure.fidelity import (
    FIGURE,
    LEAST_PROTEINS,
    Embedded,
    compare,
    fidelity,
    of_results,
    smallest_cosine,
)
from benchmarks.precision import Precision
from benchmarks.suite import program, workloads
from benchmarks.suite.cell import Store
from benchmarks.suite.hardware import Hardware
from benchmarks.suite.outcomes import CellFailed
from benchmarks.suite.program import Embedder, runner
from benchmarks.suite.workloads import (
    AMINO_ACIDS,
    FIDELITY_LENGTHS,
    UNIPROT_PERCENT,
    fidelity_proteins,
    sample_different,
)
from tests.conftest import MODEL, sample_of

CPU = Hardware("cpu", "a CPU", 2**34, (0, 0), {})
FAITHFUL = 0.05  # of the median distance: what the advice asks for
TRAINED = os.environ.get("VIRNUCPRO_TEST_TRAINED")
"""A trained checkpoint of `MODEL`."""


def test_the_figure_is_the_largest_move_over_the_median_distance():
    reference = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]).double()  # distances 3, 4 and 5
    other = reference + torch.tensor([[0.0, 0.1], [0.2, 0.0], [0.0, 0.0]]).double()
    assert fidelity(Embedded(reference, reference), Embedded(other, other)).samples == {
        FIGURE: [pytest.approx(0.2 / 4)]
    }


def test_beside_it_are_cosines_of_proteins_and_residues_and_whose_neighbour_stays_the_same():
    pooled, residues = torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    moved = torch.tensor([[1.0, 0.0], [0.1, 0.9], [0.0, 1.0]])
    turned = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    about = fidelity(
        Embedded(pooled.double(), residues.double()), Embedded(moved.double(), turned.double())
    ).notes["fidelity"]
    assert about["smallest_cosine"] == pytest.approx(torch.cosine_similarity(pooled, moved).min().item())
    assert about["smallest_residue_cosine"] == pytest.approx(0.5**0.5)
    assert about["same_nearest_neighbour"] == pytest.approx(2 / 3)  # the second one lies beside the third now


def test_the_smallest_cosine_is_that_of_the_worst_row():
    reference, other = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert smallest_cosine(reference, other) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_an_embedding_that_is_not_finite_is_a_failure(wrong):
    with pytest.raises(ArithmeticError, match="NaN or Inf"):
        Embedded(torch.tensor([[1.0, wrong]]), torch.ones(1, 2))


def test_embeddings_that_are_all_the_same_are_not_available():
    same = torch.ones(40, 2).double()
    measurement = fidelity(Embedded(same, same), Embedded(same, same))
    assert measurement.samples == {}
    assert "are all the same" in measurement.unavailable[FIGURE]


def test_too_few_different_proteins_are_not_available():
    proteins = [(str(index), "M" * (1 + index % (LEAST_PROTEINS - 1))) for index in range(100)]
    measurement = compare(None, None, proteins)
    assert measurement.unavailable == {
        FIGURE: f"the FASTA file has {LEAST_PROTEINS - 1} different proteins, and fidelity needs at least 32"
    }


def test_uniprots_frequencies_are_of_all_amino_acids():
    assert set(UNIPROT_PERCENT) == set(AMINO_ACIDS)
    assert sum(UNIPROT_PERCENT.values()) == pytest.approx(100, abs=0.1)


def test_the_seeded_set_never_changes_and_is_the_same_for_all_workloads():
    proteins = fidelity_proteins("short")
    assert proteins == fidelity_proteins("full")
    assert len({residues for _, residues in proteins}) == 64
    assert [len(residues) for _, residues in proteins] == FIDELITY_LENGTHS
    everything = "".join(residues for _, residues in proteins)
    assert hashlib.sha256(everything.encode()).hexdigest()[:16] == "44f3f6937ef69172"


def test_each_seeded_protein_has_a_composition_of_its_own_around_uniprots():
    proteins = [residues for _, residues in fidelity_proteins("mixed")]
    together = Counter("".join(proteins))
    for letter, percent in UNIPROT_PERCENT.items():
        assert 100 * together[letter] / together.total() == pytest.approx(percent, abs=1.5)
    leucine = [residues.count("L") / len(residues) for residues in proteins if len(residues) > 200]
    assert max(leucine) > 1.5 * min(leucine)


def test_users_proteins_are_drawn_once_each_as_many_as_the_seeded_ones():
    everything = [(f"{index}", "MK" * (1 + index % 150)) for index in range(1000)]
    drawn = sample_different(everything)
    assert drawn == sample_different(everything)
    assert len({residues for _, residues in drawn}) == len(drawn) == len(FIDELITY_LENGTHS)


def test_fewer_of_users_long_proteins_are_drawn():
    drawn = sample_different([(f"{index}", "M" * (5_000 + index)) for index in range(100)])
    assert len(drawn) == LEAST_PROTEINS


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """Loads a cell of another workload or precision, and says how often fidelity was computed."""
    monkeypatch.chdir(tmp_path)
    few = [(f"p{index}", AMINO_ACIDS[index % 20] * (1 + index)) for index in range(LEAST_PROTEINS)]
    monkeypatch.setattr("benchmarks.precision.fidelity_proteins", lambda workload: few)
    calls = itertools.count()

    def call(precision: str, workload: str):
        benchmark = Precision()
        benchmark.parameters = (MODEL, precision, workload)
        return benchmark.fidelity(Store(CPU))

    def counted(reference, other):
        next(calls)
        return fidelity(reference, other)

    monkeypatch.setattr(measured_by, "fidelity", counted)
    call.computed = lambda: next(calls)
    return call


def test_fidelity_is_measured_once_for_a_model_and_precision(cell):
    assert cell("bf16", "short") == cell("bf16", "long")
    assert cell.computed() == 1
    cell("bf16", "fasta")
    cell("fp16", "short")
    assert cell.computed() == 1 + 1 + 2  # and once for the count before


def test_fidelity_that_fails_is_paid_for_once(cell, monkeypatch):
    def broken(*_):
        raise ArithmeticError("an embedding has NaN or Inf")

    monkeypatch.setattr(measured_by, "fidelity", broken)
    with pytest.raises(ArithmeticError):
        cell("bf16", "short")
    with pytest.raises(CellFailed, match="measured once, and it failed: ArithmeticError: an embedding has NaN"):
        cell("bf16", "long")


@pytest.mark.exhaustive
def test_both_precisions_embed_the_same_proteins_as_one_pass_would():
    few = [(f"p{index}", AMINO_ACIDS[index % 20] * (1 + index)) for index in range(LEAST_PROTEINS)]
    embedder = Embedder(MODEL, "fp32", few, CPU, 1)
    found = of_results(runner(embedder.esm2, pool="residue").run(embedder.batches))
    expected = torch.stack([embedder.embeddings()[name] for name, _ in few])
    assert torch.allclose(found.pooled.float(), expected, atol=1e-5)
    assert len(found.residues) == sum(len(residues) for _, residues in few)


def rounded_to_four_bits(weight: torch.Tensor) -> torch.Tensor:
    """A GEMM's weights ``[out, in]``, symmetrically, with a scale for each output."""
    scale = weight.abs().amax(1, keepdim=True) / 7
    return (weight / scale).round() * scale


@pytest.fixture(params=sample_of(["random", "trained"], "trained"))
def measured(request, tmp_path, monkeypatch):
    """Measures the fidelity of a precision, or of FP32 with weights rounded to four bits."""
    if request.param == "trained":
        if not TRAINED:
            pytest.skip("needs a trained checkpoint of ESM-2 8M: VIRNUCPRO_TEST_TRAINED=PATH")
        (tmp_path / f"{MODEL}.pt").symlink_to(TRAINED)
        monkeypatch.setattr(program, "WEIGHTS", str(tmp_path))
    program.load.cache_clear()
    proteins = workloads.fidelity_proteins("mixed")[::2]
    fp32 = Embedder(MODEL, "fp32", proteins, CPU, 1)

    def call(precision: str) -> float:
        program.load.cache_clear()
        other = Embedder(MODEL, "fp32" if precision == "four bits" else precision, proteins, CPU, 1)
        if precision == "four bits":
            for name, weight in other.esm2.named_parameters():
                if "layers." in name and weight.ndim == 2:
                    weight.copy_(rounded_to_four_bits(weight))
        return compare(fp32, other, proteins).samples[FIGURE][0]

    yield call
    program.load.cache_clear()


@pytest.mark.slow
def test_bf16_is_faithful_and_weights_of_four_bits_are_not(measured):
    assert measured("bf16") < FAITHFUL < measured("four bits")
