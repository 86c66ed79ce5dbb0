"""What is read of the suite that asv recorded."""

import json

import pytest

from asv_plugin import notes
from asv_plugin.answer.records import (
    AGAINST_FP32,
    BENCHMARKS,
    FIDELITY,
    MASSIVE,
    MASSIVE_NOTE,
    Recorded,
    read_suite,
    records,
)
from benchmarks.measure import fidelity_massive
from tests import made_up


def benchmark(version: str, precisions: list[str]) -> dict:
    quoted = [repr(name) for name in precisions]
    return {
        "version": version,
        "param_names": ["model", "precision", "workload"],
        "params": [["'m'"], quoted, ["'w'"]],
    }


def test_precisions_are_in_the_order_of_the_benchmarks_params(tmp_path):
    entries = {name: benchmark("1", ["bf16", "int8"]) for name in BENCHMARKS.values()}
    entries[BENCHMARKS["tokens/s"]] = benchmark("2", ["fp32", "tf32", "int8", "bf16"])
    (tmp_path / "benchmarks.json").write_text(json.dumps(entries | {"version": 2}))
    suite = read_suite(tmp_path)
    assert suite.precisions == ("fp32", "tf32", "int8", "bf16")
    assert suite.versions[BENCHMARKS["tokens/s"]] == "2"


@pytest.mark.parametrize("content", [None, "[]", "{", '{"a": {}}'])
def test_a_record_without_a_readable_suite_has_no_order_and_no_versions(tmp_path, content):
    if content is not None:
        (tmp_path / "benchmarks.json").write_text(content)
    assert read_suite(tmp_path) == Recorded()


def test_the_error_with_a_massive_channel_is_read_from_the_notes_of_the_cells_that_have_it(tmp_path):
    known = {name: benchmark("1", ["fp32", "bf16", "int8"]) | {"name": name} for name in BENCHMARKS.values()}
    known = {name: entry | {"params": [["'m'"], entry["params"][1], ["'w'"]]} for name, entry in known.items()}
    made_up.machine(tmp_path, "a-machine", known)
    cells = {("m", precision, "w"): {FIDELITY: 0.01} for precision in ("bf16", "int8")}
    path = made_up.record(tmp_path, "a-machine", "0" * 40, 1, cells, known)
    about = notes.read(notes.notes_path(path))
    name = notes.key(AGAINST_FP32[FIDELITY], ("m", "int8", "w"))
    about[name] = {"device": "a chip", MASSIVE_NOTE: {"error_over_distance": 0.0147}}
    notes.notes_path(path).write_text(json.dumps(about))
    (record,) = records(tmp_path, "a-machine")
    assert {cell: value.median for cell, value in record.values[MASSIVE].items()} == {("m", "int8", "w"): 0.0147}


def test_benchmarks_note_it_by_the_same_name():
    assert fidelity_massive.NOTE == MASSIVE_NOTE


def test_a_record_from_before_a_workload_joined_is_read_beside_one_that_has_it(tmp_path):
    before = {name: benchmark("1", ["fp32"]) | {"name": name} for name in BENCHMARKS.values()}
    after = {name: {**entry, "params": [*entry["params"][:2], ["'w'", "'x'"]]} for name, entry in before.items()}
    cells = {("m", "fp32", workload): {"tokens/s": 9.0} for workload in "wx"}
    for date, known in enumerate([before, after]):
        made_up.machine(tmp_path, "a-machine", known)
        made_up.record(tmp_path, "a-machine", f"{date}" * 40, date, cells, known)
    newer, older = (each.values["tokens/s"] for each in records(tmp_path, "a-machine"))
    assert (list(older), list(newer)) == ([("m", "fp32", "w")], [("m", "fp32", "w"), ("m", "fp32", "x")])
