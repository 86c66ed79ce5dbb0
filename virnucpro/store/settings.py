"""Settings that a run was begun with, compared with others."""

import contextlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from virnucpro.store.errors import StoreError

MOST_SHOWN = 100
"""Characters of a setting in a message."""


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
    """Whether two values are equal, and no arrays. An older file lacks a setting that is new: it is None."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return False
    return bool(plain(one) == plain(other))


def differing_values(names: Iterable[str], these: dict[str, Any], others: dict[str, Any]) -> str:
    """Settings for a message, as ``pool 'mean' and not 'bos'``."""
    return ", ".join("{} {} and not {}".format(name, *shown(these.get(name), others.get(name))) for name in names)


def shown(one: Any, other: Any) -> tuple[str, str]:
    """Two values for a message; of long ones what is around the first difference."""
    texts = repr(plain(one)), repr(plain(other))
    at = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), 0)
    return cut(texts[0], at), cut(texts[1], at)


def plain(value: Any) -> Any:
    """A value as it was given: NumPy's would be shown with its type, and None and lists as the JSON in a file."""
    if isinstance(value, str) and (value == "null" or value.startswith("[")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value.tolist() if isinstance(value, np.generic) else value


def cut(text: str, at: int) -> str:
    """`MOST_SHOWN` characters of a text around a place in it."""
    if len(text) <= MOST_SHOWN:
        return text
    start, end = max(0, at - MOST_SHOWN // 2), at + MOST_SHOWN // 2
    return "..." * (start > 0) + text[start:end] + "..." * (end < len(text))
