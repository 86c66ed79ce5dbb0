"""Real Ray clusters on this machine, and runs of ``virnucpro embed`` on them."""

import contextlib
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
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path

import h5py

from virnucpro.store.segments import JOURNAL

SEED = "virnucpro scale"
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
    """A Ray cluster of its own: processes that ``ray start --block`` began, each in a group of its own."""

    def __init__(self, folder: Path):
        self._folder, self.nodes = folder, list[subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"

    def add(
        self, *more: str, environment: Mapping[str, str] | None = None, within: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """A node with one core. `more`: options of ``ray start``. `within`: a command that runs it."""
        first = ["--head", f"--port={self._port}", f"--temp-dir={self._folder}", "--include-dashboard=false"]
        where = first if not self.nodes else [f"--address={self.address}"]
        options = ["--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", f"--object-store-memory={80 * 2**20}"]
        ray = Path(sys.executable).with_name("ray")
        with (self._folder / f"node-{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                [*within, ray, "start", *where, *options, *more, "--disable-usage-stats"],
                stdout=log, stderr=log, env={**ENVIRONMENT, **(environment or {})}, start_new_session=True,
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

    def stop(self, node: subprocess.Popen[bytes], warned: float = 0.0) -> None:
        """Kill a node with all its processes, as when a machine goes away.

        `warned`: seconds before, so that it can tell the others that it goes.
        """
        processes = [*descendants(node.pid), node.pid]
        if warned:
            node.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(warned)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        node.wait()
        self.nodes.remove(node)

    def close(self) -> None:
        """Kill all nodes."""
        for node in list(self.nodes):
            self.stop(node)


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Cluster]:
    """A cluster of so many nodes with a core each."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder))
        try:
            for _ in range(nodes):
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
                [sys.executable, "-m", "virnucpro", *words],
                stdout=log, stderr=log, env=ENVIRONMENT, cwd=self.output.parent,
            )  # fmt: skip

    def ended(self, driver: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Wait for the driver's end; its exit code and what it said."""
        try:
            code = driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            driver.kill()
            raise Failed(f"no end after {PATIENCE} s: {self.log.read_text()[-3000:]}") from None
        return code, self.log.read_text()

    def finish(self, driver: subprocess.Popen[bytes]) -> dict:
        """Wait for the driver's end; its summary."""
        code, said = self.ended(driver)
        if code:
            raise Failed(f"exit code {code}: {said[-3000:]}")
        return json.loads(said[said.index("{") :])

    def segments(self) -> list[Path]:
        """The folders of workers that are ready to embed."""
        return sorted(self.output.with_name(self.output.name + ".partial").glob("segments/*/*"))

    def committed(self) -> list[Path]:
        """The folders of workers that have committed blocks."""
        journals = [path / JOURNAL for path in self.segments()]
        return [path.parent for path in journals if path.exists() and path.stat().st_size]

    def wait_for_workers(
        self, driver: subprocess.Popen[bytes], count: int, found: Callable[["Run"], Sized] | None = None
    ) -> None:
        """Until so many are ready, or are in what `found` returns."""
        deadline = time.monotonic() + PATIENCE
        while len((found or Run.segments)(self)) < count:
            if driver.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"no {count} workers were there: {self.log.read_text()[-3000:]}")
            time.sleep(0.01)
