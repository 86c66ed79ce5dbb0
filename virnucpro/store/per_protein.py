"""Embeddings as UniProt ships them: an HDF5 file with a dataset for each protein, named by its accession."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from virnucpro.data.fasta import FastaError
from virnucpro.data.proteins import Names, shown
from virnucpro.store.disk import FileOfHDF5
from virnucpro.store.hdf5 import attribute
from virnucpro.store.rows import RowSource, batches, with_skipped

FORMAT = "virnucpro embeddings per protein 1"

UNIPROT_NAME = re.compile(r"(?:sp|tr)\|([^|]+)\|[^|]*")
"""``sp|P12345|AATM_RABIT``, as UniProt names its sequences: the accession is what stands in the middle."""


def key(name: str) -> str:
    """What the dataset of this protein is called: its accession where UniProt named it, else all of its name."""
    found = UNIPROT_NAME.fullmatch(name)
    return found[1] if found else name


def checked(proteins: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The proteins, ``(name, protein)``, as they are; FastaError where one cannot be named in such a file.

    ``/`` and a name of one dot mean a path to HDF5; two datasets cannot have one name. UniProt's accessions are
    unique and have neither.
    """
    seen = Names()
    for name, protein in proteins:
        dataset = key(name)
        if "/" in dataset or dataset in (".", ""):
            raise FastaError(
                f"sequence {shown(name)!r}: HDF5 takes it for a path and not for a dataset's name: rename it "
                "(many programs write _ for /), or leave out --layout per-protein"
            )
        if not seen.add(dataset):
            raise FastaError(
                f"two sequences would be the dataset {shown(dataset)!r}, and a file has one of a name: rename "
                "one, or leave out --layout per-protein, which keeps both"
            )
        yield name, protein


def write_per_protein(
    path: Path,
    rows: RowSource,
    attributes: dict[str, Any],
    shape: tuple[int, ...],
    ragged: bool,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """As `write_hdf5`, with a dataset ``[*shape]`` or ``[residues, *shape]`` for each protein at the root.

    Datasets are in the order of the input. Each has the attribute ``length``, the residues embedded, and where it
    is named by an accession ``original_id``, the name. ``model_name`` at the root is what ProtSpace shows.
    """
    with FileOfHDF5(path) as raw, h5py.File(raw, "w", track_order=True) as file:
        settings = {"model_name": attributes.get("model", "ESM-2"), **with_skipped(attributes, rows)}
        file.attrs.update({"format": FORMAT, "ragged": ragged, "dtype": rows.dtype.name, "row_shape": shape})
        for name, value in settings.items():
            file.attrs[name] = attribute(value)
        for names, lengths, values in batches(rows, ragged):
            if raw.failure or stop():
                return False
            parts = np.split(values, np.cumsum(lengths)[:-1]) if ragged else values
            for name, length, value in zip(names, lengths, parts, strict=True):
                dataset = file.create_dataset(
                    key(name), data=value.reshape(-1, *shape) if ragged else value.reshape(shape)
                )
                dataset.attrs["length"] = length
                if key(name) != name:
                    dataset.attrs["original_id"] = name
    return True
