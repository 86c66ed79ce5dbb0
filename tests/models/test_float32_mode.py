"""Threads that need different modes of FP32 GEMMs take turns."""

import threading
import time

import pytest
import torch

from tests.conftest import MODEL
from tests.limits import PATIENCE
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.float32_mode import TURNS, backends, float32_products


def modes():
    return {backend.fp32_precision for backend in backends()}


def in_threads(*functions):
    """Run each in a thread of its own; what they raised."""
    raised = []

    def caught(function):
        try:
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=caught, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return raised


def test_each_thread_keeps_its_mode_while_it_computes():
    before, seen = modes(), {"ieee": set(), "tf32": set()}

    def compute(mode):
        def run():
            for _ in range(200):
                with float32_products(mode):
                    seen[mode] |= modes()
                    time.sleep(1e-5)
                    seen[mode] |= modes()

        return run

    assert in_threads(*map(compute, ["ieee", "tf32", "ieee", "tf32"])) == []
    assert seen == {"ieee": {"ieee"}, "tf32": {"tf32"}} and modes() == before


@pytest.mark.parametrize("mode", ["ieee", "tf32"])
def test_threads_of_one_mode_compute_at_the_same_time(mode):
    meeting = threading.Barrier(3, timeout=PATIENCE)

    def compute():
        with float32_products(mode):
            meeting.wait()

    assert in_threads(compute, compute, compute) == []


def test_a_mode_that_is_left_alone_waits_for_nobody():
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with float32_products("tf32"):
            inside.set()
            assert leave.wait(PATIENCE)

    def pass_by():
        assert inside.wait(PATIENCE)
        with float32_products(None):
            leave.set()

    assert in_threads(hold, pass_by) == []


def test_who_waits_is_not_overtaken_for_ever():
    stop, turns = threading.Event(), []

    def greedy():
        while not stop.is_set():
            with float32_products("ieee"):
                time.sleep(1e-4)

    def other():
        for _ in range(20):
            with float32_products("tf32"):
                turns.append(1)
        stop.set()

    assert in_threads(greedy, greedy, other) == []
    assert len(turns) == 20


def test_an_error_inside_lets_the_others_in():
    def fail():
        with float32_products("tf32"):
            raise KeyError("inside")

    before = modes()
    assert [type(error) for error in in_threads(fail)] == [KeyError]
    with float32_products("ieee"):
        assert modes() == {"ieee"}
    assert modes() == before


def test_the_same_mode_again_inside_is_allowed_and_another_is_an_error():
    before = modes()
    with TURNS("ieee"):
        with TURNS("ieee"):
            assert modes() == {"ieee"}
        assert modes() == {"ieee"}
        with pytest.raises(RuntimeError, match="computing in ieee and cannot change to tf32"), TURNS("tf32"):
            pass
    assert modes() == before


def test_a_model_in_fp32_computes_in_ieee_beside_threads_in_tf32(checkpoint, monkeypatch):
    model, convert = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    seen, stop = set(), threading.Event()
    biases = model.summed_biases
    monkeypatch.setattr(model, "summed_biases", lambda: seen.update(modes()) or biases())
    tokens = convert([("a", "MKTAYIAK")])[2]

    def tf32():
        while not stop.is_set():
            with float32_products("tf32"):
                torch.ones(2, 2) @ torch.ones(2, 2)

    def fp32():
        for _ in range(5):
            model(tokens)
        stop.set()

    assert in_threads(tf32, fp32) == []
    assert seen == {"ieee"}
