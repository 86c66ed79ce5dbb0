"""All commands of asv that need commits: say in a folder without a repository what is missing."""

from pathlib import Path

from asv import util
from asv.repo import Repo

from asv_plugin.hooks.places import check_places
from asv_plugin.repository import CLONE, no_repository

PLACES = {
    "asv.repo:get_repo": "(conf)",
    "asv.repo:Repo.url_match": "(url)",
}
"""What of asv finds the class below, and how its parameters begin."""


def install() -> None:
    """Check asv, which asks all kinds of repositories, this module's last; UserError as in `check_places`."""
    check_places(PLACES, __name__)


class NoRepositoryHere(Repo):
    """A folder without a repository, as a downloaded archive: asv "can not determine what kind of DVCS to use"."""

    @classmethod
    def url_match(cls, url: str) -> bool:
        """Raise UserError for a folder; what else there is, asv names itself."""
        if Path(url).is_dir():
            raise util.UserError(no_repository() or CLONE)
        return False
