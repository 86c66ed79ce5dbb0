"""Let the processes that measure BASE and HEAD run one at a time, a block each.

A shared machine's speed differs from one second to the next by more than two commits do. Two processes that live
at the same time and time their blocks in turn see the same machine. benchmarks/measure/timing.py asks for turns;
here they are granted. A process that has ended, whatever the reason, is waited for no longer.
"""

import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

VARIABLE = "VIRNUCPRO_BENCH_TURNS"  # as in benchmarks/measure/timing.py
SOCKET = "turns.socket"
"""The socket's name in a process's working directory, which the environment variable must tell that process."""

TIMED = b"t"
"""Asked before a block that counts; anything else before one of the warm-up."""

POLL_SECONDS = 0.01
"""How late the end of a process is noticed, which is once in a cell."""


class Turns:
    """The turns of one pair of processes, which are started in `folders` while this is open."""

    def __init__(self, folders: tuple[Path, Path]):
        self.selector = selectors.DefaultSelector()
        self.connections: dict[int, socket.socket] = {}
        self.asked: dict[int, bytes] = {}
        self.paths = [folder / SOCKET for folder in folders]
        for side, path in enumerate(self.paths):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            listener.listen()
            self.selector.register(listener, selectors.EVENT_READ, (self._accept, side))

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Whoever still waits for a turn finds that there will be none."""
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()
        for path in self.paths:
            path.unlink()

    def grant(self, first: int, runs: Callable[[int], bool]) -> None:
        """Grant turns until neither side runs; `first` (0 or 1) begins.

        A turn lasts until its process asks for the next one or ends. One is granted only while the other side
        waits or has ended. Warm-up goes before blocks that count, so that those stand side by side; these are
        granted in the order 0 1 1 0 0 1 1 0, in which a steady drift cancels.
        """
        granted = 0
        while any(running := [runs(side) for side in (0, 1)]):
            for key, _ in self.selector.select(POLL_SECONDS):
                act, side = key.data
                act(key.fileobj, side)
            waiting = [side for side in (0, 1) if side in self.asked]
            if not waiting or any(running[side] and side not in self.asked for side in (0, 1)):
                continue
            side = (granted + 1) // 2 % 2 ^ first
            if side not in waiting or (self.asked[side] == TIMED and set(self.asked.values()) != {TIMED}):
                side = min(waiting, key=lambda each: self.asked[each] == TIMED)
            granted += self.asked.pop(side) == TIMED
            self._send(side)

    def _accept(self, listener: socket.socket, side: int) -> None:
        connection, _ = listener.accept()
        self.connections[side] = connection
        self.selector.register(connection, selectors.EVENT_READ, (self._read, side))

    def _read(self, connection: socket.socket, side: int) -> None:
        try:
            said = connection.recv(1)
        except ConnectionError:
            said = b""
        if said:
            self.asked[side] = said
        else:
            self._forget(connection, side)

    def _send(self, side: int) -> None:
        try:
            self.connections[side].sendall(b"!")
        except OSError:  # it has just died
            self._forget(self.connections[side], side)

    def _forget(self, connection: socket.socket, side: int) -> None:
        self.selector.unregister(connection)
        connection.close()
        self.asked.pop(side, None)
