"""Register this machine with asv under a name that tells its GPU or CPU, and print the name.

    python -m asv_plugin.machine [--name NAME]

asv's own name is the host's, and it keeps two GPUs under one name in one file; a hardware name cannot. A run on
other hardware than results/<name>/machine.json records is stopped (`install`).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from functools import wraps
from pathlib import Path
from typing import Any

from asv import util
from asv.machine import Machine, MachineCollection
from asv.results import Results

from asv_plugin import notes

GPUS = """
import json, torch
found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
print(json.dumps([[gpu.name, gpu.total_memory] for gpu in found]))
"""

KNOWN = "VIRNUCPRO_GPUS"
"""Holds what `gpus` found, as JSON, for the processes that one which has asked goes on to start."""

IDENTITY = {"cpu": "CPU", "num_cpu": "number of CPUs", "gpu": "GPU", "num_gpu": "number of GPUs"}
"""What of a record tells one machine from another. Memory and system change by a byte and by an update."""


def install() -> None:
    """Make asv refuse to record one machine's results as another's; after `notes.install`."""
    save, add_result = Machine.save, Results.add_result

    # What `asv run`, `continuous` and `find` call, however they were started, before they measure anything
    @wraps(save)
    def save_the_same(self: Machine, results_dir: str) -> None:
        here = hardware()
        self.__dict__.update((key, value) for key, value in here.items() if "gpu" in key)
        path = Path(results_dir) / self.machine / "machine.json"
        if path.exists():
            recorded = util.load_json(str(path))
            require_the_same(recorded, here, path)
            # asv begins a new graph where any of this differs, and a new kernel is no new machine
            self.__dict__.update((key, recorded[key]) for key in ("os", "ram", "gpu_ram") if key in recorded)
        save(self, results_dir)

    # Where each benchmark's notes become known, which say what it was measured on
    @wraps(add_result)
    def add_result_of_its_device(self: Results, *args: Any, **kw: Any) -> None:
        add_result(self, *args, **kw)
        for note in self.__dict__.get("notes", {}).values():
            require_its_device(self.params, note)

    Machine.save, Results.add_result = save_the_same, add_result_of_its_device


def hardware() -> dict[str, str]:
    """asv's record of this machine, with its GPUs (`gpu`, `num_gpu`, and the first one's bytes, `gpu_ram`)."""
    found = gpus()
    record = Machine.get_defaults()
    if found:
        record |= {"gpu": found[0][0], "num_gpu": str(len(found)), "gpu_ram": str(found[0][1])}
    return record


def gpus() -> list[tuple[str, int]]:
    """Name and bytes of the GPUs that this environment's PyTorch can use.

    Asked in a process of its own, as CUDA would hold memory in this one, only where there is a driver, and once:
    PyTorch takes seconds to import.
    """
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()):
        return []
    if KNOWN not in os.environ:
        done = subprocess.run([sys.executable, "-c", GPUS], capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip()[-500:]
            raise util.UserError(f"PyTorch could not be asked for this machine's GPUs:\n{why}")
        os.environ[KNOWN] = done.stdout.splitlines()[-1]
    return [(name, memory) for name, memory in json.loads(os.environ[KNOWN])]


def require_the_same(recorded: dict[str, Any], here: dict[str, str], path: Path) -> None:
    """Raise asv's UserError, which it prints, where a record is of other hardware than this machine's."""
    if "gpu" not in recorded and here.get("gpu") in measured_on(path.parent):
        recorded = here | recorded  # from before GPUs were recorded
    different = [
        f"{what} {recorded.get(key) or 'none'!r}, here {here.get(key) or 'none'!r}"
        for key, what in IDENTITY.items()
        if str(recorded.get(key) or "") != here.get(key, "")
    ]
    if different:
        raise util.UserError(
            f"{path} records other hardware than this machine's: {'; '.join(different)}. Give this machine a name "
            f"of its own (make bench MACHINE=name, or asv run --machine name), or rename {path.parent}. If that "
            "record is this machine's and wrong, delete it: the next run writes it anew"
        )


def measured_on(folder: Path) -> set[str]:
    """The devices that a machine's notes name."""
    return {
        note["device"] for path in folder.glob("*.notes") for note in notes.read(path).values() if "device" in note
    }


def require_its_device(record: dict[str, Any], note: dict[str, Any]) -> None:
    """Raise asv's UserError where a cell was measured on a GPU that its machine's record lacks, or the reverse.

    asv's environment may have another PyTorch than the one that named the machine. `note`: what the cell printed.
    """
    if "machine" not in record or "versions" not in note:
        return
    used = note["device"] if "cuda" in note["versions"] else None
    if used != record.get("gpu"):
        raise util.UserError(
            f"this machine is registered as {record['machine']} with {record.get('gpu') or 'no GPU'}, as the "
            f"PyTorch of {sys.prefix} sees it, but asv's environment measured on {note['device']} with PyTorch "
            f"{note['versions'].get('torch')}. Nothing was recorded. Let both have the same build of PyTorch "
            "(matrix in asv.conf.json, make TORCH=..., PIP_EXTRA_INDEX_URL): remove .venv or .asv/env to have it "
            "installed anew"
        )


def register(name: str | None = None) -> str:
    """Let asv know this machine; its name, which is that of its GPU or CPU unless another is given."""
    from benchmarks._hardware import cpu_with_cores  # not above: the plugin also serves suites of other projects

    found = gpus()
    name = name or name_for(found[0][0] if found else cpu_with_cores())
    # `asv machine --yes --machine NAME` would record the name alone, without CPU, memory and system
    MachineCollection.save(name, hardware() | {"machine": name})
    return name


def name_for(hardware: str) -> str:
    """A machine's name in results/: the hardware's, in letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", hardware).strip("-")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--name", help="use this name instead of the hardware's")
    try:
        print(register(parser.parse_args().name))
    except util.UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
