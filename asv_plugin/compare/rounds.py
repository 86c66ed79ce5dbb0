"""The rounds of a comparison, and how Ctrl-C cuts them short."""

import contextlib
import time
from collections.abc import Iterator

from asv import util

from asv_plugin.compare import suite
from asv_plugin.compare.processes import Servers
from asv_plugin.compare.suite import print_progress
from asv_plugin.compare.trial import PAIRS_IN_A_ROUND, Trial


def run_rounds(trial: Trial, rounds: int) -> bool:
    """Measure all rounds, saying how far it is and how long it will take; False where Ctrl-C cut it short.

    Half way through every round the environments swap their commits, and the next round goes on as that one ended:
    what is measured once a round meets both arrangements, too. Who begins alternates within each arrangement.
    """
    start, cells = time.monotonic(), trial.suite.cells()
    pairs = rounds * PAIRS_IN_A_ROUND
    try:
        for pair in range(pairs):
            number, again = divmod(pair, PAIRS_IN_A_ROUND)
            these = [
                cell
                for cell in cells
                if not all(trial.is_done(cell, name) for name in cell.names)
                and (not again or trial.takes_turns(cell))
            ]
            if not these:
                continue
            swapped = bool(number % 2) ^ (again >= PAIRS_IN_A_ROUND // 2)
            with interruptible():
                trial.suite.install(swapped)
            left = (time.monotonic() - start) / pair * (pairs - pair) / 60 if pair else 0
            about = f" (about {left:.0f} min left)" if pair else ""
            with contextlib.ExitStack() as resources:
                servers = Servers(trial, (number // 2 + again) % 2, resources)
                for at, cell in enumerate(these, start=1):
                    part = f"pair {again + 1} of {PAIRS_IN_A_ROUND}, cell {at} of {len(these)}"
                    print_progress(f"round {number + 1} of {rounds}, {part}: {cell}{about}")
                    with interruptible(servers):
                        servers.measure(cell)
    except KeyboardInterrupt:
        print_progress("\ninterrupted: this is what the complete pairs say")
        return False
    finally:
        trial.close()
    return True


@contextlib.contextmanager
def interruptible(servers: Servers | None = None) -> Iterator[None]:
    """Ctrl-C as KeyboardInterrupt, of which asv makes an error of its own; its servers then say nothing."""
    try:
        yield
        if INTERRUPTED:
            raise KeyboardInterrupt
    except (KeyboardInterrupt, util.UserError, util.ProcessError) as error:
        if not INTERRUPTED and not isinstance(error, KeyboardInterrupt) and str(error) != suite.INTERRUPTED:
            raise
        for spawner in servers.spawners.values() if servers else ():
            spawner.interrupt()
        raise KeyboardInterrupt from None


INTERRUPTED: list[bool] = []
"""Not empty after Ctrl-C. Python loses a KeyboardInterrupt that it raises where a destructor runs.

No threading.Event: a second Ctrl-C inside its `set` would wait for the lock that the first one holds.
"""


def on_sigint(*_: object) -> None:
    """The handler of Ctrl-C."""
    INTERRUPTED.append(True)
    raise KeyboardInterrupt
