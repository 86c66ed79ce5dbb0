"""The table of ``--skipped``: made beside its place, and moved there when the run is complete."""

import contextlib
import fcntl
import io
import os
import stat
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virnucpro.errors import UserError
from virnucpro.names import NOT_FINITE
from virnucpro.store.disk import NEW, lock, open_to_read, read_at, reason_of, sync
from virnucpro.store.errors import StoreError
from virnucpro.store.place import Named, among, check_parent, folder_of, place_of, same, stat_of
from virnucpro.store.run import OF_0_4, OURS, BusyError, begun_settings

if TYPE_CHECKING:  # it imports PyTorch
    from virnucpro.data.proteins import Skipped, Tally

COLUMNS = ("name", "reason", "file", "line", "detail")
HEADER = "\t".join(COLUMNS) + "\n"
ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})
"""What would end a cell or a line, as it may stand in the name of a file."""

AN_INPUT_OR_OUTPUT = "an input or the output"

Cells = tuple[str, ...]


class SkippedError(UserError):
    """The table cannot be written, or not there."""

    resume_helps = False


class SkipLog:
    """Counts what is skipped, by reason, and writes a line of each to the table of ``--skipped``.

    A context manager. `check` refuses a place before anything is spent, `open` makes the table beside it, `finish`
    moves it there. A run that fails leaves it beside where ``--resume`` can go on, and else nothing.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._file: io.TextIOBase | None = None
        self.tallies: dict[str, Tally] = {}
        self._kept: dict[Cells, None] = {}
        self._was_there = False  # the table beside, of an earlier run
        self._lock = threading.Lock()  # what is read and what is computed is skipped in two threads

    def check(self, output: Path, others: Mapping[str, Iterable[Named]], resume: bool, force: bool) -> None:
        """Raise UserError where no table may be written; nothing is made.

        `output`: where the run's is. `others`: files that the table is not, by what they are.
        """
        if self._path is None:
            return
        self._output, self._resume = output, resume
        with self._writing():
            self._place = place_of(self._path)
            self._new = self._place.with_name(self._place.name + NEW)
            check_parent(self._place, (*OURS, *OF_0_4))
            for each in (self._place, self._new):
                self._check_apart(each, others)
            self._check_what_is_there(force)

    def _check_apart(self, place: Path, others: Mapping[str, Iterable[Named]]) -> None:
        folder = folder_of(self._output)
        among_rows = among(folder) + (among(self._output) if self._output.is_dir() else [])
        what = next((what for what, paths in others.items() if same(place, paths)), None)
        if place in (self._output, folder) or same(place, [self._output]):
            what = AN_INPUT_OR_OUTPUT
        elif {self._output, folder} & {*place.parents} or same(place, among_rows):
            what = "among the run's own files"
        if what is not None:
            made = "" if place == self._place else f" is made in {place}, which"
            raise SkippedError(f"--skipped {self._path}{made} is {what}: name another file")

    def _check_what_is_there(self, force: bool) -> None:
        """The rule of the output: nothing is replaced without ``--force``, and only a table is continued."""
        name, anew = (
            f"--skipped {self._path}",
            "give another name, or --force to replace it when the run is complete",
        )
        unfinished = stat_of(self._new, follow_symlinks=False)
        if unfinished is not None and not (is_table(self._new) or is_empty(unfinished)):
            raise SkippedError(f"{name} is made in {self._new}, where something else is: move it")
        if unfinished is not None and not (self._resume or force):
            raise SkippedError(
                f"{self._new} is the table of a run that was stopped: continue that with --resume, or drop it "
                "with --force"
            )
        self._replaces = force or self._place.exists()
        if not force and self._place.exists():
            if not self._resume:
                raise SkippedError(f"{name} exists: {anew}")
            if not is_table(self._place):
                raise SkippedError(f"{name} is no table of skipped records, which could be continued: {anew}")
            if not can_continue(self._output):
                raise SkippedError(
                    f"{name} is of another run, since {self._output} has none to be continued: {anew}"
                )
        if unfinished and self._resume and not (force or can_continue(self._output)) and not_finite(self._new):
            raise SkippedError(
                f"{self._new} is the table of another run, since {self._output} has none to be continued: give "
                "another name, or drop it with --force"
            )

    def open(self) -> None:
        """Make the table, if one was asked for; UserError where that cannot be.

        With ``--resume`` it keeps what an earlier run left out for NaN, which is not computed again.
        """
        if self._path is None:
            return
        with self._writing():
            descriptor = locked(self._new)
            self._was_there = os.fstat(descriptor).st_size > 0
            if self._resume:
                self._kept = dict.fromkeys(cells for path in self._earlier() for cells in not_finite(path))
            beside = self._new.with_name(f"{self._new.name}.{uuid.uuid4().hex}")
            if self._was_there:  # what is kept is in it: it is replaced by a whole one
                others, descriptor = descriptor, os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                os.close(others)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
            self._file.write(HEADER)
            for cells in self._kept:
                self._write(cells)
            self._file.flush()
            if self._was_there:
                os.replace(beside, self._new)  # noqa: PTH105 - as all that is written

    def _earlier(self) -> list[Path]:
        """Tables of what is continued: of an unfinished run, or of a complete output."""
        with contextlib.suppress(StoreError):  # which the run tells
            if begun_settings(self._output) is not None:
                return [self._new if self._was_there else self._place]
        return [self._place, self._new] if self._output.exists() else []

    def __call__(self, skipped: "Skipped") -> None:
        """Another one."""
        from virnucpro.data.proteins import Tally

        line = "" if skipped.line is None else str(skipped.line)
        with self._lock, self._writing():
            self.tallies.setdefault(skipped.reason, Tally()).add(skipped.name, skipped.detail)
            cells = tuple(
                cell.translate(ESCAPES)
                for cell in (skipped.name, skipped.reason, skipped.file, line, skipped.detail)
            )
            if cells not in self._kept:  # a pack that was not committed is computed again
                self._write(cells)
                if skipped.reason == NOT_FINITE and self._file is not None:
                    self._file.flush()  # its pack may be on disk at any moment, and is not computed again

    def _write(self, cells: Sequence[str]) -> None:
        if self._file is not None:
            self._file.write("\t".join(cells) + "\n")

    def finish(self) -> None:
        """The output is complete: put the table on disk, and move it to its place."""
        if self._file is None:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            if not self._replaces and self._place.exists():  # whenever it came there
                raise FileExistsError(None, "something is there now")
            os.replace(self._new, self._place)  # noqa: PTH105
            sync(self._place.parent)
        except OSError as error:
            raise SkippedError(
                f"{self._output} is complete, but --skipped {self._path} cannot be written: {reason_of(error)}. "
                f"The table is {self._new}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except SkippedError:
            raise
        except StoreError as error:
            raise SkippedError(f"cannot write --skipped {self._path}: {error}") from error
        except OSError as error:
            raise SkippedError(f"cannot write --skipped {self._path}: {reason_of(error)}") from error

    def __enter__(self) -> "SkipLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # the first error is what the user must know
            self._file.close()
        if not self._stays(error):
            with contextlib.suppress(OSError):
                self._new.unlink()

    def _stays(self, error: BaseException | None) -> bool:
        """Whether a run with ``--resume`` may need the table."""
        try:
            if begun_settings(self._output) is not None:
                return self._was_there or not isinstance(error, BusyError)
        except StoreError:
            return self._was_there
        return self._was_there and self._resume and self._output.exists()


def can_continue(output: Path) -> bool:
    """Whether there is a run of this output, complete or not. What is damaged is told where it is read."""
    try:
        return output.exists() or begun_settings(output) is not None
    except StoreError:
        return True


def is_table(path: Path) -> bool:
    """Whether it is a regular file, and no link, that begins as such a table."""
    try:
        descriptor = open_to_read(path)
    except OSError:
        return False
    try:
        return read_at(descriptor, 0, len(HEADER)) == HEADER.encode()
    finally:
        os.close(descriptor)


def is_empty(about: os.stat_result) -> bool:
    """Whether it is a regular file without a byte, as a program leaves that was killed just then."""
    return stat.S_ISREG(about.st_mode) and not about.st_size


def not_finite(path: Path) -> list[Cells]:
    """The lines of a table that are of NaN; none where there is no table."""
    if not is_table(path):
        return []
    with path.open(encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        rows = (tuple(line.removesuffix("\n").split("\t")) for line in file if line.endswith("\n"))
        return [cells for cells in rows if len(cells) == len(COLUMNS) and cells[1] == NOT_FINITE]


def locked(path: Path) -> int:
    """A descriptor that locks a file, which is made if it is not there.

    SkippedError where another process has it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            if lock(descriptor, path):  # and it was not moved to its place meanwhile
                return descriptor
        except BlockingIOError as error:
            raise SkippedError(f"another process is writing {path}: wait for it, or name another file") from error
