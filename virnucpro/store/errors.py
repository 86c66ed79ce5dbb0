"""What can be the matter with an output, and whether ``--resume`` is a remedy."""

import contextlib
import os
from collections.abc import Iterator

from virnucpro.errors import UserError


class StoreError(UserError, RuntimeError):
    """The output cannot be written, exists, is damaged, or was begun with other settings.

    `resume_helps`: whether the same command with ``--resume`` can go on, once the cause is gone.
    """

    resume_helps = False


class WriteError(StoreError):
    """A write failed, as on a full disk. What was committed before is safe."""

    resume_helps = True


class LostError(StoreError):
    """Rows that were on disk are not what was written. Those of the other packs are safe."""

    resume_helps = True


def damaged(path: str | os.PathLike[str], what: str = "") -> StoreError:
    """What to say of a file that does not hold what was written to it."""
    return StoreError(f"{os.fspath(path)} is damaged: {what + '; ' if what else ''}begin anew with --force")


@contextlib.contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file it is that cannot be read, or lacks what virnucpro's have.

    h5py, NumPy, zipfile, zlib and pyarrow raise errors of every type for some damage.
    """
    try:
        yield
    except (StoreError, MemoryError):
        raise
    except OSError as error:
        raise StoreError(f"cannot read {os.fspath(path)}: {error}") from error
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}"[:300]) from error
