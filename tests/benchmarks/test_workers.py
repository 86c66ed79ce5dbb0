"""`benchmarks/workers.py`: which cards a run sees, and a cell on a real Ray."""

import importlib.util

import pytest

from benchmarks.suite.cell import Store
from benchmarks.workers import VISIBLE, Speed, Workers, visible


@pytest.mark.parametrize("before, cards, meanwhile", [("3,5", [1], "5"), ("3,5", [0, 1], "3,5"), (None, [1], "1")])
def test_cards_are_counted_among_those_that_this_process_sees(monkeypatch, before, cards, meanwhile):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv(VISIBLE, raising=False)
    if before:
        monkeypatch.setenv(VISIBLE, before)
    assert visible(cards) == {VISIBLE: meanwhile}


def measured(monkeypatch, tmp_path, workers, speeds):
    """A cell's measurement where cards reach these speeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(Workers, "speed", lambda self, device, cards: speeds[tuple(cards)])
    cell, store = Workers(), Store.create()
    cell.parameters = ("esm2_t6_8M_UR50D", "fp32", str(workers))
    cell.entries = cell.proteins(str(workers), "cpu")
    cell.load(store, *cell.parameters)
    return cell.measure(store)


def test_several_workers_are_judged_by_the_sum_of_the_cards_alone(monkeypatch, tmp_path):
    speeds = {(0,): Speed(100.0, 90.0), (1,): Speed(60.0, 50.0), (0, 1): Speed(152.0, 144.0)}
    found = measured(monkeypatch, tmp_path, 2, speeds)
    expected = {"tokens per second": [144.0], "parallel efficiency": [0.95], "file efficiency": [0.9]}
    assert found.samples == expected and not found.unavailable
    assert found.notes["tokens per second of each card alone"] == [100.0, 60.0]


def test_a_commit_that_does_not_tell_when_the_file_was_there_has_the_efficiency_alone(monkeypatch, tmp_path):
    found = measured(monkeypatch, tmp_path, 1, {(0,): Speed(100.0, None)})
    assert found.samples == {"parallel efficiency": [1.0]}
    assert set(found.unavailable) == {"tokens per second", "file efficiency"}


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_one_worker_on_a_real_ray(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VISIBLE, "")
    cell, store = Workers(), Store.create()
    cell.setup(store, "esm2_t6_8M_UR50D", "fp32", 1)
    to_the_file = cell.track_file_efficiency(store)["samples"]
    assert 0 < to_the_file[0] < 1
    assert cell.track_tokens_per_second(store)["samples"][0] > 0
