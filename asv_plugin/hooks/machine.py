"""Make asv refuse to record one machine's results as another's, and add GPUs to its record of a machine."""

import sys
from functools import wraps
from pathlib import Path
from typing import Any

from asv import util
from asv.console import log
from asv.machine import Machine
from asv.results import Results

from asv_plugin import notes
from asv_plugin.checks import check_machine, require
from asv_plugin.hooks.broken_files import BROKEN
from asv_plugin.hooks.places import check_places
from asv_plugin.machine import hardware

PLACES = {
    "asv.machine:Machine.save": "(self, results_dir)",
    "asv.results:Results.add_result": "(self, benchmark, result, ",
}
"""What of asv is hooked below, and how its parameters begin."""

IDENTITY = {"cpu": "CPU", "num_cpu": "number of CPUs", "gpu": "GPU", "num_gpu": "number of GPUs"}
"""What of a record tells one machine from another. Memory and system change by a byte and by an update."""


def install() -> None:
    """Replace what saves a machine and what keeps a result; after `hooks.notes.install`."""
    check_places(PLACES, __name__)
    save, add_result = Machine.save, Results.add_result

    # What `asv run`, `continuous` and `find` call, however they were started, before they measure anything
    @wraps(save)
    def save_the_same(self: Machine, results_dir: str) -> None:
        here = hardware()
        self.__dict__.update((key, value) for key, value in here.items() if "gpu" in key)
        path = Path(results_dir) / self.machine / "machine.json"
        recorded = read_record(path) if path.exists() else {}
        if recorded:
            require_the_same(recorded, here, path)
            # asv begins a new graph where any of this differs, and a new kernel is no new machine
            kept = {key: recorded.get(key) for key in ("os", "ram", "gpu_ram")}
            self.__dict__.update((key, value) for key, value in kept.items() if isinstance(value, str))
        save(self, results_dir)

    # Where each benchmark's notes become known, which say what it was measured on
    @wraps(add_result)
    def add_result_of_its_device(self: Results, *args: Any, **kw: Any) -> None:
        add_result(self, *args, **kw)
        for note in self.__dict__.get("notes", {}).values():
            require_its_device(self.params, note)

    Machine.save, Results.add_result = save_the_same, add_result_of_its_device


def read_record(path: Path) -> dict[str, Any]:
    """A machine.json; nothing where it cannot be used, which is said: the next one is then written over it."""
    try:
        recorded = util.load_json(str(path))
        check_machine(recorded)
        require(
            all(isinstance(recorded.get(key), (str, int, type(None))) for key in IDENTITY),
            "its hardware is no text",
        )
    except (util.UserError, OSError, *BROKEN) as error:
        log.warning(f"{path} is written anew: {str(error).strip()}")
        return {}
    return recorded


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
    device, versions = note.get("device"), note["versions"]
    used = device if "cuda" in versions else None
    if used != record.get("gpu"):
        raise util.UserError(
            f"this machine is registered as {record['machine']} with {record.get('gpu') or 'no GPU'}, as the "
            f"PyTorch of {sys.prefix} sees it, but asv's environment measured on {device} with PyTorch "
            f"{versions.get('torch')}. Nothing was recorded. Let both have the same build of PyTorch "
            "(matrix in asv.conf.json, make TORCH=..., PIP_EXTRA_INDEX_URL): remove .venv or .asv/env to have it "
            "installed anew"
        )
