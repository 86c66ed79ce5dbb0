"""``virnucpro`` in processes of their own, which can be killed, without importing PyTorch in each."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "virnucpro.cli", "virnucpro.pipeline.embed"])


def start(
    arguments: Sequence[str],
    errors: Path,
    most_bytes: int | None = None,
    more_memory: int | None = None,
    closed: Sequence[int] = (),
) -> BaseProcess:
    """Start ``virnucpro`` with these arguments; what it says goes to `errors`.

    Its files may have `most_bytes`, its memory `more_memory` bytes beside those of its imports. The standard
    streams with the numbers `closed` are closed.
    """
    process = CONTEXT.Process(
        target=_run, args=(list(arguments), errors, most_bytes, more_memory, closed), daemon=True
    )
    process.start()
    return process


def _run(
    arguments: Sequence[str],
    errors: Path,
    most_bytes: int | None,
    more_memory: int | None,
    closed: Sequence[int],
) -> None:
    # The forkserver ignores Ctrl-C, and what it starts inherits that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))

    import torch

    from virnucpro import cli
    from virnucpro.pipeline import prefetch

    torch.set_num_threads(1)  # two would wait for each other beside whatever else this machine does
    prefetch.COMMIT_SECONDS = 0.0  # so that short runs are committed now and then too
    if more_memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more_memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for number in closed:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python does when it starts so
    sys.exit(cli.main(arguments))
