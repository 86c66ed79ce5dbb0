"""Make asv keep notes (`asv_plugin.notes`) whenever it keeps a result."""

import json
from functools import wraps
from pathlib import Path
from typing import Any

from asv.results import Results

from asv_plugin.hooks.places import check_places
from asv_plugin.notes import key, notes_of, notes_path, product, read

PLACES = {
    "asv.results:Results.add_result": "(self, benchmark, result, ",
    "asv.results:Results.save": "(self, result_dir)",
    "asv.results:Results.rm": "(self, result_dir)",
}
"""What of asv is hooked below, and how its parameters begin."""


def install() -> None:
    """Replace what keeps a result, what saves it and what removes it."""
    check_places(PLACES, __name__)
    add_result, save, remove = Results.add_result, Results.save, Results.rm

    # add_result is the one place that sees each benchmark's output, skipped ones included.
    @wraps(add_result)
    def add_result_and_notes(self: Results, benchmark: dict[str, Any], result: Any, *args: Any, **kw: Any) -> None:
        add_result(self, benchmark, result, *args, **kw)
        selected = kw.get("selected_idx")
        cells = dict(enumerate(product(benchmark["params"])))
        measured = {
            key(benchmark["name"], cell) for at, cell in cells.items() if selected is None or at in selected
        }
        found = {
            name: note for name, note in notes_of(benchmark, result).items() if name in measured or "(" not in name
        }
        self.__dict__.setdefault("notes", {}).update(found)
        # What an earlier run said of these cells, and of the whole benchmark, no longer holds
        self.__dict__.setdefault("outdated", set()).update(measured | {benchmark["name"]})

    # save knows the file's name; asv calls it once for a commit and environment.
    @wraps(save)
    def save_with_notes(self: Results, result_dir: str) -> None:
        save(self, result_dir)
        path = notes_path(Path(result_dir) / self._filename)
        outdated = self.__dict__.get("outdated", set())
        earlier = {name: note for name, note in read(path).items() if name not in outdated}
        kept = earlier | self.__dict__.get("notes", {})
        unfinished = path.with_suffix(".notes-unfinished")
        unfinished.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
        unfinished.replace(path)

    # `asv rm`: the notes of a result that is gone would be taken for those of a new one.
    @wraps(remove)
    def remove_with_notes(self: Results, result_dir: str) -> None:
        remove(self, result_dir)
        notes_path(Path(result_dir) / self._filename).unlink(missing_ok=True)

    Results.add_result, Results.save, Results.rm = add_result_and_notes, save_with_notes, remove_with_notes
