"""Register this machine with asv under a name that tells its GPU or CPU, and print the name.

    python -m asv_plugin.machine [--name NAME]

asv's own name is the host's, and it keeps two GPUs under one name in one file; a hardware name cannot.
"""

import argparse
import re

from asv.machine import Machine, MachineCollection

from benchmarks._hardware import probe


def name_for(hardware: str) -> str:
    """A machine's name in results/: the hardware's, in letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", hardware).strip("-")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--name", help="use this name instead of the hardware's")
    name = parser.parse_args().name or name_for(probe().name)
    # `asv machine --yes --machine NAME` would record the name alone, without CPU, memory and system
    MachineCollection.save(name, Machine.get_defaults() | {"machine": name})
    print(name)


if __name__ == "__main__":
    main()
