"""Install a commit's wheel, and the packages that it asks for, into the environment whose Python runs this.

    python asv_plugin/install.py WHEEL      (install_command in asv.conf.json; standard library and pip only)

With pip alone, a commit that asks for numpy<2.4 leaves it behind, and the next one is content with it. Here the
packages that a commit asks for, and that asv's matrix has not installed, go into a folder for its requirements,
<environment>/dependencies/<hash>. A .pth file puts one such folder before site-packages, which only ever holds the
matrix and the commit's own package. A folder is filled once, with what a fresh environment would get then: commits
of the same requirements have the same packages, whatever ran before, and going from commit to commit takes no
network. Putting versions back with pip would take it, or a store of wheels and a record of what was there.
"""

import hashlib
import json
import site
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

SITE_PACKAGES = site.getsitepackages()[0]
PTH = Path(SITE_PACKAGES, "dependencies-of-the-commit.pth")
FOLDERS = Path(sys.prefix, "dependencies")


def install(wheel: str) -> None:
    """Install the wheel, and let the environment have its dependencies and no other commit's."""
    PTH.unlink(missing_ok=True)
    folder = FOLDERS / key(wheel)
    if not folder.exists():
        fill(folder, wheel)
    PTH.write_text(f"import sys; sys.path.insert(sys.path.index({SITE_PACKAGES!r}), {str(folder)!r})\n")
    pip("install", "--no-deps", wheel)


def key(wheel: str) -> str:
    """A name for what the wheel requires, its extras aside."""
    (package,) = distributions(path=[wheel])
    required = sorted(each for each in package.requires or [] if "extra ==" not in each)
    return hashlib.sha256("\n".join(required).encode()).hexdigest()[:16]


def fill(folder: Path, wheel: str) -> None:
    """Make a folder with what the wheel asks for and the environment does not have."""
    FOLDERS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDERS) as partial:
        report, packages = Path(partial, "report.json"), Path(partial, "packages")
        pip("install", "--dry-run", "--report", str(report), wheel)
        found = [each["metadata"] for each in json.loads(report.read_text())["install"] if not each["requested"]]
        packages.mkdir()
        if found:
            versions = [f"{each['name']}=={each['version']}" for each in found]
            pip("install", "--no-deps", "--target", str(packages), *versions)
        packages.rename(folder)


def pip(*arguments: str) -> None:
    """Run pip; where it fails, it has said why, and this ends with its exit code."""
    code = subprocess.run([sys.executable, "-m", "pip", *arguments], check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    install(sys.argv[1])
