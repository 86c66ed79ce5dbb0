"""Of a benchmark's table only the rows that asv was asked for are printed."""

import json
import math

import pytest
from asv import results
from asv.benchmarks import Benchmarks

from asv_plugin.hooks import selection

BENCHMARK = {
    "name": "throughput.Throughput.track_speed",
    "params": [["'fp32'", "'fp16'"], ["'short'", "'mixed'"]],
    "param_names": ["precision", "workload"],
    "unit": "tokens/s",
}
VALUES = [(1.0, None), (math.nan, None), (20.5, 0.5), (None, None)]


@pytest.fixture
def printed(monkeypatch):
    """The lines of the benchmark's table where these cells were asked for."""
    monkeypatch.setattr(results, "_format_benchmark_result", results._format_benchmark_result)
    monkeypatch.setattr(Benchmarks, "discover", Benchmarks.discover)
    plain = results._format_benchmark_result(VALUES, BENCHMARK)
    selection.install()

    def lines(*cells: tuple[str, ...]) -> list[str]:
        monkeypatch.setenv(selection.VARIABLE, json.dumps([["Throughput", *cell] for cell in cells]))
        return results._format_benchmark_result(VALUES, BENCHMARK)

    return lines, plain


def test_only_the_cells_that_were_asked_for_have_a_row(printed):
    lines, _ = printed
    assert lines(("fp16", "short"), ("fp32", "mixed")) == [
        "fp32, mixed: n/a",
        "fp16, short: 20.5±0.5",
    ]


def test_a_cell_that_failed_says_so(printed):
    lines, _ = printed
    assert lines(("fp16", "mixed")) == ["fp16, mixed: failed"]


def test_asvs_own_table_is_printed_where_all_cells_were_asked_for(printed):
    lines, plain = printed
    assert lines(("fp32", "short"), ("fp32", "mixed"), ("fp16", "short"), ("fp16", "mixed")) == plain


def test_asvs_own_table_is_printed_where_nothing_is_known(printed):
    lines, plain = printed
    assert lines() == plain
