"""Entries of a mapping that hold for a while, as environment variables or stand-ins of modules."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def meanwhile(mapping: MutableMapping[str, Any], entries: Mapping[str, Any]) -> Iterator[None]:
    """`mapping` has these entries inside, and afterwards those of the same names that it had, or none."""
    before = {name: mapping.get(name) for name in entries}
    mapping.update(entries)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del mapping[name]
            else:
                mapping[name] = value
