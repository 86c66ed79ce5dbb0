"""Check the table of what computes rows, or renew it; see sources.txt."""

import argparse
import sys

from tests.engine import sources


def main() -> int:
    """Without a reason, check; with one, renew the table and add a line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=sources.COMMAND, description=__doc__)
    parser.add_argument("reason", nargs="?", help=f'"{sources.UNCHANGED}WHAT WAS COMPARED, ON WHICH DEVICE"')
    parser.add_argument("--new-version", metavar="WHY", help="rows are others; ENGINE has been raised")
    asked = parser.parse_args()
    if asked.reason and asked.new_version:
        parser.error("give a reason or --new-version, not both")
    try:
        if asked.reason or asked.new_version:
            print(sources.add(asked.new_version or asked.reason, new_version=bool(asked.new_version)))
        else:
            sources.check()
    except sources.TableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
