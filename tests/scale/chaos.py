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
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py

SEED = "virnucpro chaos"
MODEL = ["--model", "esm2_t6_8M_UR50D", "--weights", "random", "--device", "cpu", "--token-budget", "600"]
PATIENCE = 240  # seconds for a run; a lost node is noticed after some
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


class Failed(Exception):
    """A run did not end as it should."""


def write_fasta(path: Path, proteins: int) -> None:
    """Seeded proteins of 20 to 120 residues."""
    rng = random.Random(SEED)
    records = ("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(20, 120))) for _ in range(proteins))
    path.write_text("".join(f">p{number}\n{protein}\n" for number, protein in enumerate(records)))


def datasets(path: Path) -> dict[str, bytes]:
    """Their bytes."""
    with h5py.File(path) as file:
        ids = "\n".join(file["ids"].asstr()[()]).encode()
        return {"ids": ids, **{name: file[name][()].tobytes() for name in ("lengths", "embeddings")}}


def descendants(process: int) -> list[int]:
    """Children of a process, and theirs."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [process]
    for each in found:
        found += [child for child, parent in pairs if parent == each]
    return found[1:]


class Cluster:
    """A Ray cluster of this script's: processes that ``ray start --block`` began, each in a group of its own."""

    def __init__(self, folder: Path):
        self._folder, self.nodes = folder, list[subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"

    def add(self) -> subprocess.Popen[bytes]:
        """A node with one core."""
        first = ["--head", f"--port={self._port}", f"--temp-dir={self._folder}", "--include-dashboard=false"]
        where = first if not self.nodes else [f"--address={self.address}"]
        options = ["--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", f"--object-store-memory={80 * 2**20}"]
        ray = Path(sys.executable).with_name("ray")
        with (self._folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [ray, "start", *where, *options, "--disable-usage-stats"],
                stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True,
            )  # fmt: skip
        self.nodes.append(node)
        self._wait(len(self.nodes))
        return node

    def _wait(self, nodes: int) -> None:
        code = (
            f"import ray, logging; ray.init({self.address!r}, logging_level=logging.ERROR, log_to_driver=False)\n"
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
            if done.stdout.strip() == str(nodes):
                return
            if time.monotonic() > deadline:
                raise Failed(f"Ray did not start {nodes} nodes: {done.stderr[-2000:]}")

    def stop(self, node: subprocess.Popen[bytes]) -> None:
        """Kill a node with all its processes, as when a machine goes away."""
        for process in [*descendants(node.pid), node.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.wait()
        self.nodes.remove(node)

    def close(self) -> None:
        """Kill all nodes."""
        for node in list(self.nodes):
            self.stop(node)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster of two nodes with a core each."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder))
        try:
            found.add()
            found.add()
            yield found
        finally:
            found.close()


class Run:
    """``virnucpro embed`` of the file in a folder of its own."""

    def __init__(self, fasta: Path, output: Path, ray: list[str]):
        self._fasta, self.output, self._ray = fasta, output, ray
        self.log = output.with_suffix(".log")

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the driver."""
        words = ["embed", str(self._fasta), "-o", str(self.output), *MODEL, *self._ray, "--json", *more]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "virnucpro", *words], stdout=log, stderr=log, env=ENVIRONMENT
            )

    def finish(self, driver: subprocess.Popen[bytes]) -> dict:
        """Wait for the driver's end; its summary."""
        try:
            code = driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            driver.kill()
            raise Failed(f"no end after {PATIENCE} s: {self.log.read_text()[-3000:]}") from None
        said = self.log.read_text()
        if code:
            raise Failed(f"exit code {code}: {said[-3000:]}")
        return json.loads(said[said.index("{") :])

    def segments(self) -> list[Path]:
        """The folders of workers that are ready to embed."""
        return sorted(self.output.with_name(self.output.name + ".partial").glob("segments/*/*"))

    def wait_for_workers(self, driver: subprocess.Popen[bytes], count: int) -> None:
        """Until so many are ready."""
        deadline = time.monotonic() + PATIENCE
        while len(self.segments()) < count:
            if driver.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the workers did not start: {self.log.read_text()[-3000:]}")
            time.sleep(0.01)


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
            with cluster() as nodes:
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
