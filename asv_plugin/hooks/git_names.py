"""Keep names of commits and tags that begin with a dash from being git's options, some of which write files."""

from functools import wraps

from asv import util
from asv.plugins.git import Git

from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.plugins.git:Git.get_hash_from_name": "(self, name)",
    "asv.plugins.git:Git.get_tags": "(self)",
    "asv.plugins.git:Git._run_git": "(self, args, ",
}
"""What of asv is hooked or called below, and how its parameters begin."""


def install() -> None:
    """Replace what gives git a name; UserError as in `check_places`."""
    check_places(PLACES, __name__)
    get_hash = Git.get_hash_from_name

    # What `asv compare`, `continuous`, `profile` and `show` call with what they were given
    @wraps(get_hash)
    def get_hash_of_no_option(self: Git, name: str | None) -> str:
        if name and name.startswith("-"):
            raise util.UserError(f"git knows no commit {name!r}")
        return str(get_hash(self, name))

    # asv asks for a tag by its bare name, which may begin with a dash where the tag was fetched
    def get_tags(self: Git) -> dict[str, str]:
        lines = self._run_git(["tag", "-l", "--sort=taggerdate"]).splitlines()
        return {tag: self._run_git(["rev-list", "-n", "1", f"refs/tags/{tag}"]).strip() for tag in lines}

    Git.get_hash_from_name, Git.get_tags = get_hash_of_no_option, get_tags
