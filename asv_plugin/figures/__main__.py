"""Write the figures of README.md and docs/ from the records in results/.

python -m asv_plugin.figures [--check]
"""

import argparse
import sys
from pathlib import Path

from asv_plugin.figures import CannotWrite
from asv_plugin.figures.pages import outdated, replace
from asv_plugin.figures.texts import figures
from asv_plugin.hooks import log
from asv_plugin.hooks.broken_files import skip_broken_files
from asv_plugin.untrusted import for_terminal


def main() -> None:
    """Command line; ends with exit code 1 where a block cannot be written or, with --check, is out of date."""
    parser = argparse.ArgumentParser(
        prog="python -m asv_plugin.figures", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a block is out of date")
    check = parser.parse_args().check
    skip_broken_files()
    log.install()
    try:
        pages = outdated(Path(), figures(Path("results")))
    except CannotWrite as error:
        sys.exit(f"error: {for_terminal(str(error))}")
    for path, (text, blocks) in pages.items():
        print(f"{path}: {'out of date' if check else 'written'}: {', '.join(blocks)}")
        if not check:
            replace(path, text)
    if not pages:
        print("All figures are those of the newest records.")
    elif check:
        sys.exit("error: run make readme")


if __name__ == "__main__":
    main()
