"""What a real Ray cannot do, and that it is refused: with the node's name and a remedy, and nothing is left.

``python -m tests.scale.refusals``: nothing or something else listens at the address, a worker without its GPU, an
output that a node does not see, writes of one node that fail, a node with another virnucpro or other hardware. The
nodes are on this machine, the second in namespaces of its own where the kernel allows it: with another name, and a
folder that is not shared. Prints a line for each case, and exits with 1 where one is not as it should be. Skips,
with the reason, where Ray is not installed.
"""

import contextlib
import http.server
import importlib.util
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import esm
import h5py
import numpy as np
import torch

import virnucpro
from tests.checkpoints import save_in_fair_esms_format
from tests.scale.cluster import ENVIRONMENT, Cluster, Failed, Run, cluster, datasets, descendants, write_fasta
from virnucpro.pipeline.provenance import device_name, version_of
from virnucpro.store.place import folder_of
from virnucpro.store.segments import ROWS

PROTEINS = 400
OTHER = "node-b"
NAMESPACES = ["unshare", "--user", "--map-root-user", "--mount", "--uts"]
NODE = 'hostname "$1" && mount -t tmpfs none "$2" && shift 2 && exec "$@"'
OTHER_ADDRESS = "--node-ip-address=127.0.0.2"
OTHER_VERSION = "0.0.1"
LEAST_LIMIT = 2**16  # bytes; Ray's own logs in a worker are smaller
SECONDS_TO_LEAVE = 10.0


class Skip(Exception):
    """A case that this machine cannot have."""


class Refusals:
    """The cases, and counts of how they ended."""

    def __init__(self, folder: Path):
        self.folder, self.fasta, self.weights = folder, folder / "in.fasta", folder / "weights.pt"
        self.hidden, self.other_version = folder / "hidden", folder / "other version"
        self.hidden.mkdir()
        write_fasta(self.fasta, PROTEINS)
        torch.manual_seed(0)
        save_in_fair_esms_format(esm.ESM2(num_layers=6, embed_dim=320, attention_heads=20), self.weights)
        self._within = [*NAMESPACES, "sh", "-c", NODE, "sh", OTHER, str(self.hidden)]
        self.namespaces = (
            bool(shutil.which("unshare"))
            and not subprocess.run([*self._within, "true"], capture_output=True).returncode
        )
        self.name = OTHER if self.namespaces else os.uname().nodename  # of the second node
        self.counts = {"as it should be": 0, "not": 0, "skipped": 0}
        self._runs = 0
        reference = self.run(None)
        reference.finish(reference.start())
        self.reference = reference.output

    def run(self, address: str | None, folder: Path | None = None) -> Run:
        """A new run on a cluster, with two workers, or without Ray."""
        self._runs += 1
        output = (folder or self.folder) / f"run-{self._runs}.h5"
        ray = ["--ray", address, "--workers", "2"] if address else []
        return Run(self.fasta, output, ["--weights", str(self.weights), *ray])

    @contextlib.contextmanager
    def other_node(self, nodes: Cluster, *more: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A second node, whose name is `self.name` and which, in namespaces, does not see the hidden folder."""
        within = self._within if self.namespaces else []
        node = nodes.add(OTHER_ADDRESS, *more, environment=environment, within=within)
        yield node
        nodes.stop(node, SECONDS_TO_LEAVE)

    def case(self, name: str, body: Callable[[], str]) -> None:
        """Run a case and print how it ended; `body` returns what was said."""
        began = time.monotonic()
        try:
            ended, said = "as it should be", body()
        except Skip as reason:
            ended, said = "skipped", f"skipped: {reason}"
        except Failed as error:
            ended, said = "not", f"FAILED: {error}"
        self.counts[ended] += 1
        print(f"{name} ({time.monotonic() - began:.1f} s): {said}", flush=True)

    def refused(self, run: Run, *words: str, says: str) -> str:
        """Start a run that must be refused; what it said."""
        return self.check_refused(run, *run.ended(run.start(*words)), says)

    def check_refused(self, run: Run, code: int, said: str, says: str, kept: bool = False) -> str:
        """That it was refused in one line, which is returned, and nothing is left.

        `kept`: but rows, and two lines of how to go on with them.
        """
        first, *rest = said.strip().splitlines() or [""]
        if code != 1 or not re.search(says, first) or len(rest) != 2 * kept or ("--resume" in said) != kept:
            raise Failed(f"exit code {code}: {said}")
        left = {path.name for path in run.output.parent.glob(run.output.name + "*")}
        if left != ({folder_of(run.output).name} if kept else set()):
            raise Failed(f"{sorted(left)} is left after: {said}")
        return first

    def nothing_listens(self) -> str:
        """At the address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        return self.refused(self.run(address), says=f"no Ray at {address} .*ray start --head")

    def another_listens(self) -> str:
        """At the address, as on the port of Ray's dashboard."""

        class Quiet(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"127.0.0.1:{server.server_port}"
            said = self.refused(self.run(address), says=f"no Ray at {address} .what listens there is not Ray")
            server.shutdown()
        return said

    def no_gpu(self, address: str) -> str:
        """On the node that was started with one."""
        if torch.cuda.is_available():
            raise Skip("this machine has a GPU")
        says = f"the worker on {self.name} was given a GPU that PyTorch does not see: check the driver"
        return self.refused(self.run(address), "--device", "auto", "--workers", "1", says=says)

    def not_shared(self, address: str, node: subprocess.Popen[bytes]) -> str:
        """The output's folder is another one on the second node."""
        if not self.namespaces:
            raise Skip("the kernel allows no namespaces (unshare --user --mount)")
        says = f"the worker on {self.name} does not see {self.hidden}.*storage that all nodes share"
        said = self.refused(self.run(address, self.hidden), says=says)
        there = list(Path(f"/proc/{node.pid}/root{self.hidden}").iterdir())
        if there:
            raise Failed(f"{there} is left on {self.name}")
        return said

    def failing_writes(self, address: str, node: subprocess.Popen[bytes]) -> str:
        """A file of the second node's worker may grow no more, when both have committed blocks; then it may."""
        if not hasattr(resource, "prlimit"):
            raise Skip("this system cannot limit another process's files")
        run = self.run(address)
        driver = run.start()
        run.wait_for_workers(driver, 2, Run.committed)
        there = set(descendants(node.pid))
        (worker,) = (path for path in run.segments() if process_of(path) in there)
        most = max((worker / ROWS).stat().st_size + 1, LEAST_LIMIT)
        resource.prlimit(process_of(worker), resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        says = f"cannot write {worker} on {self.name}: File too large"
        said = self.check_refused(run, *run.ended(driver), says, kept=True)
        summary = run.finish(run.start("--resume"))
        if not summary["resumed_sequences"] or datasets(run.output) != datasets(self.reference):
            raise Failed(f"not the datasets of one process: {summary}")
        return f"{said}; resumed, {summary['resumed_sequences']} of {PROTEINS} sequences kept: equal"

    def older_version(self, address: str) -> str:
        """Which knows nothing of workers."""
        (self.other_version / "virnucpro/pipeline/worker.py").unlink()
        says = rf"worker \d on {self.name} did not start: No module .*install the same on all nodes"
        return self.refused(self.run(address), says=says)

    def another_version(self, address: str) -> str:
        """Which has all that this one has."""
        self.install(OTHER_VERSION)
        says = f"the worker on {self.name} has virnucpro {OTHER_VERSION}, and this is .*install the same"
        return self.refused(self.run(address), says=says)

    def mixed_hardware(self, address: str) -> str:
        """Refused without --allow-mixed."""
        self.install(version_of("virnucpro"))
        names = "device is '(.*)' on (.*) and '(.*)' on (.*): use --allow-mixed, which is recorded"
        said = self.refused(self.run(address), says=names)
        found = re.search(names, said)
        assert found
        if found[1] == found[3] or self.name not in (found[2], found[4]):
            raise Failed(said)
        return said

    def allowed_mixed_hardware(self, address: str) -> str:
        """Taken, and recorded."""
        run = self.run(address)
        run.finish(run.start("--allow-mixed"))
        with h5py.File(run.output) as file:
            device, allowed = file.attrs["device"], file.attrs["allow_mixed"]
            rows = file["embeddings"][()]
        with h5py.File(self.reference) as file:
            near = np.allclose(rows, file["embeddings"][()], atol=1e-4)
        found, expected = (
            {name: content for name, content in datasets(path).items() if name != "embeddings"}
            for path in (run.output, self.reference)
        )
        here = device_name(torch.device("cpu"))
        if not allowed or here not in device.split(" | ") or len(device.split(" | ")) != 2:
            raise Failed(f"device {device!r}, allow_mixed {allowed}")
        if found != expected or not near:
            raise Failed("ids, lengths or embeddings are not those of one process")
        return f"taken and recorded: {device}"

    def install(self, version: str) -> None:
        """Put a copy of virnucpro in a version where the second node finds it first."""
        shutil.rmtree(self.other_version, ignore_errors=True)
        about = self.other_version / f"virnucpro-{version}.dist-info"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(virnucpro.__path__[0]), self.other_version / "virnucpro", ignore=ignored)
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: virnucpro\nVersion: {version}\n")

    def all(self) -> None:
        """One after the other."""
        self.case("nothing listens", self.nothing_listens)
        self.case("something else listens", self.another_listens)
        with cluster(1) as nodes:
            at = nodes.address
            with self.other_node(nodes, "--num-gpus=1") as node:
                self.case("a worker without its GPU", lambda: self.no_gpu(at))
                self.case("an output that is not shared", lambda: self.not_shared(at, node))
                self.case("writes that fail on one node", lambda: self.failing_writes(at, node))
            self.install(OTHER_VERSION)
            path = f"{self.other_version}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
            less = "avx2" if "AVX512" in device_name(torch.device("cpu")) else "default"
            with self.other_node(nodes, PYTHONPATH=path, ATEN_CPU_CAPABILITY=less):
                self.case("a node with an older virnucpro", lambda: self.older_version(at))
                self.case("a node with another virnucpro", lambda: self.another_version(at))
                self.case("mixed hardware", lambda: self.mixed_hardware(at))
                self.case("mixed hardware with --allow-mixed", lambda: self.allowed_mixed_hardware(at))


def process_of(segment: Path) -> int:
    """The worker's, by the name of its folder."""
    return int(segment.name.split("-")[-2])


def main() -> int:
    """Run; returns the exit code."""
    if not importlib.util.find_spec("ray"):
        print("skipped: Ray is not installed (pip install 'virnucpro[ray]')")
        return 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="virnucpro-refusals-") as folder:
        refusals = Refusals(Path(folder))
        try:
            refusals.all()
        except Failed as error:  # outside of a case: a node did not start
            print(f"FAILED: {error}")
            refusals.counts["not"] += 1
    print(json.dumps({**refusals.counts, "seconds": round(time.monotonic() - began, 1)}))
    return int(refusals.counts["not"] > 0)


if __name__ == "__main__":
    sys.exit(main())
