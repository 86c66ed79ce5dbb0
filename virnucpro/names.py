"""Names of sequences, which came before and how a message shows one, and of the reason that two modules know."""

import hashlib
from array import array

LONGEST_NAME = 80  # characters shown of a name
NOT_FINITE = "NaN or Inf in the embedding"  # why a sequence is left out with `on_nan="skip"`


class Names:
    """Tells which names were seen before, by 64 bits of a hash of each: 16 to 32 bytes a name, however long.

    Of ten million names two share a hash with a probability of 3 in a million; one would then be called repeated.
    """

    def __init__(self) -> None:
        self._slots = array("Q", [0]) * 1024  # open addressing; 0 is a free slot
        self._count = 0

    def add(self, name: str) -> bool:
        """Remember `name`; False where it had been added before."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if not self._place(int.from_bytes(digest, "little") or 1):
            return False
        self._count += 1
        if 2 * self._count > len(self._slots):
            old = self._slots
            self._slots = array("Q", [0]) * (2 * len(old))
            for key in old:
                if key:
                    self._place(key)
        return True

    def _place(self, key: int) -> bool:
        slots, last = self._slots, len(self._slots) - 1
        slot = key & last
        while slots[slot]:
            if slots[slot] == key:
                return False
            slot = (slot + 1) & last
        slots[slot] = key
        return True


def shown(name: str) -> str:
    """`name`, shortened for a message, without characters that would change a terminal."""
    if not name.isprintable():
        name = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... ({len(name):,} characters)"
