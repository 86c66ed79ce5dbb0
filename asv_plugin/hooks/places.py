"""Check that asv is the version that the hooks are written for, place by place."""

import inspect
import pkgutil
from collections.abc import Iterable
from pathlib import Path

import asv
from asv import util

SUPPORTED = "0.6.6"


def check_places(places: dict[str, str], who: str) -> None:
    """Stop with a clear error unless each place of asv that `who` knows has parameters that begin as written."""
    for place, parameters in places.items():
        try:
            found = str(inspect.signature(pkgutil.resolve_name(place)))
        except (ImportError, AttributeError, TypeError):
            found = ""
        require(found.startswith(parameters), place, who)


def check_page(page: str, texts: Iterable[str], who: str) -> None:
    """Stop with a clear error unless a file of asv's site has each of the texts that `who` replaces."""
    path = Path(inspect.getfile(asv)).parent / "www" / page
    content = path.read_text(encoding="utf-8") if path.exists() else ""
    for text in texts:
        require(text in content, f"www/{page}", who)


def require(found: bool, place: str, who: str) -> None:
    """Stop unless `place` was found as it is in the supported asv."""
    if not found:
        raise util.UserError(
            f"{who} knows {place} as it is in asv {SUPPORTED}, and in asv {asv.__version__} it is "
            f"another: install asv=={SUPPORTED}"
        )
