"""A peer in a process of its own, which waits while others are timed.

Runtimes bring threads and a memory allocator with them. In the engine's process these would slow it down, and it
them.
"""

import contextlib
import io
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from ..measure.timing import TIMERS
from .base import Peer


class OwnProcess(Peer):
    """The peer that `make` builds from `arguments` there, with as many threads as PyTorch has here.

    Both are pickled. RuntimeError, with what was raised there, where it cannot be made or fails.
    """

    def __init__(self, make: Callable[..., Peer], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(
            target=serve, args=(other, torch.get_num_threads(), make, *arguments), daemon=True
        )
        process.start()
        other.close()
        self._told(self._answer())

    def choose_fastest(self, timer: Callable[[Callable[[], None]], float]) -> None:
        """Use the size that is fastest there; `timer` stays here."""
        self._told(self._ask("choose_fastest", TIMERS["cpu"]))

    def run(self, passes: int) -> None:
        """Embed the workload that many times."""
        self._ask("run", passes)

    def embeddings(self) -> dict[str, Tensor]:
        """Each protein's embedding ``[D]``: the mean over its residues."""
        found: dict[str, Tensor] = self._ask("embeddings")
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        self._pipe.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer, failure = self._pipe.recv()
        except EOFError:
            raise RuntimeError("a peer's process has ended by itself") from None
        if failure:
            raise RuntimeError(failure)
        return answer

    def _told(self, about: tuple[str, int, str]) -> None:
        self.unit, self.size, self.precision = about


def serve(pipe: Connection, threads: int, make: Callable[..., Peer], *arguments: Any) -> None:
    """Make the peer, and call what the other end of `pipe` asks for until it is closed.

    What converters print is dropped: only what is raised is told.
    """
    torch.set_num_threads(threads)
    peer: Peer | None = None
    try:
        while True:
            answer = failure = None
            try:
                if peer is None:
                    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                        peer = make(*arguments)
                else:
                    method, given = pipe.recv()
                    answer = getattr(peer, method)(*given)
                if answer is None:
                    answer = peer.unit, peer.size, peer.precision
            except EOFError:
                raise
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
            pipe.send((answer, failure))
            if peer is None:
                return
    except (EOFError, BrokenPipeError):
        return  # the table is printed
