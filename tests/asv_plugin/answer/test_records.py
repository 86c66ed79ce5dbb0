"""What is read of the suite that asv recorded."""

import json

import pytest

from asv_plugin.answer.records import BENCHMARKS, Suite, read_suite


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
    assert read_suite(tmp_path) == Suite()
