"""What asv and this plugin can use of the files in results/, which anyone may send: types, lengths and sizes.

asv itself checks next to nothing, and fails with an exception where it first uses what is wrong.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

from asv.results import Results

HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
NAME = re.compile(r"[\w.-]{1,200}")
"""A benchmark's: part of file names and of addresses in asv's pages."""

LARGEST = 1e100
"""The largest number: its square is one, too."""

MOST_CELLS = 100_000
"""The most combinations of parameters of a benchmark: asv goes through all of them."""

MOST_BYTES = 200
"""Of a machine's name, and of each value that tells graphs apart: with its key it becomes a folder's name."""

MOST_KEY_BYTES = 50
"""Of such a key: all keys of all files are in the path of each graph."""

LAST_DAY = 1e13
"""Milliseconds since 1970: what datetime can still hold, the year 2286."""

STATISTICS = {"ci_99_a", "ci_99_b", "q_25", "q_75", "number", "repeat"}


class Unusable(ValueError):
    """What is wrong with a file, or with one of its entries."""


def require(is_usable: bool, what: str) -> None:
    """Raise Unusable with what should be what it is not."""
    if not is_usable:
        raise Unusable(what)


def is_number(value: Any) -> bool:
    """A float, NaN and infinity among them, or an integer, that can be reckoned with."""
    return (type(value) is int and abs(value) <= LARGEST) or (
        type(value) is float and (not math.isfinite(value) or abs(value) <= LARGEST)
    )


def is_count(value: Any) -> bool:
    """A natural number."""
    return type(value) is int and 0 <= value <= LARGEST


def is_moment(value: Any) -> bool:
    """Milliseconds since 1970."""
    return is_number(value) and abs(value) <= LAST_DAY


def is_text(value: Any, most_bytes: int | None = None) -> bool:
    """Text that can be written as UTF-8, in so many bytes."""
    if not isinstance(value, str):
        return False
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # JSON may hold one half of a surrogate pair
        return False
    return most_bytes is None or size <= most_bytes


def is_texts(value: Any) -> bool:
    """A list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def cell_count(params: Any) -> int:
    """How many combinations of parameters there are; Unusable where these are none."""
    require(isinstance(params, list) and all(map(is_texts, params)), "params are no lists of texts")
    cells = math.prod(map(len, params))
    require(cells <= MOST_CELLS, f"params have more than {MOST_CELLS:,} combinations")
    return cells


def check_machine(record: dict[str, Any]) -> None:
    """Raise Unusable where a machine.json names no machine that a folder can be called after."""
    name = record.get("machine")
    require(is_text(name, MOST_BYTES) and bool(name), "it names no machine")
    require(not set(str(name)) & set("/\\\0") and name not in (".", ".."), "its machine cannot be a folder's name")


def check_benchmark(name: str, entry: Any) -> None:
    """Raise Unusable where an entry of benchmarks.json is none that asv's pages and tables can show."""
    require(isinstance(entry, dict), "no JSON object")
    require(bool(NAME.fullmatch(name)) and entry.get("name") == name, "no benchmark's name")
    cell_count(entry.get("params"))
    require(is_texts(entry.get("param_names")), "param_names are no texts")
    require(len(entry["param_names"]) == len(entry["params"]), "params and param_names differ in number")
    require(type(entry.get("version")) in (str, int, type(None)), "version is no text")
    for key in ("unit", "type"):
        require(is_text(entry.get(key)), f"{key} is no text")
    for key in ("pretty_name", "code", "judged_as"):
        require(entry.get(key) is None or is_text(entry[key]), f"{key} is no text")
    for key in ("compare_factor", "compare_difference", "regression_factor_without_gpu"):
        number = entry.get(key)
        require(number is None or (is_number(number) and 0 < number <= LARGEST), f"{key} is no positive number")


def check_result(result: Results) -> None:
    """Raise Unusable, which names the value, where a result file that asv has loaded is not as asv writes it."""
    require(isinstance(result.commit_hash, str) and bool(HASH.fullmatch(result.commit_hash)), "no commit_hash")
    require(is_moment(result.date), "date is no number of milliseconds")
    require(is_text(result.env_name), "env_name is no text")
    for what, named in (("params", result.params), ("env_vars", result.env_vars)):
        require(isinstance(named, dict), f"{what} is no JSON object")
        for key, value in named.items():
            fits = is_text(key, MOST_KEY_BYTES) and (
                value is None or is_text(value, MOST_BYTES) or is_count(value)
            )
            require(fits and key not in ("", ".", ".."), f"{what} has a value that is no short text")
        require(len(str(named).encode()) <= 10 * MOST_BYTES, f"{what} is too long")
    check_times(result.duration, "duration", result.get_all_result_keys())
    for name in result.get_all_result_keys():
        try:
            check_values(result, name)
        except (Unusable, KeyError, TypeError) as error:
            raise Unusable(f"{name}: {error}") from error


def check_times(times: Any, what: str, names: Iterable[str]) -> None:
    """Raise Unusable unless all that is known of how long something took are numbers."""
    require(isinstance(times, dict), f"{what} is no JSON object")
    for name, seconds in times.items():
        optional = seconds is None and name in names
        require(optional or (is_number(seconds) and math.isfinite(seconds)), f"{what} of {name} is no number")


def check_values(result: Results, name: str) -> None:
    """Raise Unusable unless a benchmark has a value, or none, for each combination of its parameters."""
    require(is_moment(result.started_at.get(name)), "started_at is no number of milliseconds")
    require(type(result.benchmark_version.get(name)) in (str, int, type(None)), "version is no text")
    cells = cell_count(result.get_result_params(name))
    values, statistics, samples = result._results[name], result._stats[name], result._samples[name]
    for what, found in (("result", values), ("statistics", statistics), ("samples", samples)):
        require(found is None or (isinstance(found, list) and len(found) == cells), f"not {cells} {what}")
    for value in values or ():
        require(value is None or is_number(value), "a result is no number")
    for each in statistics or ():
        require(
            not each or (each.keys() >= STATISTICS and all(map(is_number, each.values()))), "not all statistics"
        )
        require(not each or math.isfinite(each["q_75"] - each["q_25"]), "quartiles are not finite")
    for each in samples or ():
        require(each is None or (isinstance(each, list) and all(map(is_number, each))), "a sample is no number")
