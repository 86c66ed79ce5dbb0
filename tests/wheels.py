"""Wheels of one module for toy histories, without any build backend.

python tests/wheels.py FOLDER DESCRIPTION.json
"""

import json
import sys
import zipfile
from pathlib import Path


def write_wheel(folder, name, version, needs=(), text=""):
    """Write a wheel whose module `name` has this text."""
    info = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {each}\n" for each in needs)
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(Path(folder, f"{name}-{version}-py3-none-any.whl"), "w") as wheel:
        for path, content in files.items():
            record = "".join(f"{each},,\n" for each in files)
            wheel.writestr(path, record if path.endswith("RECORD") else content)


if __name__ == "__main__":
    write_wheel(sys.argv[1], **json.loads(Path(sys.argv[2]).read_text()))
