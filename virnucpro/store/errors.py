"""What can be the matter with an output, and whether ``--resume`` is a remedy."""

from pathlib import Path

from virnucpro.errors import UserError


class StoreError(UserError, RuntimeError):
    """The output cannot be written, exists, is damaged, or was begun with other settings.

    `resume_helps`: whether the same command with ``--resume`` can go on, once the cause is gone.
    """

    resume_helps = False


class WriteError(StoreError):
    """A write failed, as on a full disk. What was committed before is safe."""

    resume_helps = True


def damaged(path: Path) -> StoreError:
    """What to say of a file that does not hold what was written to it."""
    return StoreError(f"{path} is damaged: begin anew with --force")
