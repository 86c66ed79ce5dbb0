"""A machine's name and hardware."""

import json
import os
import subprocess
import sys

import pytest
from asv import util

from asv_plugin import machine

H200 = [("NVIDIA H200", 150_000), ("NVIDIA H200", 150_000)]


def test_pytorch_is_asked_for_the_gpus_once_for_all_processes(tmp_path, monkeypatch):
    asked = tmp_path / "asked"
    monkeypatch.setattr(
        machine, "GPUS", f"open({str(asked)!r}, 'x'); print('a warning'); print('{json.dumps(H200)}')"
    )
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv(machine.KNOWN, "for its removal afterwards")
    monkeypatch.delenv(machine.KNOWN)
    assert machine.gpus() == machine.gpus() == H200  # a second time would find the file, and fail
    again = "from asv_plugin import machine; print(machine.gpus())"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    other = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(H200)


@pytest.mark.parametrize(
    "given, gpus, name", [(None, H200, "NVIDIA-H200"), (None, [], "Xeon-2.80GHz-2-cores"), ("mine", H200, "mine")]
)
def test_a_machine_is_registered_under_the_name_of_its_gpu_or_cpu_or_the_one_given(monkeypatch, given, gpus, name):
    saved = {}
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr("benchmarks.suite.hardware.cpu_with_cores", lambda: "Xeon @ 2.80GHz, 2 cores")
    monkeypatch.setattr(machine.MachineCollection, "save", saved.__setitem__)
    assert machine.register(given) == name
    assert (saved[name]["machine"], saved[name].get("gpu")) == (name, gpus[0][0] if gpus else None)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", ".x", "-x", "--output=x", "a b", "a\nb", "`touch x`", "\x1b[2J", "<b>"]
)
def test_a_name_that_is_no_plain_folders_is_refused(monkeypatch, name):
    saved = {}
    monkeypatch.setattr(machine.MachineCollection, "save", saved.__setitem__)
    with pytest.raises(util.UserError, match="names no machine: take letters"):
        machine.register(name)
    assert saved == {}


def test_a_pytorch_that_cannot_name_the_gpus_is_said(monkeypatch):
    monkeypatch.setattr(machine, "GPUS", "raise SystemExit('no kernel image')")
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv(machine.KNOWN, raising=False)
    monkeypatch.setattr(sys, "argv", ["machine"])
    with pytest.raises(SystemExit, match="error: PyTorch could not be asked for this machine's GPUs:\nno kernel"):
        machine.main()
