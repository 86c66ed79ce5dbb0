"""``python -m virnucpro``: the command of that name."""

import sys

from virnucpro.cli import main

sys.exit(main())
