"""What asv lacks for this suite. Loaded by asv through ``plugins`` in asv.conf.json."""

import os
from pathlib import Path

from asv_plugin import asked, direction, notes, page, progress, site


def setup() -> None:
    """Called once by asv when it has loaded its configuration."""
    from asv_plugin import machine  # not above: `python -m asv_plugin.machine` warns where it is imported already

    # asv tells cells where the project is, but not those of an existing environment (-E existing)
    os.environ.setdefault("ASV_CONF_DIR", str(Path.cwd()))
    asked.install()
    notes.install()
    machine.install()
    progress.install()
    site.install()
    direction.install()


__all__ = ["page"]  # asv finds its publisher by itself
