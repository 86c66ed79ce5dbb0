"""The formats of an output, by the name's ending, ``--format`` and ``--layout``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.store import hdf5, npz, parquet, per_protein
from virnucpro.store.errors import StoreError

Writer = Callable[..., bool]
"""``write(path, rows, attributes, shape, ragged, stop)``, as `write_hdf5`, which alone takes ``copied``, too."""


@dataclass(frozen=True)
class Format:
    """A format: its name, what a file says that it is, the writer, whether it is a folder, and whether proteins
    name datasets in it. `check` raises StoreError where a package is missing."""

    name: str
    content: str
    write: Writer
    is_folder: bool = False
    named: bool = False
    check: Callable[[], Any] = lambda: None


TABLE = Format("h5", hdf5.FORMAT, hdf5.write_hdf5)
PER_PROTEIN = Format("h5, per-protein", per_protein.FORMAT, per_protein.write_per_protein, named=True)
FORMATS = {
    "h5": TABLE,
    "parquet": Format(
        "parquet", parquet.FORMAT, parquet.write_parquet, is_folder=True, check=parquet.import_pyarrow
    ),
    "npz": Format("npz", npz.FORMAT, npz.write_npz),
}
ENDINGS = {".h5": "h5", ".hdf5": "h5", ".hdf": "h5", ".parquet": "parquet", ".npz": "npz"}
LAYOUTS = ("table", "per-protein")


def format_of(output: Path, name: str | None = None, layout: str = "table") -> Format:
    """The format called `name`, or by default the one that the output's ending tells; HDF5 for any other ending.

    Raises StoreError for a layout that the format does not have, and where a package is missing.
    """
    chosen = FORMATS[name or ENDINGS.get(output.suffix.lower(), "h5")]
    if layout == "per-protein":
        if chosen is not TABLE:
            raise StoreError(
                f"--layout per-protein is one of HDF5, and {output} would be {chosen.name}: name a .h5 file"
            )
        chosen = PER_PROTEIN
    chosen.check()
    return chosen
