"""VirNucPro's own files: a folder of ``output_1_ESM.pt`` and so on, each beside a FASTA file of its proteins.

Names, numbers and contents are what its programs write and read (github.com/Li-Jing-1997/VirNucPro): files count
from 1, and are made in that order, because its programs pair those of two folders as the file system lists them.
"""

import functools
import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from virnucpro.errors import FastaError
from virnucpro.names import Names, shown
from virnucpro.store.errors import StoreError, damaged
from virnucpro.store.hdf5 import MOST_SHRUNK, attribute, crc_of_json
from virnucpro.store.rows import RowSource, batches, with_skipped

FORMAT = "virnucpro files 1"
RECORDS = 10_000
"""Sequences of a file, as VirNucPro cuts its FASTA files."""

ABOUT = "virnucpro.json"
"""The file that tells what an HDF5 file has as attributes (``settings``), and of each pair of files how many
sequences it has and the CRC-32 of each (``files``); ``crc32`` is that of both, as JSON with sorted names."""

HOLDS = ("output_*_ESM.pt", "output_*.fa", ABOUT)

READ_BYTES = 2**20


def check_rows(dtype: str, layers: int, ragged: bool) -> None:
    """Raise StoreError for rows that are not a float32 vector each, which is what VirNucPro's programs read."""
    others = {
        "one row a protein, and --pool residue has one a residue": ragged,
        f"one layer, and --layers has {layers}": layers != 1,
        f"float32, and --dtype is {dtype}": dtype != "float32",
    }
    for what, is_so in others.items():
        if is_so:
            raise StoreError(f"--layout virnucpro: VirNucPro reads {what}; leave out one of the two")


def nameable(proteins: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The proteins, ``(name, protein)``, as they are; FastaError where a name comes again.

    VirNucPro finds a protein by its name: the row of one would stand for both.
    """
    seen = Names()
    for name, protein in proteins:
        if not seen.add(name):
            raise FastaError(
                f"two sequences are called {shown(name)!r}, and VirNucPro finds a row by its name: rename one, or "
                "leave out --layout virnucpro, which keeps both"
            )
        yield name, protein


def pair(number: int) -> tuple[str, str]:
    """The names of a file of embeddings, from 1 on, and of that of its proteins."""
    return f"output_{number}_ESM.pt", f"output_{number}.fa"


def write_tensor_files(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
    *,
    proteins: Iterable[tuple[str, str]],
) -> bool:
    """As `write_hdf5`, into a new folder ``path``; `RECORDS` rows are held at a time.

    A ``.pt`` is ``{"proteins": [names], "data": [float32 tensors [D]]}``, each tensor of a storage of its own, as
    VirNucPro's. `proteins`: ``(name, protein)`` of the whole input, as they were embedded; StoreError where they
    are not those of the rows.
    """
    check_rows(rows.dtype.name, math.prod(shape[:-1]), ragged)
    settings = {name: attribute(value) for name, value in with_skipped(attributes, rows).items()}
    files: list[list[int]] = []
    path.mkdir()
    records = paired(rows, proteins)
    while some := list(itertools.islice(records, RECORDS)):
        if stop():
            return False
        embedded, fasta = (path / name for name in pair(len(files) + 1))
        content = "".join(f">{name}\n{protein}\n" for name, protein, _ in some).encode()
        fasta.write_bytes(content)
        files.append([len(some), save(embedded, some), zlib.crc32(content)])
    settings |= {"format": FORMAT, "dtype": rows.dtype.name, "row_shape": list(shape), "ragged": ragged}
    about = {"settings": settings, "files": files}
    (path / ABOUT).write_text(json.dumps({**about, "crc32": crc_of_json(about)}, indent=1), encoding="utf-8")
    return True


def paired(rows: RowSource, proteins: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, protein and row ``[D]`` of each sequence; StoreError unless the proteins are those of the rows."""
    left_out = set(rows.skipped().tolist()) if rows.counts.skipped else set()
    embedded = (each for place, each in enumerate(proteins) if place not in left_out)
    for names, lengths, values in batches(rows, False):
        for name, length, row in zip(names, lengths.tolist(), values, strict=True):
            found, protein = next(embedded, ("", ""))
            if found != name or len(protein) != length:
                raise of_another_input(name)
            yield name, protein, row.copy()  # alone, so that neither this nor a tensor of it keeps others
    for name, _ in embedded:
        raise of_another_input(name)


def of_another_input(name: str) -> StoreError:
    """What to say where rows and proteins differ."""
    return StoreError(
        f"the input is not the one that was embedded: {shown(name)!r} is not in its place. VirNucPro's files hold "
        "the proteins, too, which are read from the input again"
    )


def save(path: Path, records: list[tuple[str, str, np.ndarray]]) -> int:
    """Write a ``.pt`` of these; returns the CRC-32 of its bytes, which do not depend on its name."""
    import torch

    data = [torch.from_numpy(row) for _, _, row in records]
    with path.open("wb") as raw:
        file = Checked(raw)
        torch.save({"proteins": [name for name, _, _ in records], "data": data}, file)  # type: ignore[arg-type]
    return file.crc


class Checked:
    """A file that is written, and the CRC-32 of its bytes."""

    def __init__(self, file: IO[bytes]):
        self._file, self.crc = file, 0

    def write(self, data: Any) -> int:
        """As a file's."""
        self.crc = zlib.crc32(data, self.crc)
        return self._file.write(data)

    def flush(self) -> None:
        """As a file's."""
        self._file.flush()


class TensorFiles:
    """A folder of these files. One file of embeddings is held.

    Raises StoreError for one that is damaged, and what PyTorch raises.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.settings: dict[str, Any] = about["settings"]
        self._files: list[list[int]] = about["files"]
        if self.settings.get("format") != FORMAT:
            raise StoreError(f"{folder} does not hold embeddings of virnucpro's")
        if about.pop("crc32") != crc_of_json(about):
            raise damaged(folder, f"{ABOUT} is not what was written")
        expected = {name for number in range(1, len(self._files) + 1) for name in pair(number)}
        if found := expected ^ {path.name for path in folder.glob("output_*")}:
            what = "lacks" if found & expected else "was not written with"
            raise damaged(folder, f"it {what} {min(found & expected or found)}")
        self._begins = np.cumsum([0, *(count for count, _, _ in self._files)])
        self._held: tuple[int, np.ndarray] | None = None

    @functools.cached_property
    def _records(self) -> list[tuple[str, int]]:
        """Name and residues of each sequence."""
        found = []
        for number, (count, _, _) in enumerate(self._files, start=1):
            path = self._folder / pair(number)[1]
            lines = path.read_bytes().decode().split("\n")
            if len(lines) != 2 * count + 1 or any(not line.startswith(">") for line in lines[:-1:2]):
                raise damaged(path, "it does not have the proteins that were written")
            found += [(name[1:], len(protein)) for name, protein in zip(lines[:-1:2], lines[1::2], strict=True)]
        return found

    @property
    def names(self) -> list[str]:
        """In the order of the input."""
        return [name for name, _ in self._records]

    @property
    def lengths(self) -> np.ndarray:
        """Residues embedded of each, int64."""
        return np.array([length for _, length in self._records], dtype=np.int64)

    @property
    def embeddings(self) -> np.ndarray:
        """All rows."""
        none = np.empty((0, *self.settings["row_shape"]), np.float32)
        return np.concatenate([none, *(self._rows(index) for index in range(len(self._files)))])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def take(self, which: range) -> np.ndarray:
        """See `formats.Reader`."""
        files = (int(np.searchsorted(self._begins, number, side="right")) - 1 for number in which)
        parts = [self._rows(file)[number - self._begins[file]] for file, number in zip(files, which, strict=True)]
        return np.array(parts, np.float32).reshape(len(parts), *self.settings["row_shape"])

    def _rows(self, index: int) -> np.ndarray:
        """The rows of a file, counted from 0."""
        if self._held is None or self._held[0] != index:
            path = self._folder / pair(index + 1)[0]
            names, rows = loaded(path, self.settings["row_shape"])
            if names != self.names[self._begins[index] : self._begins[index + 1]]:
                raise damaged(path, "it does not have the rows that were written")
            self._held = index, rows
        return self._held[1]

    def verify(self) -> bool:
        """Prove the bytes of all files."""
        for number, (_, *crcs) in enumerate(self._files, start=1):
            for name, crc in zip(pair(number), crcs, strict=True):
                if crc != crc_of_file(self._folder / name):
                    raise damaged(self._folder / name, "it is not what was written")
        return True

    def close(self) -> None:
        """Nothing is open."""


def loaded(path: Path, shape: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """Names, and rows ``[n, *shape]``, of a ``.pt``; nothing in it is executed."""
    import torch

    with zipfile.ZipFile(path) as file:
        if sum(each.file_size for each in file.infolist()) > MOST_SHRUNK * path.stat().st_size:
            raise damaged(path, "it would have more bytes than a file of this size holds")
    found = torch.load(path, map_location="cpu", weights_only=True)
    names, data = found["proteins"], found["data"]
    of_this_form = all(list(row.shape) == list(shape) and row.dtype == torch.float32 for row in data)
    if not of_this_form or len(names) != len(data):
        raise damaged(path, f"it does not have a float32 tensor {list(shape)} for each name")
    return names, torch.stack(data).numpy()


def crc_of_file(path: Path) -> int:
    """The CRC-32 of a file's bytes."""
    crc = 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            crc = zlib.crc32(data, crc)
    return crc
