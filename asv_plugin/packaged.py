"""Give a commit that pip cannot build a pyproject.toml, as VirNucPro's own have none.

    python asv_plugin/packaged.py      (build_command in asv.conf.json, in the commit's folder; standard library)

What else it requires is then for asv.conf.json's matrix to install.
"""

from pathlib import Path

MADE = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "virnucpro"
version = "0"
dependencies = ["numpy"]  # what the suite imports, too

[tool.setuptools.packages.find]
include = ["virnucpro*"]
"""


def main() -> None:
    """Write one in the current directory, if there is no other way to build there."""
    if not any(Path(name).exists() for name in ("pyproject.toml", "setup.py")):
        Path("pyproject.toml").write_text(MADE)


if __name__ == "__main__":
    main()
