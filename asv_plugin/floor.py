"""The oldest commit that a suite measures: ``"oldest_commit"`` in asv.conf.json."""

import subprocess
from collections.abc import Sequence


def too_old(oldest: str | None, revisions: Sequence[str]) -> str | None:
    """Why commits or ranges that git names so cannot be measured, in one line; None where all can be.

    Where git does not know the oldest commit, as in another project, all can be. Commits of a history without it
    (not its ancestors) are measured.
    """
    if oldest is None:
        return None
    below = git_lines("rev-list", f"{oldest}^@")
    asked = [line for each in revisions for line in git_lines("rev-list", *([] if ".." in each else ["-1"]), each)]
    found = sorted(set(asked) & set(below))
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0][:8]}{more} cannot be measured: the suite measures commits from {oldest} on (asv.conf.json)"


def git_lines(*arguments: str) -> list[str]:
    """The lines that git prints; none where it fails."""
    done = subprocess.run(["git", *arguments, "--"], capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []
