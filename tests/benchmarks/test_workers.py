"""`benchmarks/workers.py`: which cards a run sees, and a cell on a real Ray."""

import importlib.util
import os

import pytest

from benchmarks._cells import Store
from benchmarks.workers import Workers, seeing

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize("cards, meanwhile", [([1], "5"), ([0, 1], "3,5"), ([], "3,5")])
def test_cards_are_counted_among_those_that_this_process_sees(monkeypatch, cards, meanwhile):
    monkeypatch.setenv(VISIBLE, "3,5")
    with seeing(cards):
        assert os.environ[VISIBLE] == meanwhile
    assert os.environ[VISIBLE] == "3,5"


def test_what_was_not_set_is_not_set_afterwards(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ArithmeticError), seeing([1]):
        assert os.environ[VISIBLE] == "1"
        raise ArithmeticError
    assert VISIBLE not in os.environ


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_one_worker_is_its_own_sum(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VISIBLE, "")
    cell, store = Workers(), Store.create()
    cell.setup(store, "esm2_t6_8M_UR50D", "fp32", 1)
    efficiency = cell.track_parallel_efficiency(store)["samples"]
    to_the_file = cell.track_file_efficiency(store)["samples"]
    assert efficiency == [1.0] and 0 < to_the_file[0] < 1
    assert cell.track_tokens_per_second(store)["samples"][0] > 0
