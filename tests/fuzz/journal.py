"""Any bytes as what a run leaves behind: an error for the user, or a run that has all rows that it counts.

``python -m tests.fuzz.journal [CORPUS] [libFuzzer's options]``; needs ``pip install atheris``. The first byte of
an input chooses what the others are: the journal of a worker or the settings of a run; as they are, or behind
checksums that agree, which no fuzzer finds by itself. The second is the size of the files of rows.
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["virnucpro"]):
    import numpy as np

    from virnucpro.store.errors import StoreError
    from virnucpro.store.journal import line_of, sealed
    from virnucpro.store.place import folder_of
    from virnucpro.store.rows import Rows
    from virnucpro.store.run import SEGMENTS, SETTINGS, Run
    from virnucpro.store.segments import JOURNAL, NAMES, ROWS

BASE = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
OUTPUT = Path(tempfile.mkdtemp(prefix="virnucpro-fuzz-", dir=BASE), "out.h5")
FOLDER = folder_of(OUTPUT)
RUN = "a" * 32
SETTINGS_OF_A_RUN = {"model": "toy", "run": RUN, "store": 2}
ROW = 3


def behind_checksums(data: bytes) -> bytes:
    """Each line behind its checksum."""
    found = []
    for line in data.split(b"\n"):
        try:
            found.append(line_of(json.loads(line)))
        except (ValueError, RecursionError):
            found.append(line_of(line.decode(errors="replace")))
    return b"".join(found)


def check_run(journal: bytes, settings: bytes, size: int) -> None:
    """All rows of a run that is continued can be read, or that they are lost is told."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    segment = FOLDER / SEGMENTS / RUN / "one"
    segment.mkdir(parents=True)
    (FOLDER / SETTINGS).write_bytes(settings)
    (segment / JOURNAL).write_bytes(journal)
    (segment / ROWS).write_bytes(bytes(4096 + 12 * size))
    (segment / NAMES).write_bytes(b"n\n" * size)
    try:
        with Run(OUTPUT, resume=True) as run:
            run.begin({"model": "toy"})
            packs = [next(iter(run.stored[number].values())) for number in sorted(run.stored)]
            rows = Rows(packs, ROW, np.dtype("float32"))
            names = sum(map(len, rows.names()))
            assert names == sum(map(len, rows.lengths())) == rows.counts.sequences
            assert sum(map(len, rows.embeddings())) == rows.counts.rows
    except StoreError as error:
        assert str(OUTPUT) in str(error) or str(FOLDER) in str(error)
    found = {path.relative_to(OUTPUT.parent).parts[0] for path in OUTPUT.parent.rglob("*")}
    assert found <= {FOLDER.name}


def check(data: bytes) -> None:
    """One input."""
    if len(data) < 2:
        return
    kind, size, rest = data[0] % 4, data[1], data[2:]
    if kind == 0:
        check_run(rest, sealed(SETTINGS_OF_A_RUN).encode(), size)
    elif kind == 1:
        check_run(behind_checksums(rest), sealed(SETTINGS_OF_A_RUN).encode(), size)
    elif kind == 2:
        check_run(b"\n12345678 {}\n", rest, size)
    else:
        check_run(
            b"\n12345678 {}\n", sealed({"model": "toy", "run": rest.decode(errors="replace")}).encode(), size
        )


if __name__ == "__main__":
    logging.disable()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
