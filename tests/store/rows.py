"""A small run for the tests of the store: five sequences, appended as `virnucpro embed` does it."""

import h5py
import numpy as np

from virnucpro.store.hdf5 import write_hdf5
from virnucpro.store.journal import Partial

SETTINGS = {"precision": "fp32", "layers": [6], "max_length": None}
SEQUENCES = [("α", 3), ("b", 1), ("c d", 2), ("b", 4), ("e", 1)]


def never() -> bool:
    return False


def partial(output, resume=False, settings=SETTINGS, dtype="float32"):
    return Partial(output, settings, 4, dtype, resume)


def append(to: Partial, numbers, ragged=False):
    for number in numbers:
        name, residues = SEQUENCES[number]
        rows = residues if ragged else 1
        values = (10.0 * number + np.arange(4.0 * rows)).reshape(rows, 4).astype(np.float32)
        to.append([name], [residues], values, f"digest {number}")


def finish(run, attributes=None, shape=(4,), ragged=False, stop=never) -> bool:
    attributes = {"input_digest": run.committed.digest} if attributes is None else attributes
    return run.finish(lambda path, rows: write_hdf5(path, rows, attributes, shape, ragged, stop))


def whole_run(output, resume=False, ragged=False, dtype="float32"):
    """All sequences, committed after every second one; returns the output."""
    with partial(output, resume=resume, dtype=dtype) as run:
        for number in range(run.committed.sequences, len(SEQUENCES)):
            append(run, [number], ragged)
            if number % 2:
                run.commit()
        assert finish(run, ragged=ragged)
    return output


def datasets(path):
    with h5py.File(path) as file:
        return {name: file[name][()].tolist() for name in file}
