"""The verdict of paired rounds."""

import random

import pytest

from asv_plugin.compare.verdict import STUDENT, Pair, compare, student
from asv_plugin.rules import Rule, with_factor

SPEED, SECONDS = Rule(higher_is_better=True, factor=1.05), Rule(factor=1.05)


def rounds(ratio: float, noise: float = 0.01, drift: float = 0.2, count: int = 5, seed: int = 0):
    """Pairs on a machine that gets slower by `drift` each round and differs by `noise` from process to process."""
    rng = random.Random(seed)
    for number in range(count):
        base = 1000 / (1 + drift * number)
        yield Pair(base * rng.gauss(1, noise), base * ratio * rng.gauss(1, noise))


@pytest.mark.parametrize(
    "rule, ratio, verdict",
    [
        (SPEED, 0.8, "worse"),
        (SPEED, 1.2, "better"),
        (SECONDS, 0.8, "better"),
        (SECONDS, 1.2, "worse"),
        (SPEED, 1.0, "no change"),
    ],
)
def test_the_verdict_follows_the_benchmarks_direction_through_drift(rule, ratio, verdict):
    found = compare("cell", list(rounds(ratio)), rule)
    assert found.verdict == verdict
    assert found.low < ratio < found.high
    assert found.ratio == pytest.approx(ratio, rel=0.02)


def test_a_change_below_the_benchmarks_factor_is_none():
    assert compare("cell", list(rounds(0.97, noise=0.0001)), SPEED).verdict == "no change"
    assert compare("cell", list(rounds(0.97, noise=0.0001)), Rule(True, 1.02)).verdict == "worse"


def test_a_factor_of_the_command_line_replaces_the_benchmarks_own():
    assert compare("cell", list(rounds(0.97, noise=0.0001)), with_factor(SPEED, 1.02)).verdict == "worse"
    assert with_factor(Rule(difference=0.0005), 1.02) == Rule(difference=0.0005)


def test_a_large_difference_within_the_noise_is_no_change():
    assert compare("cell", [Pair(100, 60), Pair(100, 150), Pair(100, 80)], SPEED).verdict == "no change"


def test_same_against_same_is_rarely_called_changed():
    called = [compare("cell", list(rounds(1.0, noise=0.05, seed=seed)), SPEED).verdict for seed in range(400)]
    assert called.count("no change") >= 0.95 * len(called)


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
    pair = Pair.of_blocks(
        [100 * speed for speed in machine],
        [90 * speed for speed in machine[:3]] + [5.0] + [90 * speed for speed in machine[4:]],
    )
    assert pair.ratio == pytest.approx(0.9)
    assert compare("cell", [pair] * 2, SPEED).ratio == pytest.approx(0.9)


def test_an_absolute_difference_is_judged_by_its_size():
    fidelity = Rule(higher_is_better=True, difference=0.0005)
    assert compare("cell", [Pair(0.9999, 0.99)] * 3, fidelity).verdict == "worse"
    assert compare("cell", [Pair(0.9999, 0.9998)] * 3, fidelity).verdict == "no change"


@pytest.mark.parametrize("pairs", [[], [Pair(1.0, 2.0)], [Pair(1.0, None), Pair(2.0, 3.0)], [Pair(0.0, 1.0)] * 2])
def test_what_has_no_interval_is_not_measured(pairs):
    assert compare("cell", pairs, SPEED).verdict == "not measured"


def test_students_quantiles_fall_to_the_normal_ones():
    assert list(STUDENT) == sorted(STUDENT, reverse=True)
    assert student(1) == 12.706
    assert student(4) == 2.776
    assert student(1000) == STUDENT[-1] > 1.96
