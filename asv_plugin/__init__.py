"""What asv lacks for this suite. Loaded by asv through ``plugins`` in asv.conf.json.

``hooks`` has what is changed in asv; ``answer`` turns recorded values into the tables of the terminal and of the
Precision page; ``compare`` is `make ab`; ``record`` is `make bench-gpu`; ``figures`` is
`make readme`. Nothing here measures.
"""

import os
from pathlib import Path


def setup() -> None:
    """Called once by asv when it has loaded its configuration."""
    # Not above: `python -m asv_plugin.machine` and its like do without asv's hooks
    from asv_plugin import hooks
    from asv_plugin.answer import page  # noqa: F401 -- asv finds its publisher by itself

    # asv tells cells where the project is, but not those of an existing environment (-E existing)
    os.environ.setdefault("ASV_CONF_DIR", str(Path.cwd()))
    hooks.install()
