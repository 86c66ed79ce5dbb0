"""Why a cell has no value, read from what asv kept of its output."""

import math
from types import SimpleNamespace

import pytest
from asv.results import Results, iter_results

from asv_plugin.answer.summary import REPEATS
from asv_plugin.hooks import notes as hook
from asv_plugin.hooks import selection
from asv_plugin.notes import MEASURED, Notes, key, notes_of, notes_path, read, read_output
from benchmarks.suite import cell as suite_cell
from benchmarks.suite import outcomes

OUTPUT = """For parameters: 'esm2', 'tf32', 'short'
asv: skipped: NotImplementedError('TF32 is a mode of NVIDIA GPUs')

For parameters: 'esm2', 'fp32', 'short'
virnucpro-cell {"params": ["esm2", "fp32", "short"], "weights": "random"}

For parameters: 'esm2', 'fp16', 'short'
Traceback (most recent call last):
  File "x.py", line 1, in <module>
benchmarks.suite.outcomes.CellFailed: measured once, and it failed: ValueError: no such file"""


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


def test_a_benchmark_without_parameters_gets_its_note_too():
    said = "asv: skipped: NotImplementedError('no GPU')"
    found = notes_of({"name": "t.track", "params": []}, result([math.nan], said))
    assert found == {key("t.track", ()): {"skipped": "no GPU"}}


def test_a_measured_cell_that_lacks_one_figure_keeps_its_notes_and_the_reason():
    skipped = "asv: skipped: NotImplementedError('no peak memory on this system')"
    said = f'{skipped}\n{MEASURED}{{"device": "a CPU"}}'
    assert read_output(said) == {"device": "a CPU", "skipped": "no peak memory on this system"}


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


def test_a_failure_before_any_cell_has_its_own_words():
    said = (
        "asv: setup_cache failed\n\nTraceback (most recent call last):\nPackageNotFoundError: No package fair-esm"
    )
    found = notes_of(BENCHMARK, result([None] * 3, said, errcode=1))
    assert found == {"t.T.track": {"failed": "PackageNotFoundError: No package fair-esm"}}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Record runs of the benchmark's cells `selected` one after the other in one result file; the notes left."""
    monkeypatch.setattr(Results, "add_result", Results.add_result)
    monkeypatch.setattr(Results, "save", Results.save)
    monkeypatch.setattr(Results, "rm", Results.rm)
    hook.install()

    def record(outcome: SimpleNamespace, selected: set[int] | None = None) -> Notes:
        kept = Results({"machine": "m"}, {}, "c" * 40, 0, "3.11", "env", {})
        kept.load_data(str(tmp_path))
        benchmark = BENCHMARK | {"version": "1"}
        outcome = SimpleNamespace(samples=[None] * 3, number=[None] * 3, profile=None, **vars(outcome))
        kept.add_result(benchmark, outcome, selected_idx=selected)
        kept.save(str(tmp_path))
        return read(notes_path(tmp_path / kept._filename))

    return record


def test_what_an_earlier_run_said_of_a_cell_is_dropped_and_of_other_cells_kept(saved):
    first = saved(result([1.0, math.nan, None], OUTPUT, errcode=1))
    assert set(first) == {cell("fp32"), cell("tf32"), cell("fp16")}
    second = saved(result([math.nan, math.nan, 2.0]), selected={2})
    assert set(second) == {cell("fp32"), cell("tf32")}


def test_a_run_that_has_notes_itself_keeps_those_of_other_cells(saved):
    first = saved(result([1.0, math.nan, None], OUTPUT, errcode=1))
    second = saved(result([math.nan, math.nan, None], OUTPUT, errcode=1), selected={2})
    assert set(second) == {cell("fp32"), cell("tf32"), cell("fp16")}
    assert second[cell("fp32")] == first[cell("fp32")]


def test_a_build_that_failed_once_is_forgotten_when_it_works(saved):
    assert set(saved(result([None] * 3, errcode=1))) == {"t.T.track"}
    assert saved(result([1.0, 1.0, 1.0])) == {}


def test_a_removed_result_leaves_no_notes(saved, tmp_path):
    saved(result([1.0, math.nan, None], OUTPUT, errcode=1))
    (machine := tmp_path / "m/machine.json").write_text('{"machine": "m", "version": 1}')
    (kept,) = iter_results(str(tmp_path))
    kept.rm(str(tmp_path))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [machine]


def test_a_process_killed_after_a_warning_is_a_failure():
    said = "For parameters: 'esm2', 'fp16', 'short'\nUserWarning: be careful"
    found = notes_of(BENCHMARK, result([1.0, math.nan, None], said, errcode=-9))
    assert found[cell("fp16")]["failed"].endswith("it last said: UserWarning: be careful")


def test_the_plugin_knows_the_words_that_cells_use(tmp_path, monkeypatch):
    # written twice, because the suite's modules import PyTorch
    assert (MEASURED, selection.VARIABLE) == (outcomes.NOTES, suite_cell.REQUESTED)
    monkeypatch.chdir(tmp_path)
    for failure in (None, ValueError("broken")):
        first = outcomes.Outcome(tmp_path, "died" if failure is None else "failed")
        first.acquire()
        if failure:
            with pytest.raises(ValueError, match="broken"), first.recording_failure():
                raise failure
        with pytest.raises(outcomes.CellFailed) as caught:
            first.acquire()
        assert f"CellFailed: {caught.value}".startswith(REPEATS)
