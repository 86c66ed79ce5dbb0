"""One measurement a cell: shared, paid for once, and never a half-written one."""

import json
from collections.abc import Sequence
from typing import ClassVar

import pytest

from benchmarks import _protocol
from benchmarks._cells import ASKED, NOTES, Cell, CellFailed, OncePerCell, Store
from benchmarks._hardware import Hardware
from tests.conftest import MODEL as M8

MACHINE = Hardware("cpu", "a CPU", 2**34, (0, 0), {})


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store(MACHINE)


def test_the_first_process_measures_and_the_others_read(store):
    first = Cell(store, "m", "fp32", "mixed")
    assert first.claim()
    first.record({"runtime": [1.0, 2.0]}, {})
    second = Cell(store, "m", "fp32", "mixed")
    assert not second.claim()
    assert second.result("runtime") == {"samples": [1.0, 2.0], "number": 1}


def test_cells_do_not_share_outcomes(store):
    assert Cell(store, "m", "fp32", "mixed").claim()
    assert Cell(store, "m", "fp16", "mixed").claim()


def test_a_failure_is_paid_for_once_and_told_to_the_others(store):
    first = Cell(store, "m", "fp32", "mixed")
    assert first.claim()
    with pytest.raises(ZeroDivisionError), first.recording_failure():
        raise ZeroDivisionError("by zero")
    with pytest.raises(CellFailed, match="ZeroDivisionError: by zero"):
        Cell(store, "m", "fp32", "mixed").claim()


def test_a_process_that_died_is_not_tried_again(store):
    assert Cell(store, "m", "fp32", "mixed").claim()  # and is killed here
    with pytest.raises(CellFailed, match=r"died before it was done .*out of memory\?"):
        Cell(store, "m", "fp32", "mixed").claim()


def test_a_kernel_that_pytorch_lacks_is_a_failure_not_a_skip(store):
    cell = Cell(store, "m", "fp16", "mixed")
    assert cell.claim()
    with pytest.raises(CellFailed, match="not implemented for 'Half'"), cell.recording_failure():
        raise NotImplementedError("addmm not implemented for 'Half'")


def test_rounds_that_would_repeat_samples_are_refused(store):
    cell = Cell(store, "m", "fp32", "mixed")
    cell.claim()
    cell.record({"runtime": [1.0]}, {})
    cell.result("runtime")
    with pytest.raises(CellFailed, match="rounds"):
        cell.result("runtime")


def test_notes_are_printed_once_for_the_plugin(store, capsys):
    cell = Cell(store, "m", "fp32", "mixed")
    cell.claim()
    cell.record({"runtime": [1.0], "memory": [2.0]}, {"weights": "random"})
    cell.result("runtime")
    line = capsys.readouterr().out.strip()
    assert json.loads(line.removeprefix(NOTES)) == {"weights": "random"}
    cell.result("memory")
    assert capsys.readouterr().out == ""


def test_a_number_that_several_cells_need_is_computed_once(store):
    numbers = iter([{"mixed": 3.0, "short": 1.0}, {"mixed": 4.0}])
    assert store.remember("peak-fp32", "mixed", lambda: next(numbers)) == 3.0
    assert store.remember("peak-fp32", "mixed", lambda: next(numbers)) == 3.0
    assert store.remember("peak-fp32", "short", lambda: next(numbers)) == 1.0
    assert store.remember("peak-fp16", "mixed", lambda: next(numbers)) == 4.0


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
        super().setup(store, model, precision, str(number))

    def proteins(self, workload, device):
        return []

    def load(self, store, model, precision, workload):
        self.number = int(workload)

    def measure(self, store):
        self.measured.append(self.parameters[1:])
        if self.number in self.broken:
            raise ValueError("broken")
        return {"number": [float(self.number)]}, {}


@pytest.fixture
def number(store, monkeypatch):
    """What asv gets of a cell in a process of its own, which was asked for `asked` on a device."""
    monkeypatch.setattr(Lengths, "broken", set())
    monkeypatch.setattr(Lengths, "measured", [])
    monkeypatch.setattr(Store, "require", lambda *arguments: None)

    def call(device: str, last: int, asked: Sequence[int], precision: str = "fp32"):
        cells = [("Lengths", M8, "fp32", str(each)) for each in asked] + [("Others", M8, "fp32", "2")]
        monkeypatch.setenv(ASKED, json.dumps(cells))
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


def test_on_a_cpu_each_cell_has_a_process_of_its_own(number):
    assert number("cpu", 1, asked=[1, 2, 3]) == [1.0]
    assert Lengths.measured == [("fp32", "1")]


def test_a_process_that_takes_turns_measures_its_cell_alone(number, monkeypatch):
    monkeypatch.setattr(_protocol, "referee", lambda: True)
    monkeypatch.setattr(_protocol, "await_turn", lambda purpose: None)
    assert number("cuda", 1, asked=[1, 2, 3]) == [1.0]
    assert Lengths.measured == [("fp32", "1")]


def test_a_gpu_that_fails_for_good_costs_no_recorded_cell(number, monkeypatch):
    def broken(device):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(_protocol, "free_cached_memory", broken)
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
