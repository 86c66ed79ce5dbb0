"""Register this machine with asv under a name that tells its GPU or CPU, and print the name.

    python -m asv_plugin.machine [--name NAME]

asv's own name is the host's, and it keeps two GPUs under one name in one file; a hardware name cannot. A run on
other hardware than results/<name>/machine.json records is stopped (`asv_plugin.hooks.machine`).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from asv import util
from asv.machine import Machine, MachineCollection

GPUS = """
import json, torch
found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
print(json.dumps([[gpu.name, gpu.total_memory] for gpu in found]))
"""

KNOWN = "VIRNUCPRO_GPUS"
"""Holds what `gpus` found, as JSON, for the processes that one which has asked goes on to start."""


MACHINE = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
"""Names of machines."""


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


def register(name: str | None = None) -> str:
    """Let asv know this machine; its name, which is that of its GPU or CPU unless another is given."""
    from benchmarks.suite.hardware import (
        cpu_with_cores,
    )  # not above: the plugin also serves suites of other projects

    if name and not MACHINE.fullmatch(name):
        raise util.UserError(
            f"MACHINE={name!r} names no machine: take letters, digits, dots, dashes and underscores"
        )
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
