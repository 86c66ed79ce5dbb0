"""Why a cell has no value, read from what asv kept of its output."""

import math
from types import SimpleNamespace

import pytest

from asv_plugin.notes import key, notes_of, read_output

OUTPUT = """For parameters: 'esm2', 'tf32', 'short'
asv: skipped: NotImplementedError('TF32 is a mode of NVIDIA GPUs')

For parameters: 'esm2', 'fp32', 'short'
virnucpro-cell {"params": ["esm2", "fp32", "short"], "weights": "random"}

For parameters: 'esm2', 'fp16', 'short'
Traceback (most recent call last):
  File "x.py", line 1, in <module>
benchmarks._cells.CellFailed: measured once, and it failed: ValueError: no such file"""


def cell(name: str) -> str:
    return key("t.T.track", ("esm2", name, "short"))


BENCHMARK = {"name": "t.T.track", "params": [["'esm2'"], ["'fp32'", "'tf32'", "'fp16'"], ["'short'"]]}


def result(values: list[float | None], stderr: str = "", errcode: int = 0) -> SimpleNamespace:
    return SimpleNamespace(result=values, stderr=stderr, errcode=errcode)


def test_each_cell_of_a_benchmark_gets_its_note():
    found = notes_of(BENCHMARK, result([1.0, math.nan, None], OUTPUT, errcode=1))
    assert found[cell("tf32")] == {"skipped": "TF32 is a mode of NVIDIA GPUs"}
    assert found[cell("fp32")]["weights"] == "random"
    assert found[cell("fp16")] == {"failed": "CellFailed: measured once, and it failed: ValueError: no such file"}


@pytest.mark.parametrize(
    "output, said",
    [
        (
            'asv: skipped: NotImplementedError("this commit\'s virnucpro lacks it") ',
            "this commit's virnucpro",
        ),
        ("asv: skipped: NotImplementedError('a \"quoted\" reason') ", 'a "quoted" reason'),
    ],
)
def test_a_reason_with_quotes_is_read(output, said):
    assert said in read_output(output)["skipped"]


def test_a_timeout_is_a_failure():
    assert read_output("asv: benchmark timed out (timeout 900s)") == {
        "failed": "it took longer than asv's timeout"
    }


def test_a_process_that_was_killed_is_a_failure_though_it_said_nothing():
    found = notes_of(BENCHMARK, result([1.0, math.nan, None], errcode=-9))
    assert list(found) == [cell("fp16")]
    assert "killed, or out of memory?" in found[cell("fp16")]["failed"]


def test_a_commit_that_was_not_built_has_one_note():
    found = notes_of(BENCHMARK, result([None] * 3, errcode=1))
    assert found == {"t.T.track": {"failed": "this commit could not be built or installed"}}
