"""The folder of an unfinished run, ``OUT.h5.partial``: what is in it, whether it can be continued, removing it."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.store.committed import read_journal
from virnucpro.store.disk import NEW, reason_of
from virnucpro.store.errors import StoreError, damaged
from virnucpro.store.files import REPLACED, delete
from virnucpro.store.place import check_apart, check_folder, folder_of, place_of
from virnucpro.store.sealed import unsealed

SETTINGS, JOURNAL, LOCK, FINISHED = "settings.json", "journal", "lock", "finished.h5"
FINISHED_FOLDER, SEGMENTS, PROOF = "finished.parquet", "segments", "shared"
ROWS = ("names", "lengths", "embeddings", "skipped")
"""The files of rows: names in UTF-8, one a line; residues of each sequence, int64; embeddings, row after row; the
places in the input, int64, of the sequences that were left out because their embeddings are not finite."""
OURS = (SETTINGS, SETTINGS + NEW, JOURNAL, *ROWS, FINISHED, LOCK, PROOF)
"""All files that a run leaves in its folder."""
OUR_FOLDERS = (FINISHED_FOLDER, SEGMENTS, REPLACED)
"""And all folders; see ``segments.py`` for what several workers leave."""
MOST_SHOWN = 100
"""Characters of a setting in a message."""


def check_output(
    output: str | os.PathLike[str],
    resume: bool,
    force: bool,
    inputs: Iterable[str | os.PathLike[str] | int] = (),
    is_folder: bool = False,
) -> Path:
    """Where a run may write; raises StoreError where it may not, before anything is spent on it.

    `inputs`: what the run reads, paths or open descriptors; the output is none of them, by no link. `is_folder`:
    the output will be a folder of Parquet files.
    """
    place = place_of(output, is_folder)
    check_folder(place, OURS)
    check_apart(place, inputs)
    if resume or force:
        return place
    folder = folder_of(place)
    if has_work(folder):
        raise StoreError(
            f"{folder} holds an unfinished run: continue it with --resume, or begin anew with --force"
        )
    if place.exists():
        raise StoreError(
            f"{place} exists: give another name, or --force to replace it when the new one is complete"
        )
    return place


def has_work(folder: Path) -> bool:
    """Whether a run left something there that could be continued, or could have been before it was damaged."""
    try:
        committed, torn = read_journal(folder / JOURNAL)
        return (folder / SETTINGS).exists() and (bool(committed.taken or torn) or has_segments(folder))
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {reason_of(error)}") from error


def begun_settings(output: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The settings of the unfinished run of `output`; None where there is none that could be continued.

    Raises StoreError where there are rows and what they are is not known any more.
    """
    folder = folder_of(output)
    try:
        committed, _ = read_journal(folder / JOURNAL)
        if not (committed.taken or has_segments(folder)) or not (folder / SETTINGS).exists():
            return None
        settings = unsealed((folder / SETTINGS).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {folder}: {reason_of(error)}") from error
    if settings is None:
        raise damaged(folder / SETTINGS)
    return settings


def check_same(then: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Raise StoreError naming the settings that differ."""
    differing = differences(then, now)
    if differing:
        pairs = differing_values(differing, then, now)
        raise StoreError(f"{what} with {pairs}: give the same settings, or begin anew with --force")


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The names of settings that differ; an array, which no setting is, differs from everything."""
    return [name for name in {**then, **now} if not same(then.get(name), now.get(name))]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and no arrays."""
    return not isinstance(one, np.ndarray) and not isinstance(other, np.ndarray) and bool(one == other)


def differing_values(names: Iterable[str], these: dict[str, Any], others: dict[str, Any]) -> str:
    """Settings for a message, as ``pool 'mean' and not 'bos'``."""
    return ", ".join("{} {} and not {}".format(name, *shown(these.get(name), others.get(name))) for name in names)


def shown(one: Any, other: Any) -> tuple[str, str]:
    """Two values for a message; of long ones what is around the first difference."""
    texts = repr(one), repr(other)
    at = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    return cut(texts[0], at), cut(texts[1], at)


def cut(text: str, at: int) -> str:
    """`MOST_SHOWN` characters of a text around a place in it."""
    if len(text) <= MOST_SHOWN:
        return text
    start, end = max(0, at - MOST_SHOWN // 2), at + MOST_SHOWN // 2
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text))


def has_segments(folder: Path) -> bool:
    """Whether one of several workers of a run committed something there."""
    return any(path.stat().st_size for path in (folder / SEGMENTS).glob(f"*/*/{JOURNAL}"))


def remove(folder: Path) -> None:
    """Delete the folder of an unfinished run, or at least what this program put there."""
    remove_rows(folder)
    (folder / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it holds something of the user's, or was not there
        folder.rmdir()


def remove_rows(folder: Path) -> None:
    """Delete all but the lock; the settings first, because without them the rest counts for nothing."""
    for name in OURS:
        if name != LOCK:
            (folder / name).unlink(missing_ok=True)
    for name in OUR_FOLDERS:
        delete(folder / name)
