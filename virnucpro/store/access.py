"""Sequences' embeddings by number, by name, by slice and one after the other."""

import operator
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np


class Access:
    """What can be asked of a collection of named embeddings, in terms of `names`, ``len`` and `_take`.

    As of a sequence: ``all[3]``, ``all[-1]``, ``all[2:5]``, ``reversed``; iterating yields ``(name, embedding)``.
    As of a mapping: ``all["name"]``, ``"name" in all``, `get`, `keys`, `values`, `items`; a name that several
    sequences have raises KeyError, and they are taken by number.
    """

    _numbers: dict[str, int] | None = None

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """In the order of the input."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _take(self, which: range) -> Any:
        """Embeddings of these numbers: an array with a row for each, or where their shapes differ a list."""

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return self._take(range(len(self))[which])
        number = self.index(which) if isinstance(which, str) else operator.index(which)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sequence {number}: there are {len(self):,}, from 0 on")
        number %= len(self)
        return self._take(range(number, number + 1))[0]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((name, self[number]) for number, name in enumerate(self.names))

    def __reversed__(self) -> Iterator[tuple[str, np.ndarray]]:
        return ((self.names[number], self[number]) for number in reversed(range(len(self))))

    def index(self, name: str) -> int:
        """The number of the sequence of this name; KeyError where none or several have it."""
        number = self._by_name().get(name)
        if number is None:
            raise KeyError(f"no sequence is called {name!r}")
        if number < 0:
            raise KeyError(f"several sequences are called {name!r}: take them by number")
        return number

    def get(self, name: str, default: Any = None) -> Any:
        """The embedding of the sequence of this name, or `default` where none has it."""
        return default if self._by_name().get(name) is None else self[name]

    def keys(self) -> list[str]:
        """The names, as `names`."""
        return self.names

    def values(self) -> Iterator[np.ndarray]:
        """The embeddings, one at a time."""
        return (self[number] for number in range(len(self)))

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        """``(name, embedding)``, one at a time."""
        return iter(self)

    def _by_name(self) -> dict[str, int]:
        """Each name's number; -1 for one that several have."""
        if self._numbers is None:
            self._numbers = {}
            for number, name in enumerate(self.names):
                self._numbers[name] = -1 if name in self._numbers else number
        return self._numbers
