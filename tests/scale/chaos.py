"""Kill workers, drivers and nodes of a real Ray at random moments, and check that nothing is lost or there twice.

``python -m tests.scale.chaos --workers 10 --drivers 5 --nodes 1``: how many of each are killed, one a run. Each
run embeds the same FASTA file with two workers on a cluster that this script starts, and ends, resumed where its
driver died, with the datasets of a run of one process without Ray, byte for byte. Prints counts, and exits with 1
where that is not so. Skips, with the reason, where Ray is not installed.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.scale.cluster import Cluster, Failed, Run, cluster, datasets, write_fasta

SEED = "virnucpro chaos"


class Chaos:
    """The runs, and counts of what happened."""

    def __init__(self, folder: Path, proteins: int):
        self.folder, self.fasta = folder, folder / "in.fasta"
        write_fasta(self.fasta, proteins)
        self.rng = random.Random(SEED)
        self.counts = {
            "runs equal": 0,
            "workers lost": 0,
            "drivers killed": 0,
            "nodes stopped": 0,
            "resumed records": 0,
        }
        reference = Run(self.fasta, folder / "reference.h5", [])
        reference.finish(reference.start())
        self.expected = datasets(reference.output)
        self._runs = 0

    def run(self, address: str) -> Run:
        """A new run on the cluster."""
        self._runs += 1
        return Run(self.fasta, self.folder / f"run-{self._runs}.h5", ["--ray", address, "--workers", "2"])

    def check(self, run: Run, summary: dict) -> None:
        """That the output is the reference's, and nothing else is left."""
        found = datasets(run.output)
        differing = [name for name, content in self.expected.items() if found[name] != content]
        left = [path.name for path in self.folder.glob(run.output.name + ".*")]
        if differing or left:
            raise Failed(f"{run.output.name}: differs in {differing}, left {left}")
        self.counts["runs equal"] += 1
        self.counts["workers lost"] += summary["lost_workers"]
        self.counts["resumed records"] += summary["resumed_sequences"]
        run.output.unlink()

    def undisturbed(self, address: str) -> float:
        """How long embedding takes, in seconds."""
        run = self.run(address)
        summary = run.finish(run.start())
        self.check(run, summary)
        return summary["embedding_seconds"]

    def kill_worker(self, address: str, seconds: float) -> None:
        """One of two, at a random moment of a run."""
        lost = 0
        while not lost:
            run = self.run(address)
            driver = run.start()
            run.wait_for_workers(driver, 2)
            time.sleep(self.rng.random() * seconds)
            worker = self.rng.choice(run.segments() or [None])
            if worker is not None and driver.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(worker.name.split("-")[-2]), signal.SIGKILL)
            summary = run.finish(driver)
            lost = summary["lost_workers"]  # 0 where it had just come to its end: once more
            self.check(run, summary)

    def kill_driver(self, address: str, seconds: float) -> None:
        """At a random moment of a run, which is then resumed."""
        killed = False
        while not killed:
            run = self.run(address)
            driver = run.start()
            run.wait_for_workers(driver, 2)
            time.sleep(self.rng.random() * seconds)
            driver.kill()
            killed = driver.wait() == -signal.SIGKILL
            self.counts["drivers killed"] += killed
            self.check(run, run.finish(run.start("--resume")))

    def stop_node(self, cluster: Cluster, seconds: float) -> None:
        """One of two, half way through a run; another one comes in its place."""
        run = self.run(cluster.address)
        driver = run.start()
        run.wait_for_workers(driver, 2)
        time.sleep(seconds / 2)
        cluster.stop(cluster.nodes[-1])
        self.counts["nodes stopped"] += 1
        summary = run.finish(driver)
        if not summary["lost_workers"]:
            raise Failed("a node was stopped, and no worker was missed")
        self.check(run, summary)
        cluster.add()


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("workers", 10), ("drivers", 5), ("nodes", 1), ("proteins", 600)):
        parser.add_argument(f"--{name}", type=int, default=default)
    chosen = parser.parse_args()
    if not importlib.util.find_spec("ray"):
        print("skipped: Ray is not installed (pip install 'virnucpro[ray]')")
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="virnucpro-chaos-") as folder:
        chaos = Chaos(Path(folder), chosen.proteins)
        try:
            with cluster(2) as nodes:
                seconds = chaos.undisturbed(nodes.address)
                for kind, times in (("worker", chosen.workers), ("driver", chosen.drivers)):
                    for number in range(1, times + 1):
                        getattr(chaos, f"kill_{kind}")(nodes.address, seconds)
                        print(f"{kind} {number} of {times} killed: equal", flush=True)
                for number in range(1, chosen.nodes + 1):
                    chaos.stop_node(nodes, seconds)
                    print(f"node {number} of {chosen.nodes} stopped: equal", flush=True)
        except Failed as error:
            print(f"FAILED: {error}")
            return 1
        finally:
            print(json.dumps({**chaos.counts, "seconds": round(time.monotonic() - began, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
