"""Whether two commits' embeddings differ by more than rounding, and what a record says of it."""

import json
import math

import pytest

from asv_plugin import notes
from asv_plugin.answer.page import collect, render
from asv_plugin.answer.records import BENCHMARKS, records
from asv_plugin.compare import outputs as left
from asv_plugin.compare.exit_code import Code, exit_code
from asv_plugin.compare.outputs import Outputs
from asv_plugin.compare.verdict import CHANGED, Comparison
from asv_plugin.hooks.compare import changed_embeddings
from asv_plugin.outputs import FINGERPRINT, Output, difference, history
from benchmarks.measure import outputs as measured
from tests import made_up

ROWS = [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]  # distances 3, 4 and 5


def output(rows: object = ROWS, of: object = "m in INT8", bound: object = 0.1) -> dict:
    return {"of": of, "bound": bound, "rows": rows}


def apart(base: list, head: list) -> float:
    outputs = Output.read(output(base)), Output.read(output(head))
    assert outputs[0] and outputs[1]
    return difference(*outputs).moved


def test_the_difference_is_the_largest_move_over_the_median_distance():
    assert apart(ROWS, ROWS) == 0
    assert apart(ROWS, [[0.0, 0.1], [3.0, 0.0], [0.2, 4.0]]) == pytest.approx(0.2 / 4)


@pytest.mark.parametrize("head", [ROWS[:2], [[0.0], [3.0], [0.0]]])
def test_other_shapes_are_a_change(head):
    assert apart(ROWS, head) == math.inf


def test_a_difference_that_is_no_number_is_a_change():
    found = difference(*(Output.read(output(rows)) for rows in (ROWS, [[math.nan, 0.0], *ROWS[1:]])))
    assert found.is_change


@pytest.mark.parametrize(
    "content",
    [
        *(None, [], "x", {}, output(None), output("rows"), output([1.0, 2.0]), output([[1.0], [1.0, 2.0]])),
        *(output([["a"], ["b"]]), output([[{}], [{}]]), output(of=3), output(of="<b>"), output(of="\x1b[31m")),
        *(output(bound="0.1"), output(bound=None), output(ROWS[:1])),
    ],
)
def test_what_is_no_output_is_none(content):
    assert Output.read(content) is None


@pytest.mark.parametrize(
    "verdicts, options, code",
    [
        ((CHANGED, "better"), {}, Code.CHANGED),
        ((CHANGED, "worse"), {}, Code.CHANGED),
        ((CHANGED, "failed"), {}, Code.FAILED),
        ((CHANGED, "worse"), {"allow_changed": True}, Code.WORSE),
        ((CHANGED, "unchanged"), {"allow_changed": True}, Code.FINE),
        ((CHANGED, "inconclusive"), {"strict": True}, Code.CHANGED),
    ],
)
def test_changed_embeddings_decide_after_failures_and_before_what_is_worse(verdicts, options, code):
    assert exit_code([Comparison("cell", verdict) for verdict in verdicts], **options) == code


def sides(base: dict, head: dict | None) -> Outputs:
    """What is found where both sides leave a file."""
    outputs = Outputs()
    for side, content in (("BASE", base), ("HEAD", head)):
        if content is not None:
            (outputs.root / side / "m-int8.json").write_text(json.dumps(content))
    outputs.close()
    assert not outputs.root.exists()
    return outputs


@pytest.mark.parametrize(
    "base, head, verdict",
    [
        (output(), output([[0.0, 1.0], *ROWS[1:]]), CHANGED),
        (output(), {"of": "m in INT8", "failed": "ValueError: x"}, "failed"),
        ({"of": "m in INT8", "failed": "ValueError: x"}, output(), "new"),
        ({"of": "m in INT8", "skipped": "no disk"}, {"of": "m in INT8", "skipped": "no disk"}, "not measured"),
    ],
)
def test_what_cannot_be_compared_or_differs_is_said(base, head, verdict):
    (found,) = sides(base, head).comparisons
    assert (found.cell, found.verdict) == ("embeddings of m in INT8", verdict)


@pytest.mark.parametrize("head", [output(), output([[0.0, 0.3], *ROWS[1:]]), None])
def test_rounding_and_a_side_that_measured_nothing_get_no_verdict(head):
    assert sides(output(), head).comparisons == []


def test_both_floors_use_the_same_names():
    assert (left.FOLDER, FINGERPRINT) == (measured.FOLDER, measured.FINGERPRINT)


def noted(rows: list, of: str = "m in INT8") -> notes.Notes:
    return {"a benchmark(m, int8, w)": {FINGERPRINT: output(rows, of)}}


def test_each_commit_is_compared_with_the_last_one_that_has_a_fingerprint_of_the_same():
    moved = [[0.0, 2.0], *ROWS[1:]]
    commits = [noted(ROWS), {}, noted(moved, "m in FP32"), noted(moved), noted(moved), {"a": {FINGERPRINT: 3}}]
    assert [[each.of for each in found] for found in history(commits)] == [[], [], [], ["m in INT8"], [], []]


@pytest.fixture
def recorded(tmp_path):
    """Records of two commits with these fingerprints, None for none, in a folder."""

    def record(*fingerprints: list | None):
        known = {
            name: {"name": name, "version": "1", "param_names": ["model", "precision", "workload"]}
            | {"params": [["'m'"], ["'fp32'", "'int8'"], ["'w'"]]}
            for name in BENCHMARKS.values()
        }
        made_up.machine(tmp_path, "a-machine", known)
        for number, rows in enumerate(fingerprints):
            cells = {("m", precision, "w"): {"tokens/s": 1.0} for precision in ("fp32", "int8")}
            path = notes.notes_path(made_up.record(tmp_path, "a-machine", f"{number}" * 40, number, cells, known))
            about = notes.read(path)
            if rows is not None:
                about[notes.key(BENCHMARKS["tokens/s"], ("m", "int8", "w"))][FINGERPRINT] = output(rows)
                path.write_text(json.dumps(about))
        return tmp_path

    return record


def test_the_page_marks_a_commit_whose_embeddings_changed(recorded):
    results = recorded(ROWS, [[0.0, 2.0], *ROWS[1:]])
    newest, oldest = records(results, "a-machine")
    assert newest.changed == ["m in INT8: moved by 0.5 of the distance between proteins; rounding explains 0.1"]
    assert oldest.changed == []
    page = render("VirNucPro", collect(results))
    assert '"changed":["m in INT8: moved by 0.5' in page


@pytest.mark.parametrize("fingerprints", [(None, None), (ROWS, ROWS)])
def test_a_page_without_changes_marks_no_commit(recorded, fingerprints):
    assert '"changed":' not in render("VirNucPro", collect(recorded(*fingerprints)))


def test_asv_compare_prints_what_changed(recorded):
    results = recorded(ROWS, [[0.0, 2.0], *ROWS[1:]])
    said = "Changed embeddings on a-machine: m in INT8, moved by 0.5 of the distance between proteins; "
    commits = ("0" * 40, "1" * 40)
    assert list(changed_embeddings(results, commits, "a-machine")) == [f"{said}rounding explains 0.1"]
    assert list(changed_embeddings(results, commits, None)) == [f"{said}rounding explains 0.1"]
    assert list(changed_embeddings(results, ("0" * 40, "0" * 40), None)) == []
    assert list(changed_embeddings(results, commits, "a-machine", ["another"])) == []
