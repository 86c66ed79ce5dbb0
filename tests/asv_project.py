"""The suite in a temporary project, so that the real asv can measure that."""

import json
import re
import shutil
import site
from pathlib import Path

ROOT = Path(__file__).parent.parent


def drop_in(project: Path) -> None:
    """Copy the suite into a project, with a configuration that installs nothing but the project.

    This environment's PyTorch serves asv's too, through a .pth file: installing it again takes a minute.
    """
    for part in ("benchmarks", "asv_plugin"):
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        shutil.copytree(ROOT / part, project / part, ignore=ignored)
    packages = project.parent / "packages"
    packages.mkdir()
    for package in Path(site.getsitepackages()[0]).iterdir():
        if not package.name.startswith(("virnucpro", "__editable__", "pip", "setuptools", "__pycache__")):
            (packages / package.name).symlink_to(package)
    conf = json.loads(re.sub(r"^ *//.*$", "", (ROOT / "asv.conf.json").read_text(), flags=re.MULTILINE))
    link = f"import pathlib, site; pathlib.Path(site.getsitepackages()[0], 'x.pth').write_text('{packages}')"
    conf["matrix"] = {}
    conf["install_command"] = [f'python -c "{link}"', *conf["install_command"]]
    (project / "asv.conf.json").write_text(json.dumps(conf))
