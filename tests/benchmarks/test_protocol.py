"""The measurement protocol with a fake clock."""

import itertools
import os

import pytest
import torch

from benchmarks import _protocol
from benchmarks._protocol import (
    PROTOCOL,
    alternate,
    in_fresh_process,
    measure,
    peak_memory,
    reset_peak_memory,
    warm_up,
)


class FakeMachine:
    """Passes that take the seconds it is told; the timer reads its clock."""

    def __init__(self, seconds_of_a_pass):
        self.seconds = iter(seconds_of_a_pass)
        self.now = 0.0
        self.calls: list[int] = []

    def run(self, passes: int) -> None:
        self.calls.append(passes)
        self.now += sum(next(self.seconds) for _ in range(passes))

    def timer(self, call) -> float:
        start = self.now
        call()
        return self.now - start


def test_warm_up_goes_on_until_two_windows_agree():
    machine = FakeMachine(itertools.chain([0.9] * 3, [0.5] * 3, itertools.repeat(0.3)))
    warm = warm_up(machine.run, machine.timer)
    assert warm.settled
    assert machine.calls == [1] * 12  # windows at 0.9, 0.5, 0.3 and 0.3 seconds


def test_a_warm_up_that_never_settles_is_bounded_and_says_so():
    machine = FakeMachine(1.0 if n % 2 else 1.1 for n in itertools.count(1))
    drifting = FakeMachine(1.0 * 1.1**n for n in itertools.count())
    assert not warm_up(drifting.run, drifting.timer).settled
    assert drifting.now < 2 * PROTOCOL.warm_up_seconds + 3
    assert warm_up(machine.run, machine.timer).settled  # an alternating pass has a steady median


def test_a_slow_pass_is_not_warmed_up_a_second_time_after_the_time_for_it():
    machine = FakeMachine(itertools.repeat(10.0))
    assert warm_up(machine.run, machine.timer).settled is False
    assert machine.calls == [1, 1, 1]


def test_blocks_of_short_passes_last_at_least_the_block_time():
    machine = FakeMachine(itertools.repeat(0.004))
    timing = measure(machine.run, machine.timer)
    assert timing.passes == 63  # 63 x 4 ms = 252 ms
    assert timing.samples == pytest.approx([0.004] * PROTOCOL.blocks)
    assert timing.settled


def test_a_long_pass_is_a_block_of_its_own():
    machine = FakeMachine(itertools.repeat(0.8))
    timing = measure(machine.run, machine.timer)
    assert timing.passes == 1
    assert len(timing.samples) == PROTOCOL.blocks >= 7


def test_the_peak_is_reset_between_warm_up_and_blocks():
    machine = FakeMachine(itertools.repeat(0.3))
    at = []
    measure(machine.run, machine.timer, after_warm_up=lambda: at.append(len(machine.calls)))
    assert at == [len(machine.calls) - PROTOCOL.blocks]


def test_samples_are_seconds_of_a_pass_and_keep_their_spread():
    steady = [0.3] * 6
    machine = FakeMachine(itertools.chain(steady, [0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36]))
    assert measure(machine.run, machine.timer).samples == pytest.approx(
        [0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36]
    )


def test_alternating_cancels_a_machine_that_slows_down():
    now = 0.0
    slowness = itertools.count(100)

    def run(seconds: float):
        def passes(count: int) -> None:
            nonlocal now
            for _ in range(count):
                now += seconds * next(slowness) / 100

        return passes

    def timer(call) -> float:
        start = now
        call()
        return now - start

    compared = alternate(run(0.5), run(0.25), timer)
    assert len(compared.ratios) == PROTOCOL.blocks
    assert sorted(compared.ratios)[3] == pytest.approx(2.0, rel=0.02)


def test_each_of_a_pair_goes_first_in_turn():
    order: list[str] = []
    seconds = {"reference": 0.3, "other": 0.3}
    now = 0.0

    def run(name: str):
        def passes(count: int) -> None:
            nonlocal now
            order.append(name)
            now += count * seconds[name]

        return passes

    def timer(call) -> float:
        start = now
        call()
        return now - start

    alternate(run("reference"), run("other"), timer)
    assert order[-14:][:4] == ["reference", "other", "other", "reference"]


def test_a_fresh_process_sends_its_number_back_and_is_another_process():
    assert in_fresh_process(lambda: float(os.getpid())) != os.getpid()


def test_what_fails_in_a_fresh_process_is_raised_with_its_own_words():
    def fail() -> float:
        raise ValueError("no such protein")

    with pytest.raises(RuntimeError, match="no such protein"):
        in_fresh_process(fail)


def test_a_fresh_process_that_is_killed_is_said():
    with pytest.raises(RuntimeError, match=r"exit code -9.*out of memory\?"):
        in_fresh_process(lambda: os.kill(os.getpid(), 9) or 0.0)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's clear_refs")
def test_peak_memory_on_the_cpu_counts_from_its_reset():
    def peaks() -> float:
        torch.ones(64, 1024, 1024, dtype=torch.uint8).sum()  # 64 MiB, freed again
        before = peak_memory("cpu")
        reset_peak_memory("cpu")
        torch.ones(16, 1024, 1024, dtype=torch.uint8).sum()
        return float(before - peak_memory("cpu"))

    assert 30 * 2**20 < in_fresh_process(peaks) < 70 * 2**20


def test_the_peak_of_one_process_does_not_see_anothers():
    def peak_with(mebibytes: int):
        def run() -> float:
            reset_peak_memory("cpu")
            torch.ones(mebibytes, 1024, 1024, dtype=torch.uint8).sum()
            return float(peak_memory("cpu"))

        return run

    alone = in_fresh_process(peak_with(8))
    in_fresh_process(peak_with(256))
    assert in_fresh_process(peak_with(8)) == pytest.approx(alone, rel=0.05)


def test_importing_the_suite_does_not_initialise_cuda_or_start_threads():
    code = (
        "import threading, torch, benchmarks.throughput, benchmarks.precision;"
        "assert not torch.cuda.is_initialized(); assert threading.active_count() == 1;"
        "import os; assert len(os.listdir('/proc/self/task')) == 1"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_protocols_version_is_set_by_hand():
    from benchmarks.precision import Precision
    from benchmarks.throughput import Throughput

    assert Throughput.version == Precision.version == _protocol.VERSION
