"""The outcome of a cell: shared, paid for once, never a half-written one, and never another cell's."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.suite.outcomes import NOTES, CellFailed, Measurement, Outcome, shared_value


@pytest.fixture
def outcome(tmp_path):
    """The outcome of one cell as each of its processes finds it."""
    return lambda *name: Outcome(tmp_path, *(name or ("Throughput", "m", "fp32", "mixed")))


def test_the_first_process_measures_and_the_others_read(outcome):
    first, second = outcome(), outcome()
    assert first.acquire()
    first.record(Measurement({"runtime": [1.0, 2.0]}))
    assert not second.acquire()
    assert second.result("runtime") == {"samples": [1.0, 2.0], "number": 1}


NAMES = st.lists(st.text(st.characters(), max_size=300) | st.sampled_from(["m.1", "m.2", "a/b", "..", "a-b", ""]))


@given(NAMES, NAMES)
def test_cells_never_share_an_outcome(one, other):
    assume(one != other)
    with tempfile.TemporaryDirectory() as folder:
        assert Outcome(Path(folder), *one).acquire()
        assert Outcome(Path(folder), *other).acquire()


@pytest.mark.parametrize(
    "one, other",
    [
        (("m.1", "fp16"), ("m.1", "fp32")),  # a suffix would begin at the last dot
        (("a-b", "c"), ("a", "b-c")),
        (("a/b", "c"), ("a", "b/c")),
        (("M",), ("m",)),  # one file on some file systems
        (("m" * 300 + "1",), ("m" * 300 + "2",)),  # longer than a file name may be
    ],
)
def test_what_a_parameter_contains_does_not_confuse_cells(outcome, tmp_path, one, other):
    assert outcome(*one).acquire()
    outcome(*one).record(Measurement({"runtime": [1.0]}))
    assert outcome(*other).acquire()
    assert len({path.name.lower() for path in tmp_path.iterdir()}) == 2


def test_a_failure_is_paid_for_once_and_told_to_the_others(outcome):
    first = outcome()
    assert first.acquire()
    with pytest.raises(ZeroDivisionError), first.recording_failure():
        raise ZeroDivisionError("by zero")
    with pytest.raises(CellFailed, match="ZeroDivisionError: by zero"):
        outcome().acquire()


def test_a_process_that_died_is_not_tried_again(outcome):
    assert outcome().acquire()  # and is killed here
    with pytest.raises(CellFailed, match=r"died before it was done .*out of memory\?"):
        outcome().acquire()


def test_a_cell_that_is_released_is_measured_by_the_next_process(outcome):
    first = outcome()
    assert first.acquire()
    with pytest.raises(ValueError, match="broken"), first.recording_failure():
        raise ValueError("broken")
    first.release()
    assert outcome().acquire()


def test_a_kernel_that_pytorch_lacks_is_a_failure_not_a_skip(outcome):
    cell = outcome()
    assert cell.acquire()
    with pytest.raises(CellFailed, match="not implemented for 'Half'"), cell.recording_failure():
        raise NotImplementedError("addmm not implemented for 'Half'")


def test_rounds_that_would_repeat_samples_are_refused(outcome):
    cell = outcome()
    cell.acquire()
    cell.record(Measurement({"runtime": [1.0], "runtime.2": [2.0]}))
    cell.result("runtime")
    cell.result("runtime.2")
    with pytest.raises(CellFailed, match="rounds"):
        cell.result("runtime")


def test_notes_are_printed_once_for_the_plugin(outcome, capsys):
    cell = outcome()
    cell.acquire()
    cell.record(Measurement({"runtime": [1.0], "memory": [2.0]}, {"weights": "random"}))
    cell.result("runtime")
    line = capsys.readouterr().out.strip()
    assert json.loads(line.removeprefix(NOTES)) == {"weights": "random"}
    cell.result("memory")
    assert capsys.readouterr().out == ""


def test_a_number_that_several_cells_need_is_computed_once(tmp_path):
    numbers = iter([{"mixed": 3.0, "short": 1.0}, {"mixed": 4.0}])

    def number(precision: str, workload: str) -> float:
        return shared_value(tmp_path, ("peak", "m.1", precision), workload, lambda: next(numbers))

    assert number("fp32", "mixed") == 3.0
    assert number("fp32", "mixed") == 3.0
    assert number("fp32", "short") == 1.0
    assert number("fp16", "mixed") == 4.0


def test_a_figure_that_is_not_available_is_nan_with_the_reason_as_asv_prints_it(outcome, capsys):
    cell = outcome()
    cell.acquire()
    cell.record(Measurement({"runtime": [1.0]}, {"weights": "random"}, {"memory": "this system doesn't tell"}))
    assert math.isnan(cell.result("memory"))
    assert capsys.readouterr().out.strip() == ("""asv: skipped: NotImplementedError("this system doesn't tell")""")
    assert cell.result("runtime")["samples"] == [1.0]
    assert NOTES in capsys.readouterr().out  # which the plugin would not find beside a reason


def test_measurements_are_joined():
    one, other = Measurement({"a": [1.0]}, {"x": 1}, {"b": "why"}), Measurement({"c": [2.0]}, {"y": 2})
    assert one | other == Measurement({"a": [1.0], "c": [2.0]}, {"x": 1, "y": 2}, {"b": "why"})
