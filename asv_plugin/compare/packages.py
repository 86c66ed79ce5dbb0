"""The packages beside which each commit is measured."""

import json
import re
from collections.abc import Sequence
from typing import Any

VERSIONS = """
import json
from importlib.metadata import distributions
print(json.dumps([(each.metadata["Name"], each.version) for each in distributions()]))
"""

Packages = dict[str, str]
"""Names as pip normalises them, to versions."""


def packages(environment: Any, project: str) -> Packages:
    """What the environment's Python can import but for the project; of one package in two versions, the first."""
    found = json.loads(environment.run(["-c", VERSIONS]))
    versions = {normalised(name): version for name, version in reversed(found) if name}
    return {name: version for name, version in sorted(versions.items()) if name != normalised(project)}


def normalised(name: str) -> str:
    """A package's name, of which ``Fair_ESM`` and ``fair-esm`` are spellings."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differences(one: Packages, other: Packages, labels: Sequence[str]) -> str:
    """What differs, as "numpy 2.3.5 (BASE) and 2.4.1 (HEAD)"; nothing where nothing does."""
    return "; ".join(
        f"{name} {one.get(name, 'none')} ({labels[0]}) and {other.get(name, 'none')} ({labels[1]})"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    )
