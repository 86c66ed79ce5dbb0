"""One measurement a cell, for all of its figures; on a GPU one process for several cells."""

import json
from collections.abc import Sequence
from typing import ClassVar

import pytest

from benchmarks.suite import cell
from benchmarks.suite.cell import REQUESTED, OncePerCell, Store
from benchmarks.suite.hardware import Hardware
from benchmarks.suite.outcomes import CellFailed, Measurement
from tests.conftest import MODEL as M8

MACHINE = Hardware("cpu", "a CPU", 2**34, (0, 0), {})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store(MACHINE)


@pytest.mark.parametrize(
    "device, model, precision, said",
    [
        ("cpu", "m", "bf16", "on CPUs this is measured in FP32 only"),
        ("cuda", "m", "bf16", "on GPUs this is measured in FP32 and FP16 only"),
        ("cuda", "another", "fp16", "on GPUs this is measured with m only"),
    ],
)
def test_what_is_not_measured_on_a_device_is_not_implemented_for_asv(device, model, precision, said):
    store = Store(Hardware(device, "a device", 2**34, (9, 0), {}))
    chosen = {"models_on_gpus": ["m"], "precisions_on_gpus": ["fp32", "fp16"]}
    store.require_chosen("m", "fp32", **chosen)
    with pytest.raises(NotImplementedError, match=said):
        store.require_chosen(model, precision, **chosen)


class Lengths(OncePerCell):
    """A benchmark whose last parameter is a number; it measures that. `broken` numbers raise."""

    params = ([M8], ["fp32", "fp16"], [1, 2, 3])
    broken: ClassVar[set[int]] = set()
    measured: ClassVar[list[tuple]] = []

    def setup(self, store, model, precision, number):
        super().setup(store, model, precision, number)

    def proteins(self, workload, device):
        return []

    def load(self, store, model, precision, workload):
        self.number = int(workload)

    def measure(self, store):
        self.measured.append(self.parameters[1:])
        if self.number in self.broken:
            raise ValueError("broken")
        return Measurement({"number": [float(self.number)]})


@pytest.fixture
def number(store, monkeypatch):
    """What asv gets of a cell in a process of its own, which was asked for `asked` on a device."""
    monkeypatch.setattr(Lengths, "broken", set())
    monkeypatch.setattr(Lengths, "measured", [])
    monkeypatch.setattr(Store, "require", lambda *arguments: None)
    monkeypatch.setattr(cell, "gpu_states", dict)
    monkeypatch.setattr(cell, "busy_before_this_process", lambda uuid: None)

    def call(device: str, last: int, asked: Sequence[int], precision: str = "fp32"):
        cells = [("Lengths", M8, "fp32", str(each)) for each in asked] + [("Others", M8, "fp32", "2")]
        monkeypatch.setenv(REQUESTED, json.dumps(cells))
        there = Store(Hardware(device, "a device", 2**34, (9, 0), {}))
        benchmark = Lengths()
        benchmark.setup(there, M8, precision, last)
        return benchmark.metric("number", there)["samples"]

    return call


def test_on_a_gpu_a_process_measures_what_else_was_asked_for_of_its_models(number):
    assert number("cuda", 1, asked=[1, 3]) == [1.0]
    assert Lengths.measured == [("fp32", "1"), ("fp32", "3")]
    assert number("cuda", 3, asked=[1, 3]) == [3.0]
    assert number("cuda", 2, asked=[]) == [2.0]
    assert number("cuda", 1, asked=[1, 3], precision="fp16") == [1.0]
    assert Lengths.measured[2:] == [("fp32", "2"), ("fp16", "1")]


def test_a_cell_leaves_its_embeddings_where_commits_are_compared(number, monkeypatch):
    left = []
    monkeypatch.setattr(cell.outputs, "leave", lambda model, precision, hardware: left.append((model, precision)))
    number("cpu", 1, asked=[], precision="fp16")
    assert left == [(M8, "fp16")]


def test_on_a_cpu_each_cell_has_a_process_of_its_own(number):
    assert number("cpu", 1, asked=[1, 2, 3]) == [1.0]
    assert Lengths.measured == [("fp32", "1")]


def test_a_process_that_takes_turns_measures_its_cell_alone(number, monkeypatch):
    monkeypatch.setattr(cell, "referee", lambda: True)
    monkeypatch.setattr(cell, "await_turn", lambda purpose: None)
    assert number("cuda", 1, asked=[1, 2, 3]) == [1.0]
    assert Lengths.measured == [("fp32", "1")]


def test_a_gpu_that_fails_for_good_costs_no_recorded_cell(number, monkeypatch):
    def broken(device):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(cell, "free_cached_memory", broken)
    assert number("cuda", 1, asked=[1, 2]) == [1.0]
    assert Lengths.measured == [("fp32", "1")]


def test_what_fails_in_anothers_process_is_measured_in_its_own(number):
    Lengths.broken.add(2)
    assert number("cuda", 1, asked=[1, 2, 3]) == [1.0]
    assert number("cuda", 3, asked=[1, 2, 3]) == [3.0]
    Lengths.broken.clear()
    assert number("cuda", 2, asked=[1, 2, 3]) == [2.0]


def test_a_failure_of_its_own_is_the_cells_outcome(number):
    Lengths.broken.add(2)
    with pytest.raises(ValueError, match="broken"):
        number("cuda", 2, asked=[1, 2])
    assert number("cuda", 1, asked=[1, 2]) == [1.0]
    with pytest.raises(CellFailed, match="measured once, and it failed: ValueError: broken"):
        number("cuda", 2, asked=[1, 2])
    assert Lengths.measured == [("fp32", "2"), ("fp32", "1")]


def test_what_a_machine_cannot_run_is_not_implemented_for_asv(store):
    with pytest.raises(NotImplementedError, match="TF32 is a mode of NVIDIA GPUs"):
        store.require("esm2_t6_8M_UR50D", ("tf32",), "mixed")
