"""Check, before an hour is spent, that a benchmark of the current commit can mean something.

python -m asv_plugin.preflight [--bench REGEX]
"""

import argparse
import os
import re
import sys
from pathlib import Path

from asv_plugin.repository import CLONE, git, no_repository
from benchmarks.suite.workloads import FASTA_VARIABLE, read_fasta


def problem(bench: str = ".") -> str | None:
    """What makes benchmarking HEAD impossible, and the remedy; None where nothing does. `bench`: which cells."""
    try:
        re.compile(bench)
    except re.error as error:
        return f"BENCH={bench!r} is no regular expression ({error}): escape ( [ + and the like with a backslash"
    missing = no_repository()
    if missing:
        return missing
    if Path(git("rev-parse", "--show-toplevel") or "") != Path.cwd().resolve():
        return CLONE
    if git("rev-parse", "--verify", "HEAD") is None:
        return "this repository has no commit yet, and asv needs commits: commit first"
    fasta = os.environ.get(FASTA_VARIABLE)
    if fasta:
        try:
            read_fasta(Path(fasta))
        except ValueError as error:
            return str(error)
    return None


def uncommitted() -> list[str]:
    """Files of the measured program that differ from HEAD."""
    changed = git("status", "--porcelain", "--", "virnucpro", "pyproject.toml") or ""
    return [line[3:] for line in changed.splitlines()]


def main() -> None:
    """Command line: warn, or end with exit code 1 and the reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--bench", default=".", help="regular expression of the cells")
    reason = problem(parser.parse_args().bench)
    if reason:
        sys.exit(f"error: {reason}")
    changed = uncommitted()
    if changed:
        print(
            f"warning: uncommitted changes in {', '.join(changed)} are not measured: "
            "the benchmark builds the commit HEAD",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
