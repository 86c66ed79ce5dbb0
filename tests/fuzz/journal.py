"""Any bytes as what a run leaves behind: an error for the user, or a run that has all rows that it counts.

``python -m tests.fuzz.journal [CORPUS] [libFuzzer's options]``; needs ``pip install atheris``. The first byte of
an input chooses what the others are: the journal or the settings of a run, or the journal of a worker; as they
are, or behind checksums that agree, which no fuzzer finds by itself. The second is the size of the files of rows.
"""

import logging
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["virnucpro"]):
    import numpy as np

    from virnucpro.store.errors import StoreError
    from virnucpro.store.journal import Partial
    from virnucpro.store.place import folder_of
    from virnucpro.store.sealed import checked, sealed
    from virnucpro.store.segments import SegmentRows, missing_blocks, read_index
    from virnucpro.store.unfinished import JOURNAL, ROWS, SETTINGS

BASE = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
OUTPUT = Path(tempfile.mkdtemp(prefix="virnucpro-fuzz-", dir=BASE), "out.h5")
FOLDER = folder_of(OUTPUT)
SETTINGS_OF_A_RUN = {"model": "toy"}
COUNTED = checked(
    '{"sequences": 1, "residues": 1, "rows": 1, "name_bytes": 2, "digest": "", "skipped": 0}'
).encode()
ROW = 3


def behind_checksums(data: bytes) -> bytes:
    """Each line behind its checksum."""
    return b"\n".join(checked(line.decode(errors="replace")).encode() for line in data.split(b"\n"))


def check_run(journal: bytes, settings: bytes, size: int) -> None:
    """A run that is continued has what it counts."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    (FOLDER / JOURNAL).write_bytes(journal)
    (FOLDER / SETTINGS).write_bytes(settings)
    for name in ROWS:
        (FOLDER / name).write_bytes(b"n\n" * (size // 2))
    try:
        with Partial(OUTPUT, SETTINGS_OF_A_RUN, ROW, "float32", resume=True) as partial:
            found = partial.committed
            there = {name: (FOLDER / name).stat().st_size for name in ROWS}
            assert there["names"] == found.name_bytes <= size
            assert there["lengths"] == 8 * found.sequences <= size
            assert there["embeddings"] == 4 * ROW * found.rows <= size
            assert there["skipped"] == 8 * found.skipped <= size
    except StoreError as error:
        assert str(OUTPUT) in str(error)


def check_worker(journal: bytes, size: int) -> None:
    """All rows of a worker's blocks can be read, or that they are lost is told."""
    folder = OUTPUT.parent / "segments"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "one").mkdir(parents=True)
    (folder / "one" / JOURNAL).write_bytes(journal)
    (folder / "one" / "rows").write_bytes(b"n\n" * (size // 2))
    index = read_index(folder)
    if missing_blocks(index, len(index)):
        return
    rows = SegmentRows(index, ROW, np.dtype("float32"))
    try:
        names = sum(map(len, rows.names()))
        assert names == sum(map(len, rows.lengths())) == rows.committed.sequences
        assert sum(map(len, rows.embeddings())) == rows.committed.rows
    except StoreError:
        pass


def check(data: bytes) -> None:
    """One input."""
    if len(data) < 2:
        return
    kind, size, rest = data[0] % 6, data[1], data[2:]
    if kind == 0:
        check_run(rest, sealed(SETTINGS_OF_A_RUN).encode(), size)
    elif kind == 1:
        check_run(behind_checksums(rest), sealed(SETTINGS_OF_A_RUN).encode(), size)
    elif kind == 2:
        check_run(COUNTED, rest, size)
    elif kind == 3:
        check_run(COUNTED, sealed({"model": rest.decode(errors="replace")}).encode(), size)
    else:
        check_worker(rest if kind == 4 else behind_checksums(rest), size)


if __name__ == "__main__":
    logging.disable()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
