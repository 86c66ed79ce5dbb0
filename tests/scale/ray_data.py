"""The same work as ``tests.scale.overhead`` by Ray Data, to compare: read, map_batches with actors, write_parquet.

``python -m tests.scale.ray_data --workers 8 --tokens 40000000``. A row is a pack, made by one generator that reads
the FASTA file, and embeddings go through Ray's object store to `write_parquet`, in order. Prints tokens/s from the
first pack to the last file, and how many packs were computed, which with ``--kill`` are more than the input has.
"""

import argparse
import json
import os
import pickle
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray

from tests.scale.overhead import write_fasta
from tests.scale.stand_in import TOKEN_BUDGET, StandIn
from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import pack
from virnucpro.data.proteins import ProteinReader
from virnucpro.pipeline.shards import numbered
from virnucpro.pipeline.worker import compact, expand

BLOCK_BYTES = 2**20
"""About 20 packs. By default (128 MB) all of the input would be one actor's; much smaller ones make as many files
of embeddings as they make blocks."""


class Embed:
    """An actor of the pool."""

    def __init__(self, log: str):
        self._engine, self._log = StandIn(None), Path(log, str(os.getpid()))  # type: ignore[arg-type]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A pack; its embeddings as rows of a table."""
        packs = [expand(pickle.loads(each)) for each in batch["pack"]]
        results = list(self._engine.run(packs))
        with self._log.open("a") as log:
            log.write(f"{time.time()} {sum(len(each.input_ids) for each in packs)}\n")
        return {
            "id": np.array([name for each in results for name in each.sequence_ids]),
            "embedding": np.concatenate([each.embeddings.numpy() for each in results]),
        }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=100_000_000)
    parser.add_argument("--kill", action="store_true", help="kill an actor after five seconds of work")
    chosen = parser.parse_args()
    ray.init("local", num_cpus=chosen.workers + 4, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    with tempfile.TemporaryDirectory(prefix="virnucpro-ray-data-") as folder:
        path, log = Path(folder, "in.fasta"), Path(folder, "log")
        log.mkdir()
        write_fasta(path, chosen.tokens)

        def packs(_: dict[str, Any]) -> Iterator[dict[str, Any]]:
            with Fasta(path) as fasta:
                for each in numbered(pack(ProteinReader(fasta, 1022), TOKEN_BUDGET)):
                    yield {"pack": np.array([pickle.dumps(compact(each.pack))], dtype=object)}

        rows = ray.data.range(1, override_num_blocks=1).map_batches(
            packs, num_cpus=0.5
        )  # else it is fused with the next
        rows = rows.map_batches(
            Embed, batch_size=1, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=chosen.workers),
            fn_constructor_args=(str(log),),
        )  # fmt: skip
        if chosen.kill:
            threading.Thread(target=kill_one, args=(log,), daemon=True).start()
        rows.write_parquet(str(Path(folder, "out")))
        ended = time.time()
        lines = [line.split() for each in log.iterdir() for line in each.read_text().splitlines()]
    tokens = sum(int(count) for _, count in lines)
    began = min(float(when) for when, _ in lines)
    seconds = ended - began
    print(
        json.dumps({"packs": len(lines), "tokens_computed": tokens, "tokens_per_second": round(tokens / seconds)})
    )


def kill_one(log: Path) -> None:
    """Kill an actor five seconds after the first has begun."""
    while not any(log.iterdir()):
        time.sleep(0.1)
    time.sleep(5)
    os.kill(int(next(log.iterdir()).name), signal.SIGKILL)


if __name__ == "__main__":
    main()
