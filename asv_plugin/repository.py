"""Ask git about the repository in the current directory."""

import shutil
import subprocess
import sys
from pathlib import Path

CLONE = "this folder is not a git repository, which asv needs: clone the project, or a bundle of it, with git"


def git(*arguments: str) -> str | None:
    """What git prints, or None where it fails or is not installed."""
    done = run_git(*arguments)
    return done.stdout.rstrip("\n") if done and done.returncode == 0 else None


def run_git(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run git; None where it is not installed."""
    program = shutil.which("git")
    if program is None:
        return None
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def no_repository() -> str | None:
    """Why git knows nothing here, and the remedy, in a line; None where it knows a repository."""
    done = run_git("rev-parse", "--show-toplevel")
    if done is None:
        return "git is not installed, which asv needs: install git"
    if done.returncode and Path(".git").exists():
        return f"git cannot read this repository: {' '.join(done.stderr.split())}"
    return CLONE if done.returncode else None


def commit_hash(name: str) -> str:
    """The full hash of a commit; ends the program where git knows none of that name."""
    commit = find_commit(name)
    if commit is None:
        sys.exit(f"error: {unknown(name)}")
    return commit


def find_commit(name: str) -> str | None:
    """The full hash of a commit, or None where git knows none of that name."""
    return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def unknown(name: str) -> str:
    """Why there is no commit of that name."""
    return no_repository() or f"git knows no commit {name!r}"
