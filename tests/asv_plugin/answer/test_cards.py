"""What the Precision page's script is given: numbers in one unit, and commits that made cells slower or larger."""

import pytest

from asv_plugin import notes
from asv_plugin.answer.cards import card
from asv_plugin.answer.numbers import number_in, unit_of
from asv_plugin.answer.records import BENCHMARKS, FIDELITY, Record, Value
from asv_plugin.answer.steps import Step, steps
from asv_plugin.answer.summary import summarize
from asv_plugin.rules import Rule

MODEL = "esm2_t6_8M_UR50D"
SPEED, MEMORY = BENCHMARKS["tokens/s"], BENCHMARKS["peak memory"]
RULES = {
    SPEED: Rule(higher_is_better=True, factor=1.05, factor_without_gpu=1.3),
    MEMORY: Rule(factor=1.02, factor_without_gpu=1.12),
}


def record(commit: str = "0" * 40, about: notes.Notes | None = None, **values: dict[str, Value]) -> Record:
    """A record of `mixed`: metric to precision to value."""
    named = {
        metric.replace("_", " "): {(MODEL, precision, "mixed"): value for precision, value in found.items()}
        for metric, found in values.items()
    }
    return Record("a machine", commit, values=named, notes=about or {}, precisions=("fp32", "bf16"))


def rows(one: Record) -> dict[str, list]:
    (table,) = summarize(one).tables
    return {name: rest for name, *rest in card(one, table, [])["rows"]}


def test_all_numbers_of_a_row_have_the_unit_of_the_largest():
    memory = rows(record(peak_memory={"fp32": Value(3 * 2.0**30), "bf16": Value(0.5 * 2.0**30)}))["peak memory"]
    assert memory == ["GiB", ["3.00", "0.50"], [], ["", "6.00x"]]
    runtime = rows(record(total_runtime={"fp32": Value(1.5), "bf16": Value(0.0123)}))["total runtime"]
    assert runtime[:2] == ["s", ["1.5", "0.0123"]]


def test_a_wide_spread_and_a_speed_that_did_not_settle_are_marked():
    about = {notes.key(SPEED, (MODEL, "bf16", "mixed")): {"device": "a chip", "settled": False}}
    one = record(about=about, **{"tokens/s": {"fp32": Value(8_000, 80, 7), "bf16": Value(9_000, 900, 7)}})
    assert rows(one)["tokens/s"] == ["", ["8.00k", "9.00k!~"], [1, 10], ["", "1.12x"]]


@pytest.mark.parametrize("error, written", [(0.0501, "5.1"), (0.05, "5.0"), (0.00001, "0.1")])
def test_no_error_looks_smaller_than_it_is(error, written):
    assert number_in(FIDELITY, error, unit_of(FIDELITY, error)[1]) == written


def test_the_advice_is_one_sentence_and_the_rest_stands_apart():
    one = record(**{"tokens/s": {"bf16": Value(9_000)}})
    (table,) = summarize(one).tables
    found = card(one, table, [Step("tokens/s", "bf16", 0.5, "1" * 40)])
    assert found["advice"] == "No advice: FP32, which the others are judged against, has no result."
    assert found["more"] == "Not judged, for want of a fidelity or of FP32's speed: BF16."
    assert found["worse"] == [["tokens/s", "bf16", "0.50", "11111111"]]


def history(speeds: list[float | None], memory: list[float], has_gpu: bool = True) -> list[list[tuple]]:
    """The steps of commits, oldest first."""
    commits = [
        record(
            f"{at}" * 40,
            peak_memory={"bf16": Value(size)},
            **{"tokens/s": {"bf16": Value(speed)} if speed else {}},
        )
        for at, (speed, size) in enumerate(zip(speeds, memory, strict=True))
    ]
    found = steps(commits[::-1], RULES, has_gpu)[::-1]
    return [[(s.metric, round(s.times, 3), s.since[0]) for s in each.get((MODEL, "mixed"), [])] for each in found]


def test_a_commit_is_slower_by_more_than_a_change_and_is_compared_with_the_last_that_has_the_cell():
    assert history([100, 96, None, 90], [1] * 4) == [[], [], [], [("tokens/s", 0.938, "1")]]


def test_more_memory_is_a_step_and_less_is_none():
    assert history([1] * 4, [100, 101, 104, 50]) == [[], [], [("peak memory", 1.03, "1")], []]


def test_without_a_gpu_a_step_is_as_large_as_on_the_regressions_page():
    assert history([100, 80, 60], [1] * 3, has_gpu=False) == [[], [], [("tokens/s", 0.75, "1")]]


def test_a_suite_without_rules_has_no_steps():
    one = record(peak_memory={"bf16": Value(2.0)})
    assert steps([one, record(peak_memory={"bf16": Value(1.0)})], {}, True) == [{}, {}]
