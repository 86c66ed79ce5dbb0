"""What the verdict's rule says of changes whose size is known."""

from asv_plugin.compare.simulate import verdicts


def test_a_tenth_of_the_speed_lost_is_called_worse_with_the_default_rounds_and_the_measured_deviation():
    found = verdicts(loss=0.1, deviation=0.04, rounds=5, factor=1.05, comparisons=100)
    assert found["worse"] >= 98


def test_what_the_noise_hides_is_inconclusive_and_not_called_unchanged():
    found = verdicts(loss=0.1, deviation=0.2, rounds=2, factor=1.05, comparisons=200)
    assert found["inconclusive"] > found["worse"] > found["unchanged"]


def test_an_equal_commit_is_called_changed_in_at_most_one_of_twenty():
    found = verdicts(loss=0.0, deviation=0.1, rounds=2, factor=1.05, comparisons=400)
    assert found["worse"] + found["better"] <= 20 + 9  # two standard deviations of the count
