"""Windows of long proteins: where they are, and what each residue takes of each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.data.windows import Window
from virnucpro.errors import ArgumentError

WINDOWS = st.integers(1, 40).flatmap(lambda size: st.builds(Window, st.just(size), st.integers(0, size - 1)))


@given(WINDOWS, st.integers(1, 300))
def test_windows_have_one_size_overlap_and_end_where_the_protein_does(window, residues):
    starts = [start for start, _ in window.of(residues)]
    assert len(starts) == window.count(residues)
    if residues <= window.size:
        assert starts == [0]
        return
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] + window.size == residues
    assert (steps[:-1] == window.size - window.overlap).all() and 0 < steps[-1] <= window.size - window.overlap


@given(WINDOWS, st.integers(1, 300))
def test_the_weights_of_a_residue_sum_to_one(window, residues):
    total = np.zeros(residues)
    for start, weights in window.of(residues):
        total[start : start + window.size] += 1 if weights is None else weights
    assert np.abs(total - 1).max() < 1e-6


def test_weights_rise_evenly_over_the_overlap():
    (_, first), (start, second) = Window(6, 3).of(9)
    assert start == 3 and first[:3].tolist() == second[3:].tolist() == [1, 1, 1]
    assert first[3:].tolist() == second[:3][::-1].tolist() == [0.75, 0.5, 0.25]


@pytest.mark.parametrize("text", ["window:1022:256", "window:5:0"])
def test_it_is_written_as_it_is_read(text):
    assert str(Window.parse(text)) == text


@pytest.mark.parametrize(
    "text, said",
    [
        ("window:10:10", "windows of 10 residues overlap by 0 to 9"),
        ("window:0:0", "at least 1 residue"),
        *((text, "write window:SIZE:OVERLAP") for text in ("window:10", "10:5", "window:-1:0", "window:1:0x", "")),
    ],
)
def test_what_is_no_window_is_refused_with_the_form(text, said):
    with pytest.raises(ArgumentError, match=said):
        Window.parse(text)
