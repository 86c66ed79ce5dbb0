"""The oldest versions of the dependencies, for .ci/oldest.

python .ci/oldest.py requirements [TORCH]    print them, with another PyTorch if one is given
python .ci/oldest.py embed FOLDER            embed three proteins with what is installed, and check the files
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
UNTESTED = ("lint",)
"""Extras of developers, pinned to one version."""

PROTEINS = {"one": "MKTAYIAKQR", "two": "MSILVTRPSPAGEEL", "three": "MKVL" * 30}
MODEL = "esm2_t6_8M_UR50D"


def requirements(torch: str = "") -> list[str]:
    """Each dependency of the project, of its extras and of its build, pinned to its lower bound."""
    about = tomllib.loads(PYPROJECT.read_text())
    extras = about["project"]["optional-dependencies"]
    asked = [*about["build-system"]["requires"], *about["project"]["dependencies"]]
    asked += [each for name, some in extras.items() if name not in UNTESTED for each in some]
    found = dict(oldest(each) for each in asked if not each.startswith("virnucpro["))
    return [*(found | ({"torch": torch} if torch else {})).values()]


def oldest(requirement: str) -> tuple[str, str]:
    """A requirement's name, and the requirement of its lower bound alone."""
    parts = re.fullmatch(r"([\w-]+)[>=]=([\w.]+)(;.*)?", requirement.replace(" ;", ";"))
    if parts is None:
        sys.exit(f"error: pyproject.toml asks for {requirement!r}, which has no lower bound")
    return parts[1], f"{parts[1]}=={parts[2]}{parts[3] or ''}"


def embed(folder: Path) -> None:
    """Embed with random weights, into each format and from Python; what is read must be the same."""
    import numpy
    import zstandard

    import virnucpro

    fasta = folder / "proteins.fasta.zst"
    text = "".join(f">{name}\n{protein}\n" for name, protein in PROTEINS.items())
    fasta.write_bytes(zstandard.compress(text.encode()))
    names, expected = virnucpro.embed(PROTEINS, MODEL, precision="fp32", weights="random")
    assert list(names) == list(PROTEINS) and expected.shape == (3, 320), (names, expected.shape)
    assert numpy.isfinite(expected).all() and len(numpy.unique(expected.round(3), axis=0)) == 3
    command = [str(Path(sys.executable).parent / "virnucpro")]
    runs = {"h5": [], "each.h5": ["--layout", "per-protein"], "parquet": [], "npz": []}
    for ending, more in (runs | {"ray.h5": ["--ray", "--workers", "1"]}).items():
        output = folder / f"out.{ending}"
        asked = ["--model", MODEL, "--weights", "random", "--precision", "fp32", *more]
        subprocess.run([*command, "embed", str(fasta), "--output", str(output), *asked], check=True)
        subprocess.run([*command, "verify", str(output)], check=True)
        with virnucpro.Embeddings(output) as found:
            assert list(found.names) == list(PROTEINS), found.names
            rows = numpy.stack([found[name] for name in PROTEINS])
        assert numpy.allclose(rows, expected, atol=1e-5), abs(rows - expected).max()
    print(f"embedded {len(PROTEINS)} proteins in each format")


if __name__ == "__main__":
    if sys.argv[1] == "embed":
        embed(Path(sys.argv[2]))
    else:
        print("\n".join(requirements(*sys.argv[2:])))
