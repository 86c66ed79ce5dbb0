"""The verdict of paired rounds."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asv_plugin.compare.verdict import (
    STUDENT,
    Pair,
    Reading,
    compare,
    half_width,
    is_decided,
    pairs_to_decide,
    student,
)
from asv_plugin.rules import Rule, with_factor

SPEED, SECONDS = Rule(higher_is_better=True, factor=1.05), Rule(factor=1.05)


RAISED, SKIPPED, CRASHED = Reading(reason="ValueError"), Reading(reason="no GPU", skipped=True), Reading(reason="")


def pair(base: float | Reading, head: float | Reading) -> Pair:
    """A pair of values, or of outcomes without one."""
    return Pair(*(side if isinstance(side, Reading) else Reading(side) for side in (base, head)))


def rounds(ratio: float, noise: float = 0.01, drift: float = 0.2, count: int = 5, seed: int = 0):
    """Pairs on a machine that gets slower by `drift` each round and differs by `noise` from process to process."""
    rng = random.Random(seed)
    for number in range(count):
        base = 1000 / (1 + drift * number)
        yield pair(base * rng.gauss(1, noise), base * ratio * rng.gauss(1, noise))


@pytest.mark.parametrize(
    "rule, ratio, verdict",
    [
        (SPEED, 0.8, "worse"),
        (SPEED, 1.2, "better"),
        (SECONDS, 0.8, "better"),
        (SECONDS, 1.2, "worse"),
        (SPEED, 1.0, "unchanged"),
    ],
)
def test_the_verdict_follows_the_benchmarks_direction_through_drift(rule, ratio, verdict):
    found = compare("cell", list(rounds(ratio)), rule)
    assert found.verdict == verdict
    assert found.low < ratio < found.high
    assert found.estimate == pytest.approx(ratio, rel=0.02)


def test_a_change_below_the_benchmarks_factor_is_none():
    assert compare("cell", list(rounds(0.97, noise=0.0001)), SPEED).verdict == "unchanged"
    assert compare("cell", list(rounds(0.97, noise=0.0001)), Rule(True, 1.02)).verdict == "worse"


def test_a_factor_of_the_command_line_replaces_the_benchmarks_own():
    assert compare("cell", list(rounds(0.97, noise=0.0001)), with_factor(SPEED, 1.02)).verdict == "worse"
    assert with_factor(Rule(difference=0.0005), 1.02) == Rule(difference=0.0005)


def test_a_large_difference_within_the_noise_is_inconclusive():
    found = compare("cell", [pair(100, 60), pair(100, 150), pair(100, 80)], SPEED)
    assert found.verdict == "inconclusive"
    assert found.low < 1 < found.high


def test_an_interval_that_reaches_beyond_the_threshold_is_inconclusive_and_one_within_it_unchanged():
    wide, narrow = (compare("cell", list(rounds(1.0, noise=noise)), SPEED) for noise in (0.05, 0.005))
    assert (wide.verdict, narrow.verdict) == ("inconclusive", "unchanged")
    assert wide.high - wide.low > 0.1 > narrow.high - narrow.low


def test_same_against_same_is_rarely_called_changed():
    called = [compare("cell", list(rounds(1.0, noise=0.05, seed=seed)), SPEED).verdict for seed in range(400)]
    assert called.count("unchanged") + called.count("inconclusive") >= 0.95 * len(called)


def test_ten_per_cent_is_seen_in_five_rounds_that_differ_by_two_per_cent():
    called = [compare("cell", list(rounds(0.9, noise=0.02, seed=seed)), SPEED).verdict for seed in range(200)]
    assert called.count("worse") >= 0.9 * len(called)


def test_blocks_measured_in_turn_are_compared_with_their_neighbours():
    machine = [
        1.0,
        0.9,
        0.5,
        0.2,
        0.7,
        1.1,
        1.3,
    ]  # its speed in each pair of blocks; the fourth is disturbed in between
    measured = Pair.of_blocks(
        [100 * speed for speed in machine],
        [90 * speed for speed in machine[:3]] + [5.0] + [90 * speed for speed in machine[4:]],
    )
    assert measured.ratio == pytest.approx(0.9)
    assert compare("cell", [measured] * 2, SPEED).estimate == pytest.approx(0.9)


def test_equal_medians_of_blocks_are_not_taken_for_an_equal_ratio():
    measured = Pair.of_blocks([2.0, 1.0, 3.0], [3.0, 2.0, 1.0])
    assert compare("cell", [measured] * 2, SPEED).estimate == pytest.approx(1.5)


FIDELITY = Rule(higher_is_better=True, difference=0.0005)


@pytest.mark.parametrize(
    "base, head, verdict",
    [(0.9999, 0.99, "worse"), (0.9999, 0.9998, "unchanged"), (0.99, 0.9999, "better"), (0.0, 0.0, "unchanged")],
)
def test_an_absolute_threshold_judges_the_difference(base, head, verdict):
    found = compare("cell", [pair(base, head)] * 3, FIDELITY)
    assert (found.verdict, found.scale) == (verdict, "difference")
    assert found.estimate == found.low == found.high == pytest.approx(head - base)


def test_the_interval_of_a_difference_is_students_around_its_mean():
    found = compare("cell", [pair(0, 0.0), pair(0, 0.002), pair(0, 0.004)], FIDELITY)
    assert found.estimate == pytest.approx(0.002)
    assert found.high - found.estimate == pytest.approx(4.303 * 0.002 / math.sqrt(3))
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize(
    "pairs, rule, verdict",
    [
        ([pair(0, 0)] * 2, SPEED, "unchanged"),
        ([pair(10, 0)] * 2, SPEED, "worse"),
        ([pair(10, 0)] * 2, SECONDS, "better"),
        ([pair(0, 10)] * 2, SECONDS, "worse"),
        ([pair(0, 10), pair(10, 0)], SPEED, "inconclusive"),
    ],
)
def test_a_zero_has_no_ratio_and_is_judged_by_its_direction(pairs, rule, verdict):
    found = compare("cell", pairs, rule)
    assert found.verdict == verdict
    assert math.isfinite(found.estimate or 0)


@pytest.mark.parametrize(
    "pairs, verdict",
    [
        ([pair(1, RAISED)], "failed"),
        ([pair(1, CRASHED)] * 2, "failed"),
        ([pair(1, SKIPPED)] * 2, "failed"),
        ([pair(1, 1), pair(1, RAISED), pair(1, 1), pair(1, RAISED)], "failed"),
        ([pair(1, 1)] * 3 + [pair(1, RAISED)], "unchanged"),
        ([pair(RAISED, RAISED)] * 2, "failed"),
        ([pair(SKIPPED, RAISED)] * 2, "failed"),
        ([pair(RAISED, SKIPPED)] * 2, "not measured"),
        ([pair(SKIPPED, SKIPPED)], "not measured"),
        ([pair(SKIPPED, 1)] * 2, "new"),
        ([pair(RAISED, 1)] * 2, "new"),
        ([pair(1, 1)], "inconclusive"),
        ([pair(1, 1), pair(1, RAISED)], "inconclusive"),
        ([pair(1, 1), pair(RAISED, 1), pair(1, 1)], "unchanged"),
        ([], "not measured"),
    ],
)
def test_missing_values_are_judged_by_whose_they_are(pairs, verdict):
    assert compare("cell", pairs, SPEED).verdict == verdict


@pytest.mark.parametrize(
    "pairs, decided",
    [
        ([pair(1, RAISED)], False),
        ([pair(1, RAISED)] * 2, True),
        ([pair(1, 1), pair(1, RAISED)], False),
        ([pair(SKIPPED, SKIPPED)], True),
        ([pair(SKIPPED, 1)], False),
        ([pair(SKIPPED, 1)] * 2, True),
        ([pair(RAISED, SKIPPED)] * 2, True),
        ([pair(1, 1)] * 9, False),
    ],
)
def test_a_cell_that_cannot_be_compared_is_not_measured_to_the_end(pairs, decided):
    assert is_decided(pairs) == decided


def test_the_commonest_reason_is_given_with_its_side():
    assert compare("cell", [pair(1, RAISED)] * 2, SPEED).reason == "HEAD: ValueError, in 2 of 2 pairs"
    assert compare("cell", [pair(RAISED, RAISED)] * 2, SPEED).reason == "ValueError, in 2 of 2 pairs"
    assert compare("cell", [pair(SKIPPED, SKIPPED)], SPEED).reason == "no GPU"


@given(st.floats(-0.2, 0.2), st.floats(0.001, 0.2), st.floats(0.01, 0.1))
def test_the_pairs_that_would_decide_are_the_fewest_whose_interval_is_narrow_enough(mean, deviation, threshold):
    needed = pairs_to_decide(mean, deviation, threshold)
    if needed is None:
        assert abs(abs(mean) - threshold) < deviation / 10
        return
    assert is_clear(mean, half_width(deviation, needed), threshold)
    assert needed == 2 or not is_clear(mean, half_width(deviation, needed - 1), threshold)


def is_clear(mean: float, half: float, threshold: float) -> bool:
    return half < abs(mean) if abs(mean) > threshold else abs(mean) + half < threshold


def test_more_rounds_are_those_still_missing():
    log = [0.08, -0.08] * 4
    pairs = [pair(1, math.exp(each)) for each in log]
    found = compare("cell", pairs, SECONDS, pairs_in_a_round=4)
    needed = pairs_to_decide(0.0, found.deviation, math.log(1.05))
    assert found.verdict == "inconclusive"
    assert found.more_rounds == math.ceil((needed - len(pairs)) / 4) > 0


def test_students_quantiles_fall_to_the_normal_ones():
    assert list(STUDENT) == sorted(STUDENT, reverse=True)
    assert student(1) == 12.706
    assert student(4) == 2.776
    assert student(1000) == STUDENT[-1] > 1.96
