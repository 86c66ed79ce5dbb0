"""Results are recorded under the machine that made them."""

import json
from types import SimpleNamespace

import pytest
from asv import util
from asv.machine import Machine
from asv.results import Results

from asv_plugin import machine
from asv_plugin.hooks import machine as hook
from asv_plugin.hooks.machine import require_its_device

CPU = {"cpu": "Xeon", "num_cpu": "16", "os": "Linux 7", "ram": "1000", "arch": "x86_64"}
H200 = [("NVIDIA H200", 150_000), ("NVIDIA H200", 150_000)]


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """Save a run's machine as asv does, on hardware of choice; the record that is left."""
    monkeypatch.setattr(Machine, "save", Machine.save)
    monkeypatch.setattr(Results, "add_result", Results.add_result)
    hook.install()

    def run(gpus=(), **changed):
        monkeypatch.setattr(machine, "gpus", lambda: list(gpus))
        monkeypatch.setattr(Machine, "get_defaults", staticmethod(lambda: CPU | changed))
        this = Machine()
        this.__dict__.update(CPU | changed | {"machine": "here"})
        this.save(str(tmp_path))
        return json.loads((tmp_path / "here/machine.json").read_text())

    return SimpleNamespace(run=run, path=tmp_path / "here/machine.json")


def test_the_record_has_the_gpus(recorder):
    found = recorder.run(H200)
    assert (found["gpu"], found["num_gpu"], found["gpu_ram"]) == ("NVIDIA H200", "2", "150000")


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"cpu": "EPYC"}, "CPU 'Xeon', here 'EPYC'"),
        ({"num_cpu": "8"}, "number of CPUs '16', here '8'"),
        ({"gpus": [("NVIDIA H100", 80_000)] * 2}, "GPU 'NVIDIA H200', here 'NVIDIA H100'"),
        ({"gpus": H200[:1]}, "number of GPUs '2', here '1'"),
        ({"gpus": []}, "GPU 'NVIDIA H200', here 'none'"),
    ],
)
def test_a_run_on_other_hardware_is_stopped_and_told_both(recorder, changed, said):
    before = recorder.run(H200)
    with pytest.raises(util.UserError, match="records other hardware") as error:
        recorder.run(**({"gpus": H200} | changed))
    assert said in str(error.value)
    assert "MACHINE=name" in str(error.value)
    assert json.loads(recorder.path.read_text()) == before


def test_an_updated_system_is_the_same_machine_and_begins_no_new_graph(recorder):
    before = recorder.run(H200)
    updated = [(name, memory - 1) for name, memory in H200]
    assert recorder.run(updated, os="Linux 8", ram="999") == before


def test_a_record_from_before_gpus_were_recorded_still_counts(recorder):
    recorder.path.parent.mkdir()
    recorder.path.write_text(json.dumps(CPU | {"machine": "here", "version": 1}))
    assert "gpu" not in recorder.run()
    with pytest.raises(util.UserError, match="GPU 'none', here 'NVIDIA H200'"):
        recorder.run(H200)
    measured = {"a cell": {"device": "NVIDIA H200", "versions": {"cuda": "13.0"}}}
    (recorder.path.parent / "1234-env.notes").write_text(json.dumps(measured))
    assert recorder.run(H200)["gpu"] == "NVIDIA H200"


@pytest.mark.parametrize(
    "recorded, measured_on",
    [({}, "NVIDIA H200"), ({"gpu": "NVIDIA H200"}, "Xeon"), ({"gpu": "NVIDIA H200"}, "NVIDIA H100")],
)
def test_cells_on_another_device_than_the_machine_is_named_after_are_not_recorded(recorded, measured_on):
    versions = {"torch": "2.13.0"} | ({"cuda": "13.0"} if "NVIDIA" in measured_on else {})
    with pytest.raises(util.UserError, match="Nothing was recorded") as error:
        require_its_device({"machine": "here"} | recorded, {"device": measured_on, "versions": versions})
    assert measured_on in str(error.value)


@pytest.mark.parametrize(
    "record, note",
    [
        ({"machine": "here", "gpu": "NVIDIA H200"}, {"device": "NVIDIA H200", "versions": {"cuda": "13.0"}}),
        ({"machine": "here"}, {"device": "Xeon", "versions": {}}),
        ({"machine": "here"}, {"skipped": "no GPU"}),
        ({}, {"device": "NVIDIA H200", "versions": {"cuda": "13.0"}}),  # make ab records nothing
    ],
)
def test_cells_on_the_machines_own_device_are_recorded(record, note):
    require_its_device(record, note)
