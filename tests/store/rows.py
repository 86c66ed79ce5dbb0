"""A small run for the tests of the store: five sequences, a pack each, written as `virnucpro embed` does it."""

import json

import h5py
import numpy as np

from virnucpro.store.hdf5 import CHECKSUMS, attributes_of, crc_of_json, write_hdf5
from virnucpro.store.rows import Counts
from virnucpro.store.run import Run
from virnucpro.store.settings import check_same

SETTINGS = {"precision": "fp32", "layers": [6], "max_length": None}
SEQUENCES = [("α", 3), ("b", 1), ("c d", 2), ("b", 4), ("e", 1)]


def never() -> bool:
    return False


class SmallRun(Run):
    """A run of one worker, with what earlier ones left."""

    def __init__(self, output, resume=False, settings=SETTINGS, dtype="float32"):
        super().__init__(output, resume, in_place=True)
        try:
            if self.begun is not None:
                check_same(self.begun, settings, f"{self.folder} was begun")
            self.begin(settings)
            self.add(pack for found in self.stored.values() for pack in found.values())
            self.worker = self.writer(dtype)
        except BaseException:
            self.close()
            raise

    @property
    def counts(self):
        """Of what is on disk."""
        return Counts.of(list(self.done.values()))

    def append(self, number, names, lengths, values, digest):
        self.worker.append(number, names, lengths, values, digest)

    def commit(self):
        self.add(self.worker.commit())

    def close(self):
        self.__exit__()

    def __exit__(self, *_):
        if hasattr(self, "worker"):
            self.worker.close()
        super().__exit__()


partial = SmallRun


def append(to: SmallRun, numbers, ragged=False):
    for number in numbers:
        name, residues = SEQUENCES[number]
        rows = residues if ragged else 1
        values = (10.0 * number + np.arange(4.0 * rows)).reshape(rows, 4).astype(to.worker.dtype)
        to.append(number, [name], [residues], values, f"digest {number}")


def rows_in(run, size=4):
    """All rows, committed."""
    run.commit()
    return run.rows(sorted(run.done), size, run.worker.dtype.name)


def finish(run, attributes=None, shape=(4,), ragged=False, stop=never) -> bool:
    rows = rows_in(run)
    attributes = {"input_digest": f"digest {len(run.done) - 1}"} if attributes is None else attributes
    attributes = {"pool": "residue" if ragged else "mean", **attributes}

    def write(path, in_place):
        return write_hdf5(path, rows, attributes, shape, ragged, stop, in_place=in_place)

    return run.finish(rows, write, stop)


def whole_run(output, resume=False, ragged=False, dtype="float32"):
    """All sequences, committed after every second one; returns the output."""
    with partial(output, resume=resume, dtype=dtype) as run:
        for number in range(len(SEQUENCES)):
            if number not in run.done:
                append(run, [number], ragged)
            if number % 2:
                run.commit()
        assert finish(run, ragged=ragged)
    return output


def datasets(path):
    """What is in a file; without the pieces, which follow from how it was written."""
    with h5py.File(path) as file:
        return {name: file[name][()].tolist() for name in file if name != "pieces"}


def as_another_run_has_it(path, **attributes):
    """Give a file these attributes, and the checksum that goes with them."""
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
        checksums = json.loads(file.attrs[CHECKSUMS])
        file.attrs[CHECKSUMS] = json.dumps({**checksums, "attributes": crc_of_json(attributes_of(file))})
