"""Keep broken files in results/ from stopping asv: each is named, and skipped (`asv_plugin.checks`)."""

import math
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from asv import util
from asv.commands import compare, publish, show
from asv.console import log
from asv.machine import iter_machine_files
from asv.results import Results

from asv_plugin.checks import check_benchmark, check_machine, check_result
from asv_plugin.hooks.places import check_places

PLACES = {
    "asv.results:Results.load": "(path, machine_name=None)",
    "asv.results:Results.load_data": "(self, result_dir)",
    "asv.util:load_json": "(path, ",
    "asv.commands.compare:iter_machine_files": "(results_dir)",
    "asv.commands.publish:iter_machine_files": "(results_dir)",
    "asv.commands.show:iter_machine_files": "(results_dir)",
}
"""What of asv is hooked below, and how its parameters begin."""

BROKEN = (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError, RecursionError)
"""What asv raises on files that are not what it wrote; it expects, and survives, its own UserError only."""

OTHER_VERSION = ("old file format", "format that is newer")
"""How asv says that a file is another version's, and not broken."""


def install() -> None:
    """Replace what reads result and machine files."""
    skip_broken_files()
    for command in (compare, publish, show):  # each has imported the function by its name
        command.iter_machine_files = valid_machine_files


def skip_broken_files() -> None:
    """Make asv name and skip every file in results/ that it cannot use, not only those that are no JSON."""
    check_places(PLACES, __name__)
    load, load_data, read = Results.load.__func__, Results.load_data, util.load_json

    # What reads result and machine files; who calls it catches UserError.
    @wraps(read)
    def read_object(path: str, *args: Any, **kw: Any) -> dict[str, Any]:
        try:
            content = read(path, *args, **kw)
        except BROKEN as error:
            raise util.UserError(f"{path}: {type(error).__name__}: {error}") from error
        if not isinstance(content, dict):
            raise util.UserError(f"{path}: not a JSON object")
        return usable_benchmarks(path, content) if Path(path).name == "benchmarks.json" else content

    # The one place where asv reads a result file; who calls it catches UserError.
    def load_or_name(cls: type[Results], path: str, machine_name: str | None = None) -> Results:
        try:
            result = load(cls, path, machine_name)
            check_result(result)
        except (OSError, *BROKEN) as error:
            raise util.UserError(
                f"{path}: not a result file of asv's ({type(error).__name__}: {error})"
            ) from error
        for name, values in result._results.items():
            if any(value and math.isinf(value) for value in values or ()):
                log.warning(f"{path}: {name}: an infinite value is taken for n/a")
                result._results[name] = [math.nan if value and math.isinf(value) else value for value in values]
        return result

    # What `asv run` adds to, of the same commit and environment
    @wraps(load_data)
    def load_data_or_start_anew(self: Results, result_dir: str) -> None:
        try:
            load_data(self, result_dir)
        except util.UserError as error:
            if any(words in str(error) for words in OTHER_VERSION):
                raise
            path = Path(result_dir, self._filename)
            kept = path.with_name(f"{path.name}.broken")
            path.replace(kept)
            log.warning(f"{str(error).strip()}. It is kept as {kept}, and {path.name} is written anew")

    util.load_json, Results.load = read_object, classmethod(load_or_name)
    Results.load_data = load_data_or_start_anew


def usable_benchmarks(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """benchmarks.json without the entries that cannot be used: named, and skipped."""
    found = {}
    for name, entry in content.items():
        try:
            if name != "version":  # asv's own, of the file
                check_benchmark(name, entry)
        except BROKEN as error:
            log.warning(f"Skipping {name} in {path}: {error}")
        else:
            found[name] = entry
    return found


def valid_machine_files(results_dir: str) -> Iterator[str]:
    """asv's machine files, without those that cannot be read: named, and skipped."""
    for path in iter_machine_files(results_dir):
        try:
            check_machine(util.load_json(path))
        except (util.UserError, OSError, *BROKEN) as error:
            log.warning(f"Skipping {path}: {str(error).strip()}")
        else:
            yield path
