"""One measurement a cell: shared, paid for once, and never a half-written one."""

import json

import pytest

from benchmarks._cells import NOTES, Cell, CellFailed, Store
from benchmarks._hardware import Hardware

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


def test_notes_are_printed_for_the_plugin(store, capsys):
    cell = Cell(store, "m", "fp32", "mixed")
    cell.claim()
    cell.record({"runtime": [1.0]}, {"weights": "random"})
    line = capsys.readouterr().out.strip()
    assert json.loads(line.removeprefix(NOTES)) == {"weights": "random"}


def test_a_number_that_several_cells_need_is_computed_once(store):
    numbers = iter([3.0, 4.0])
    assert store.remember(("peak", "fp32"), lambda: next(numbers)) == 3.0
    assert store.remember(("peak", "fp32"), lambda: next(numbers)) == 3.0
    assert store.remember(("peak", "fp16"), lambda: next(numbers)) == 4.0


@pytest.mark.parametrize(
    "device, said", [("cpu", "on CPUs .* FP32 only"), ("cuda", "on GPUs .* FP32 and FP16 only")]
)
def test_a_precision_that_is_not_measured_on_a_device_is_not_implemented_for_asv(device, said):
    store = Store(Hardware(device, "a device", 2**34, (9, 0), {}))
    store.require_precision("fp32", on_gpus=["fp32", "fp16"])
    with pytest.raises(NotImplementedError, match=said):
        store.require_precision("bf16", on_gpus=["fp32", "fp16"])


def test_what_a_machine_cannot_run_is_not_implemented_for_asv(store):
    with pytest.raises(NotImplementedError, match="TF32 is a mode of NVIDIA GPUs"):
        store.require("esm2_t6_8M_UR50D", ("tf32",), "mixed")
