"""Run code in a process that has imported PyTorch and computed nothing with it, as asv's cells are."""

import multiprocessing
import os
import tempfile
import textwrap
from pathlib import Path

CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["torch"])  # once for all: it takes seconds


def in_clean_process(code: str) -> str:
    """What the code prints, with the names of `timing`; its environment is that of the first call."""
    with tempfile.NamedTemporaryFile("r") as printed:
        process = CLEAN.Process(target=execute, args=(code, printed.name))
        process.start()
        process.join(60)
        hangs = process.is_alive()
        process.kill()
        assert not hangs, printed.read()
        return printed.read()


def execute(code: str, printed: str) -> None:
    """Run code, and let a file have what it prints; in a process of its own."""
    with Path(printed).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        exec("import os, torch\nfrom benchmarks.measure.timing import *\n" + textwrap.dedent(code), {})
