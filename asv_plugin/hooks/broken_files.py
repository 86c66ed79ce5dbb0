"""Keep broken files in results/ from stopping asv: each is named, and skipped."""

from collections.abc import Iterator
from functools import wraps
from typing import Any

from asv import util
from asv.commands import compare, publish, show
from asv.console import log
from asv.machine import iter_machine_files
from asv.results import Results

from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.results:Results.load": "(path, machine_name=None)",
    "asv.util:load_json": "(path, ",
    "asv.commands.compare:iter_machine_files": "(results_dir)",
    "asv.commands.publish:iter_machine_files": "(results_dir)",
    "asv.commands.show:iter_machine_files": "(results_dir)",
}
"""What of asv is hooked below, and how its parameters begin."""

BROKEN = (ValueError, TypeError, AttributeError, KeyError, IndexError)
"""What asv raises on files that are not what it wrote; it expects, and survives, its own UserError only."""


def install() -> None:
    """Replace what reads result and machine files."""
    skip_broken_files()
    for command in (compare, publish, show):  # each has imported the function by its name
        command.iter_machine_files = valid_machine_files


def skip_broken_files() -> None:
    """Make asv name and skip every file in results/ that it cannot use, not only those that are no JSON."""
    check_places(PLACES, __name__)
    load, read = Results.load.__func__, util.load_json

    # What reads result and machine files; who calls it catches UserError.
    @wraps(read)
    def read_object(path: str, *args: Any, **kw: Any) -> dict[str, Any]:
        try:
            content = read(path, *args, **kw)
        except BROKEN as error:
            raise util.UserError(f"{path}: {type(error).__name__}: {error}") from error
        if not isinstance(content, dict):
            raise util.UserError(f"{path}: not a JSON object")
        return content

    # The one place where asv reads a result file; who calls it catches UserError.
    def load_or_name(cls: type[Results], path: str, machine_name: str | None = None) -> Results:
        try:
            result = load(cls, path, machine_name)
            for name in result.get_all_result_keys():
                params = result.get_result_params(name)
                result.get_result_value(name, params)
                float(result.started_at[name])
        except BROKEN as error:
            raise util.UserError(
                f"{path}: not a result file of asv's ({type(error).__name__}: {error})"
            ) from error
        return result

    util.load_json, Results.load = read_object, classmethod(load_or_name)


def valid_machine_files(results_dir: str) -> Iterator[str]:
    """asv's machine files, without those that cannot be read: named, and skipped."""
    for path in iter_machine_files(results_dir):
        try:
            if not isinstance(util.load_json(path)["machine"], str):
                raise util.UserError("it names no machine")
        except (util.UserError, OSError, *BROKEN) as error:
            log.warning(f"Skipping {path}: {str(error).strip()}")
        else:
            yield path
