"""The oldest commit that a suite measures: ``"oldest_commit"`` in asv.conf.json."""

from collections.abc import Sequence

from asv_plugin.repository import git


def too_old(oldest: str | None, revisions: Sequence[str]) -> str | None:
    """Why commits or ranges that git names so cannot be measured, in one line; None where all can be.

    Where git does not know the oldest commit, as in another project, all can be. Commits of a history without it
    (not its ancestors) are measured.
    """
    if oldest is None:
        return None
    below = commits(f"{oldest}^@")
    asked = [line for each in revisions for line in commits(each, *([] if ".." in each else ["-1"]))]
    found = sorted(set(asked) & set(below))
    if not found:
        return None
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0][:8]}{more} cannot be measured: the suite measures commits from {oldest} on (asv.conf.json)"


def commits(revision: str, *options: str) -> list[str]:
    """The hashes of a revision or range; none where git knows no such. A name with a dash is not git's option."""
    return (git("rev-list", *options, "--end-of-options", revision, "--") or "").split()
