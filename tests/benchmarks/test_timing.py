"""The measurement protocol with a fake clock."""

import itertools
import sys
from importlib.util import find_spec

import pytest

from benchmarks.measure import timing
from benchmarks.measure.timing import (
    IN_TURN,
    ON_GPU,
    PROTOCOL,
    Protocol,
    alternate,
    cuda_timer,
    default_protocol,
    measure,
    warm_up,
)
from tests.benchmarks.clean_process import in_clean_process
from tests.conftest import NEEDS_TRITON

WITH_TRITON = pytest.mark.skipif(
    find_spec("triton") is None,
    reason=NEEDS_TRITON,
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


@pytest.fixture
def gpu(monkeypatch):
    """Takes a fake machine for a GPU, and returns its timer."""

    def timer_of(machine: FakeMachine):
        monkeypatch.setattr(timing, "cuda_timer", machine.timer)
        return timing.cuda_timer

    return timer_of


def test_warm_up_goes_on_until_two_windows_agree():
    machine = FakeMachine(itertools.chain([0.9] * 3, [0.5] * 3, itertools.repeat(0.3)))
    warm = warm_up(machine.run, machine.timer, Protocol(warm_up_seconds=100))
    assert warm.settled
    assert machine.calls == [1] * 12  # windows at 0.9, 0.5, 0.3 and 0.3 seconds


def test_a_warm_up_that_never_settles_is_bounded_and_says_so():
    machine = FakeMachine(1.1**n for n in itertools.count())
    warm = warm_up(machine.run, machine.timer, Protocol(warm_up_seconds=20))
    assert not warm.settled
    assert 20 <= machine.now < 50


def test_a_slow_pass_is_not_warmed_up_a_second_time_after_the_time_for_it():
    machine = FakeMachine(itertools.repeat(10.0))
    assert warm_up(machine.run, machine.timer).settled is None
    assert machine.calls == [1]


def test_slow_blocks_are_fewer_but_at_least_three():
    slow, slower = (FakeMachine(itertools.repeat(seconds)) for seconds in (1.2, 10.0))
    assert len(measure(slow.run, slow.timer).samples) == 5  # the fifth begins after 4.8 of 5 seconds
    assert len(measure(slower.run, slower.timer).samples) == 3


def test_slow_pairs_are_fewer_but_at_least_three():
    machine = FakeMachine(itertools.repeat(10.0))
    assert len(alternate(machine.run, machine.run, machine.timer)) == 3


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


def test_blocks_on_a_gpu_are_as_many_and_shorter(gpu):
    machine = FakeMachine(itertools.chain([1.0], itertools.repeat(0.004)))
    timing = measure(machine.run, gpu(machine))
    assert timing.passes == 25  # 25 x 4 ms = 100 ms
    assert len(timing.samples) == PROTOCOL.blocks
    assert timing.settled


def test_pairs_on_a_gpu_are_as_many_and_shorter(gpu):
    machine = FakeMachine(itertools.repeat(0.004))
    assert len(alternate(machine.run, machine.run, gpu(machine))) == PROTOCOL.blocks
    assert machine.calls[-1] == 25


def test_slow_blocks_on_a_gpu_are_fewer_but_at_least_three(gpu):
    slow, slower = (FakeMachine(itertools.repeat(seconds)) for seconds in (0.35, 1.45))
    assert len(measure(slow.run, gpu(slow)).samples) == 5  # the fifth begins after 1.4 of 1.5 seconds
    assert len(measure(slower.run, gpu(slower)).samples) == 3


def test_a_pass_that_ends_a_gpus_warm_up_and_fills_a_block_counts(gpu):
    machine = FakeMachine(itertools.chain([9.0, 1.0, 1.01], itertools.repeat(1.02)))
    timing = measure(machine.run, gpu(machine))
    assert timing.samples == pytest.approx([1.0, 1.01, 1.02])


def test_a_block_of_two_passes_is_not_taken_for_one_pass(gpu):
    machine = FakeMachine(itertools.chain([4.0], [0.0995] * 3, itertools.repeat(0.1005)))
    timing = measure(machine.run, gpu(machine))
    assert timing.passes == 1
    assert timing.samples == pytest.approx([0.1005] * PROTOCOL.blocks)


def test_a_pass_is_not_taken_for_a_block_of_two(gpu):
    machine = FakeMachine(itertools.chain([4.0, 0.5], itertools.repeat(0.09)))
    timing = measure(machine.run, gpu(machine), Protocol(warm_up_seconds=0.6, block_seconds=0.1))
    assert timing.passes == 2
    assert timing.samples == pytest.approx([0.09] * PROTOCOL.blocks)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_pass_that_tells_how_many_fill_a_block_and_is_one_counts_on_a_gpu(monkeypatch, on_gpu):
    slow, fast = (FakeMachine(itertools.repeat(seconds)) for seconds in (3.0, 0.03))

    def timer(call) -> float:
        start = slow.now + fast.now
        call()
        return slow.now + fast.now - start

    if on_gpu:
        monkeypatch.setattr(timing, "cuda_timer", timer)
    assert alternate(slow.run, fast.run, timer) == pytest.approx([100.0] * 3)
    assert slow.calls == [1] + [1] * (3 if on_gpu else 1 + 3)  # the first one is to warm up
    assert fast.calls == [1] + [1] + [4 if on_gpu else 9] * 3  # 4 x 30 ms = 120 ms


@pytest.mark.parametrize("way, blocks_in_a_turn", [(measure, 1), (lambda *of: alternate(of[0], *of), 2)])
def test_where_two_processes_take_turns_every_sample_is_timed_in_one(gpu, monkeypatch, way, blocks_in_a_turn):
    machine, before_turns = FakeMachine(itertools.repeat(1.0)), []
    monkeypatch.setattr(timing, "referee", lambda: "one who grants turns")
    monkeypatch.setattr(
        timing,
        "await_turn",
        lambda purpose: before_turns.append(len(machine.calls)) if purpose == timing.TIMED else None,
    )
    way(machine.run, gpu(machine))
    assert len(before_turns) == IN_TURN.blocks
    assert len(machine.calls) - before_turns[0] == IN_TURN.blocks * blocks_in_a_turn


def test_a_first_pass_that_compiles_is_not_taken_for_the_time_of_a_pass(gpu):
    machine = FakeMachine(itertools.chain([4.0], itertools.repeat(0.03)))
    timing = measure(machine.run, gpu(machine))
    assert machine.calls == [1] + [1] * 3 + [4] * (3 + ON_GPU.blocks)  # 4 x 30 ms = 120 ms
    assert timing.samples == pytest.approx([0.03] * ON_GPU.blocks)
    assert timing.settled


def test_processes_that_take_turns_measure_alike_on_a_gpu_and_a_cpu(monkeypatch):
    assert default_protocol(cuda_timer) is ON_GPU
    monkeypatch.setattr(timing, "referee", lambda: "one who grants turns")
    assert default_protocol(cuda_timer) is default_protocol(timing.cpu_timer) is IN_TURN


def test_the_peak_is_reset_between_warm_up_and_blocks():
    machine = FakeMachine(itertools.repeat(0.3))
    at = []
    measure(machine.run, machine.timer, after_warm_up=lambda: at.append(len(machine.calls)))
    assert at == [len(machine.calls) - PROTOCOL.blocks]


def test_samples_are_seconds_of_a_pass_and_keep_their_spread():
    warming = [0.3] * 4
    machine = FakeMachine(itertools.chain(warming, [0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36]))
    timing = measure(machine.run, machine.timer, Protocol(warm_up_seconds=1.0))
    assert timing.samples == pytest.approx([0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36])


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

    ratios = alternate(run(0.5), run(0.25), timer)
    assert len(ratios) == PROTOCOL.blocks
    assert sorted(ratios)[3] == pytest.approx(2.0, rel=0.02)


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
    before = len(order)
    alternate(run("reference"), run("other"), timer, warm=lambda: order.append("warm"))
    assert order[before : before + 2] == ["warm", "reference"]


def test_a_fresh_process_sends_its_number_back_and_is_another_process():
    said = in_clean_process("print(in_fresh_process(lambda: float(os.getpid())) != os.getpid())")
    assert said.strip() == "True"


def test_what_fails_in_a_fresh_process_is_raised_with_its_own_words():
    said = in_clean_process("""
        def fail():
            raise ValueError("no such protein")
        in_fresh_process(fail)
        """)
    assert "RuntimeError: a process forked to measure failed" in said
    assert "ValueError: no such protein" in said


def test_a_fresh_process_that_is_killed_is_said():
    said = in_clean_process("in_fresh_process(lambda: os.kill(os.getpid(), 9))")
    assert "(exit code -9): it exited without output (killed, or out of memory?)" in said


@pytest.mark.parametrize("gpu_is_there", [False, pytest.param(True, marks=WITH_TRITON)])
def test_importing_the_suite_does_not_ask_for_cuda_or_start_threads(gpu_is_there):
    said = in_clean_process(f"""
        exists = Path.exists
        Path.exists = lambda path: {gpu_is_there} if str(path) == "/dev/nvidiactl" else exists(path)
        def refuse(*args):
            raise SystemExit("CUDA was asked for")
        torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = refuse
        before = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
        import benchmarks.throughput, benchmarks.precision
        print(len(os.listdir("/proc/self/task")) - before if before else 0)
        """)
    assert said.strip() == "0"


@WITH_TRITON
@pytest.mark.parametrize("gpu_is_there", [False, True])
def test_triton_is_imported_once_for_all_cells_where_there_is_a_gpu(gpu_is_there):
    said = in_clean_process(f"""
        import sys
        Path.exists = lambda path: {gpu_is_there}
        import benchmarks.throughput
        print("triton" in sys.modules)
        """)
    assert said.strip() == str(gpu_is_there)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_measuring_process_dies_with_the_process_that_asv_kills():
    said = in_clean_process("""
        import signal, time
        read, write = os.pipe()
        parent = os.fork()
        if parent == 0:
            def call():
                os.write(write, f"{os.getpid()}\\n".encode())
                time.sleep(60)
            in_fresh_process(call)
        child = int(os.read(read, 100))
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        for _ in range(100):
            stat = f"/proc/{child}/stat"
            state = open(stat).read().split()[2] if os.path.exists(stat) else "gone"
            if state in ("gone", "Z"):
                break
            time.sleep(0.05)
        print(state in ("gone", "Z"))
        """)
    assert said.strip() == "True"
