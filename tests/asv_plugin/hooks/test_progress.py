"""A line for each cell that was measured, with the seconds that it took."""

from types import SimpleNamespace

import pytest
from asv import runner

from asv_plugin.hooks import progress

BENCHMARK = {"params": [["'fp32'", "'fp16'"], ["'short'", "'mixed'"]]}


@pytest.fixture
def said(monkeypatch):
    """What is printed of a cell whose process ended in no time, with this output and exit code."""
    lines: list[str] = []

    def call(output: str | None, code: int = 0, seconds: float = 0.0) -> list[str]:
        result = SimpleNamespace(stderr=output, errcode=code)
        clock = iter([0.0, seconds])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(
            runner, "_run_benchmark_single_param", lambda benchmark, spawner, param_idx, *others: result
        )
        monkeypatch.setattr(progress.log, "info", lines.append)
        progress.install()
        assert runner._run_benchmark_single_param(BENCHMARK, None, 3) is result
        return lines

    return call


def test_a_measured_cell_is_printed(said):
    assert said("", seconds=4.4) == ["fp16, mixed: measured in 4 s"]


def test_a_cell_that_anothers_process_measured_is_printed_with_its_own_seconds(said):
    assert said('virnucpro-cell {"seconds": 2.6}', seconds=0.1) == ["fp16, mixed: measured in 3 s"]


def test_the_process_of_several_cells_is_printed_with_the_seconds_of_its_own(said):
    assert said('virnucpro-cell {"seconds": 2.6}', seconds=9.0) == ["fp16, mixed: measured in 3 s"]


def test_a_failed_cell_is_printed(said):
    assert said("ValueError: broken", code=1, seconds=5.0) == ["fp16, mixed: failed after 5 s"]


def test_a_skipped_cell_and_a_metric_that_was_read_are_not(said):
    assert said(None, seconds=0.2) == []
