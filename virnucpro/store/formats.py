"""The formats of an output, by the name's ending, ``--format`` and ``--layout``."""

import contextlib
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from virnucpro.store import hdf5, npz, parquet, per_protein, tensor_files
from virnucpro.store.errors import StoreError, reading
from virnucpro.store.place import kind

Writer = Callable[..., bool]
"""``write(path, rows, attributes, shape, ragged, stop)``, as `write_hdf5`; what takes more, `Format` tells."""


@dataclass(frozen=True)
class Format:
    """A format: its name, what files of this version and older ones say that they are, the writer, and of a folder
    how the files that it `holds` are called, see `place_of`. `check` raises StoreError where a package is missing.
    `check_names` passes ``(name, protein)`` on, and raises as soon as their names cannot be those of such a file.
    `in_place`: whether the writer takes rows as they are on disk, see `write_hdf5`. `check_rows` raises StoreError
    for rows that such a file cannot have, see `tensor_files`. `with_proteins`: the writer takes ``proteins``, too,
    see `write_tensor_files`."""

    name: str
    contents: tuple[str, ...]
    write: Writer
    holds: tuple[str, ...] = ()
    check_names: Callable[[Iterable[tuple[str, str]]], Iterator[tuple[str, str]]] | None = None
    check: Callable[[], Any] = lambda: None
    in_place: Callable[[], bool] = lambda: False
    check_rows: Callable[[str, int, bool], None] = lambda dtype, layers, ragged: None
    with_proteins: bool = False

    def named(self, proteins: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        """The proteins, ``(name, protein)``, with their names checked where the format asks for it."""
        return self.check_names(proteins) if self.check_names else proteins


TABLE = Format("h5", (hdf5.FORMAT, hdf5.BEFORE_CHECKSUMS), hdf5.write_hdf5, in_place=hdf5.keeps_rows_in_place)
PER_PROTEIN = Format(
    "h5, per-protein",
    (per_protein.FORMAT, per_protein.BEFORE_CHECKSUMS),
    per_protein.write_per_protein,
    check_names=per_protein.nameable,
)
TENSOR_FILES = Format(
    "virnucpro",
    (tensor_files.FORMAT,),
    tensor_files.write_tensor_files,
    holds=tensor_files.HOLDS,
    check_names=tensor_files.nameable,
    check_rows=tensor_files.check_rows,
    with_proteins=True,
)
BY_NAME = {
    "h5": TABLE,
    "parquet": Format(
        "parquet",
        (parquet.FORMAT, parquet.BEFORE_CHECKSUMS),
        parquet.write_parquet,
        holds=parquet.HOLDS,
        check=parquet.import_pyarrow,
    ),
    "npz": Format("npz", (npz.FORMAT,), npz.write_npz, check_names=npz.nameable),
}
ENDINGS = {".h5": "h5", ".hdf5": "h5", ".hdf": "h5", ".parquet": "parquet", ".npz": "npz"}
LAYOUTS = ("table", "per-protein", "virnucpro")


def format_of(output: Path, name: str | None = None, layout: str = "table") -> Format:
    """The format called `name`, or by default the one that the output's ending tells; HDF5 for any other ending.

    Raises StoreError for a layout that the format does not have, and where a package is missing.
    """
    ending = ENDINGS.get(output.suffix.lower())
    if layout == "virnucpro":
        if name or ending:
            raise StoreError(
                f"--layout virnucpro is a folder of VirNucPro's files, and {output} would be {name or ending}: "
                "name a folder, as contigs_protein"
            )
        return TENSOR_FILES
    chosen = BY_NAME[name or ending or "h5"]
    if layout == "per-protein":
        if chosen is not TABLE:
            raise StoreError(
                f"--layout per-protein is one of HDF5, and {output} would be {chosen.name}: name a .h5 file"
            )
        chosen = PER_PROTEIN
    chosen.check()
    return chosen


ZIP = b"PK\x03\x04"


def start_of(path: Path) -> bytes:
    """The first four bytes of a regular file. StoreError for anything else: a pipe would wait for its writer."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise StoreError(f"cannot read {path}: it is {kind(about)}: name a file")
    with path.open("rb") as file:
        return file.read(4)


Reader = hdf5.Table | per_protein.PerProtein | parquet.Parquet | npz.Npz | tensor_files.TensorFiles
"""A file or folder of embeddings, read as far as it is asked for.

`settings`: its attributes; `names`, `lengths` (int64): of the sequences, in the order of the input; `embeddings`:
all rows, ``[N, *shape]`` or with residues ``[sum of lengths, *shape]``, an array or what is read like one.
``take(which)`` returns the embeddings of some numbers: an array with a row for each, or with residues a list of
arrays. ``verify()`` proves all of it, is False where it has no checksums, and raises StoreError for damage.
"""


def open_reader(path: Path) -> Reader:
    """A reader of what is at `path`, told by its content; StoreError for what is damaged or not of virnucpro's."""
    with reading(path):
        if (path / tensor_files.ABOUT).is_file():
            return tensor_files.TensorFiles(path)
        if path.is_dir():
            parquet.import_pyarrow()
            return parquet.Parquet(path)
        return npz.Npz(path) if start_of(path) == ZIP else open_hdf5(path)


def open_table(path: Path) -> hdf5.Table:
    """A table; StoreError for anything else."""
    with reading(path):
        if path.is_dir() or start_of(path) == ZIP:
            what = "a folder" if path.is_dir() else "a .npz file"
            raise StoreError(f"cannot read {path}: it is {what} and not a table (.h5)")
        found = open_hdf5(path)
    if not isinstance(found, hdf5.Table):
        found.close()
        raise StoreError(f"{path} is not a table, but of the format {found.settings['format']}")
    return found


def open_hdf5(path: Path) -> hdf5.Table | per_protein.PerProtein:
    """A reader of an HDF5 file; StoreError where it is not of virnucpro's."""
    if not h5py.is_hdf5(path):
        what = "it is no HDF5 file" if start_of(path) else "it is empty"
        raise StoreError(f"cannot read {path}: {what}, and does not hold embeddings of virnucpro's")
    file = h5py.File(path, "r")
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(file.close)
        content = file.attrs.get("format")
        reader: hdf5.Table | per_protein.PerProtein
        if content in TABLE.contents:
            reader = hdf5.Table(path, file)
        elif content in PER_PROTEIN.contents:
            reader = per_protein.PerProtein(path, file)
        else:
            raise StoreError(f"{path} does not hold embeddings of virnucpro's")
        on_failure.pop_all()
        return reader
