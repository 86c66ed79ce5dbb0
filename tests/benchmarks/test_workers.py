"""`benchmarks/workers.py`: which cards a run sees, and a cell on a real Ray."""

import importlib.util
import os

import pytest

from benchmarks._cells import Store
from benchmarks.workers import Workers, environment, visible

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize("before, cards, meanwhile", [("3,5", [1], "5"), ("3,5", [0, 1], "3,5"), (None, [1], "1")])
def test_cards_are_counted_among_those_that_this_process_sees(monkeypatch, before, cards, meanwhile):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv(VISIBLE, raising=False)
    if before:
        monkeypatch.setenv(VISIBLE, before)
    assert visible(cards) == {VISIBLE: meanwhile}


@pytest.mark.parametrize("before", [None, "what was"])
def test_variables_are_as_they_were_afterwards(monkeypatch, before):
    monkeypatch.delenv("VIRNUCPRO_TOY", raising=False)
    if before:
        monkeypatch.setenv("VIRNUCPRO_TOY", before)
    with pytest.raises(ArithmeticError), environment(VIRNUCPRO_TOY="meanwhile"):
        assert os.environ["VIRNUCPRO_TOY"] == "meanwhile"
        raise ArithmeticError
    assert os.environ.get("VIRNUCPRO_TOY") == before


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
