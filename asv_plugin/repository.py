"""Ask git about the repository in the current directory."""

import subprocess
import sys


def git(*arguments: str) -> str | None:
    """What git prints, or None where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def commit_hash(name: str) -> str:
    """The full hash of a commit; ends the program where git knows none of that name."""
    commit = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if commit is None:
        sys.exit(f"error: git knows no commit {name!r}")
    return commit
