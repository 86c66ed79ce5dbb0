"""What asv lacks for this suite. Loaded by asv through ``plugins`` in asv.conf.json."""

from asv_plugin import notes, page, progress, site


def setup() -> None:
    """Called once by asv when it has loaded its configuration."""
    notes.install()
    progress.install()
    site.install()


__all__ = ["page"]  # asv finds its publisher by itself
