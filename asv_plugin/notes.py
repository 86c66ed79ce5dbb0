"""Notes: why a cell has no value, and what was measured how, beside asv's results.

asv prints a skipped cell's reason once and stores it nowhere. `asv_plugin.hooks.notes` keeps it in
``results/<machine>/<commit>-<environment>.notes``: JSON, but not called so, because asv takes every
``*.json`` in that folder for a result. One entry a benchmark and combination of parameters.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asv.console import log

from asv_plugin.checks import is_count, is_number, is_text

MEASURED = "virnucpro-cell "  # benchmarks/suite/cell.py prints it in front of a measured cell's notes
SKIPPED = re.compile(r"asv: skipped: NotImplementedError\((['\"])(.*)\1\)")
PARAMETERS = re.compile(r"^For parameters: (.*)$", re.MULTILINE)
EXCEPTION = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Failed|Exception|Interrupt)): (.*)$", re.MULTILINE)

Notes = dict[str, dict[str, Any]]
"""``benchmark(parameters)`` to its notes: ``skipped`` or ``failed`` with the reason, or what was measured."""

Kind = Callable[[Any], bool]


def is_texts_by_name(value: Any) -> bool:
    """As the versions of packages."""
    return isinstance(value, dict) and all(is_text(each) for pair in value.items() for each in pair)


KINDS: dict[str, Kind | dict[str, Kind]] = {
    **dict.fromkeys(("device", "weights", "skipped", "failed", "output", "cpus", "peer"), is_text),
    **dict.fromkeys(("proteins", "residues", "threads"), is_count),
    "seconds": is_number,
    "versions": is_texts_by_name,
    "gpu": {"busy": is_text},
    "fidelity": dict.fromkeys(("smallest_residue_cosine", "same_nearest_neighbour"), is_number),
    "massive_channel": {"error_over_distance": is_number, "skipped": is_text, "failed": is_text},
}
"""What notes must be that are read again; what else they hold is only kept."""


def notes_path(result_path: Path) -> Path:
    """Where the notes of an asv result file are."""
    return result_path.with_suffix(".notes")


def read(path: Path) -> Notes:
    """The notes in a file; none where it does not exist. What cannot be used is named, and left out."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning(f"Skipping {path}: {type(error).__name__}: {error}")
        return {}
    if not isinstance(found, dict):
        log.warning(f"Skipping {path}: not a JSON object")
        return {}
    wrong: list[str] = []
    usable = {name: usable_note(note, name, wrong) for name, note in found.items()}
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        log.warning(f"{path}: {wrong[0]}{more}: of another type, and left out")
    return usable


def usable_note(note: Any, place: str, wrong: list[str], kinds: dict[str, Any] = KINDS) -> dict[str, Any]:
    """A note without what is of another type than it must be, of which the places are added to `wrong`."""
    if not isinstance(note, dict):
        wrong.append(place)
        return {}
    usable = {}
    for name, value in note.items():
        kind = kinds.get(name)
        if isinstance(kind, dict):
            usable[name] = usable_note(value, f"{place}: {name}", wrong, kind)
        elif kind is None or kind(value):
            usable[name] = value
        else:
            wrong.append(f"{place}: {name}")
    return usable


def key(benchmark: str, parameters: tuple[str, ...]) -> str:
    """How a cell is called in a notes file."""
    return f"{benchmark}({', '.join(parameters)})"


def notes_of(benchmark: dict[str, Any], result: Any) -> Notes:
    """Notes from the output of one benchmark, which asv has joined over its parameters."""
    output = result.stderr or ""
    if result.errcode == 1 and all(value is None for value in result.result) and not PARAMETERS.search(output):
        # asv.runner.fail_benchmark: nothing was run. It says why, unless the commit was not built.
        why = read_output(output) if output else {"failed": "this commit could not be built or installed"}
        return {benchmark["name"]: why if "failed" in why else {"failed": output.strip().splitlines()[-1]}}
    cells = product(benchmark["params"])
    # asv keeps no output of a process that said nothing: one that was killed
    silent = {"failed": "its process exited without output (killed, or out of memory?)"}
    found = {
        key(benchmark["name"], cell): silent
        for cell, value in zip(cells, result.result, strict=True)
        if value is None
    }
    for parameters, text in split(output, bool(benchmark["params"])):
        name, note = key(benchmark["name"], parameters), read_output(text)
        if name in found and "output" in note:  # no value, and no exception either
            note = {"failed": f"{silent['failed']}; it last said: {note['output'].splitlines()[-1]}"}
        found[name] = note
    return found


def product(params: list[list[str]]) -> Iterator[tuple[str, ...]]:
    """All combinations of parameters as plain names; asv keeps their Python form, with quotes."""
    return itertools.product(*([name.strip("'") for name in names] for names in params))


def split(output: str, has_parameters: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """asv's joined output as (parameters, output) of each cell that said something."""
    if output and not has_parameters:
        yield (), output
        return
    parts = PARAMETERS.split(output)
    for names, text in zip(parts[1::2], parts[2::2], strict=True):
        yield tuple(name.strip().strip("'") for name in names.split(",")), text


def read_output(output: str) -> dict[str, Any]:
    """What one cell's output says about it; a measured cell may lack one figure, and say why."""
    measured = (line.removeprefix(MEASURED) for line in output.splitlines() if line.startswith(MEASURED))
    try:
        note = usable_note(json.loads(next(measured, "{}")), "", [])
    except (ValueError, RecursionError):  # the measured program has printed such a line, too
        note = {}
    skipped = SKIPPED.search(output)
    if skipped:
        note["skipped"] = skipped[2].replace("\\'", "'")
    if note:
        return note
    if "asv: benchmark timed out" in output:
        return {"failed": "it took longer than asv's timeout"}
    raised = EXCEPTION.findall(output)
    return {"failed": f"{raised[-1][0]}: {raised[-1][1]}"} if raised else {"output": output.strip()[-500:]}
