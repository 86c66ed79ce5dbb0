"""Runs of several workers: what each worker does, and what the driver checks and says. See also tests/scale."""

import contextlib
import dataclasses
import errno
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import MODEL, RAGGED
from tests.limits import PATIENCE
from virnucpro.cli import main
from virnucpro.cli.progress import Progress
from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import pack
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline.cluster import RayError, check_reachable, connected, resources
from virnucpro.pipeline.distributed import agreed, embed_with_ray, tasks
from virnucpro.pipeline.embed import Progressed, embed_file
from virnucpro.pipeline.input import NumberedPacks
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.pool import LOSSES_IN_A_ROW, Pool, not_started
from virnucpro.pipeline.provenance import compared, version_of
from virnucpro.pipeline.resuming import Stopped
from virnucpro.pipeline.shards import PACKS_IN_BLOCK
from virnucpro.pipeline.worker import ESM2Engine, Plan, Worker, compact, expand
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.errors import StoreError
from virnucpro.store.place import folder_of
from virnucpro.store.rows import Rows
from virnucpro.store.run import Run
from virnucpro.store.segments import JOURNAL, read_index

pytestmark = pytest.mark.usefixtures("one_thread")

PROTEINS = [
    (f"{name}{number}", protein[:60]) for number in range(9) for name, protein in RAGGED if "<" not in protein
]
OPTIONS = Options(token_budget=90)
NODES = [
    {"NodeManagerAddress": address, "NodeManagerHostname": name}
    for address, name in (("10.0.0.1", "a"), ("10.0.0.2", "b"), ("10.0.0.3", "c"), ("10.0.0.3", "d"))
]


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed") / "in.fasta"
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in PROTEINS))
    return path


@pytest.fixture(scope="module")
def whole(fasta, checkpoint):
    """Datasets of a run of one process."""
    output = fasta.with_name("whole.h5")
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    with Fasta(fasta) as records:
        embed_file(records, output, model, OPTIONS)
    with Embeddings(output) as file:
        return file.names, file.lengths.tolist(), file.embeddings[()]


def plan(run, checkpoint, engine=ESM2Engine, proof=None):
    return Plan(
        MODEL, str(checkpoint), "auto", "cpu", OPTIONS, run.folder, run.segments, proof or run.proof, engine
    )


def all_tasks(proteins=PROTEINS):
    """All of the input, as the driver hands it out."""

    class NoFile:
        def fraction(self):
            return None

    return list(tasks(NumberedPacks(pack(proteins, OPTIONS.token_budget)), NoFile()))


def started(run, checkpoint, **keywords):
    worker = Worker(plan(run, checkpoint, **keywords))
    worker.start(worker.about({"threads": 1})["settings"])
    return worker


def test_a_pack_is_sent_in_an_eighth_of_the_bytes():
    for each in NumberedPacks(pack(PROTEINS, 90)):
        sent = compact(each)
        assert sent.tokens.nbytes * 8 == each.pack.input_ids.numpy().nbytes
        again = expand(sent)
        assert (again.number, again.begins, again.digest) == (each.number, each.begins, each.digest)
        before, after = each.pack, again.pack
        assert after.sequence_ids == before.sequence_ids and after.max_seqlen == before.max_seqlen
        for name in ("input_ids", "cu_seqlens"):
            one, other = getattr(after, name), getattr(before, name)
            assert (one == other).all() and one.dtype == other.dtype


def test_two_workers_together_make_the_rows_of_one_process(tmp_path, checkpoint, whole):
    blocks = all_tasks()
    with Run(tmp_path / "out.h5", resume=False) as run, ThreadPoolExecutor(6) as pool:
        workers = [started(run, checkpoint) for _ in range(2)]
        calls = [
            pool.submit(workers[number % 2].embed, task.packs)
            for number, task in reversed(list(enumerate(blocks)))
        ]
        assert sum(call.result(60).sequences for call in calls) == len(PROTEINS)
        found = read_index(run.segments)
        rows = Rows(
            [pack for number in sorted(found) for pack in found[number].values()], 320, np.dtype("float32")
        )
        assert len(blocks) > 2
        assert [name for names in rows.names() for name in names] == whole[0]
        assert np.concatenate(list(rows.lengths())).tolist() == whole[1]
        assert (np.concatenate(list(rows.embeddings())) == whole[2]).all()


def test_a_worker_that_does_not_share_the_folder_is_refused(tmp_path, checkpoint):
    with Run(tmp_path / "out.h5", resume=False) as run:
        with pytest.raises(StoreError, match=r"does not see .*name an output on storage that all nodes share"):
            Worker(plan(run, checkpoint, proof="of another folder"))
        (run.folder / "shared").unlink()
        with pytest.raises(StoreError, match="does not see"):
            Worker(plan(run, checkpoint))


def test_a_worker_without_its_gpu_is_refused(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with Run(tmp_path / "out.h5", resume=False) as run:
        on_gpu = Plan(MODEL, "random", "auto", "cuda", OPTIONS, run.folder, run.segments, run.proof)
        with pytest.raises(
            StoreError, match=f"worker on {os.uname().nodename} was given a GPU that PyTorch does not"
        ):
            Worker(on_gpu)


def test_a_full_disk_is_told_by_every_call_and_nothing_of_it_counts(tmp_path, checkpoint, monkeypatch):
    first, second, *_ = all_tasks()
    with Run(tmp_path / "out.h5", resume=False) as run:
        worker = started(run, checkpoint)
        worker.embed(first.packs)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        for _ in range(2):
            with pytest.raises(StoreError, match=f"on {os.uname().nodename}: No space left on device"):
                worker.embed(second.packs)
        monkeypatch.undo()
        assert set(read_index(run.segments)) == {each.number for each in first.packs}


def test_what_the_engine_raises_is_raised_where_the_block_is_awaited(tmp_path, checkpoint):
    class Broken(ESM2Engine):
        def run(self, packs):
            next(iter(packs))
            raise ArithmeticError("NaN or Inf")

    with Run(tmp_path / "out.h5", resume=False) as run:
        worker = started(run, checkpoint, engine=Broken)
        task = all_tasks()[0]
        for _ in range(2):
            with pytest.raises(ArithmeticError, match="NaN or Inf"):
                worker.embed(task.packs)


def test_a_worker_whose_engine_does_not_start_says_so(tmp_path, checkpoint):
    class Broken(ESM2Engine):
        def start(self, settings):
            raise ArithmeticError("no room for a pack")

    refused = pytest.raises(ArithmeticError, match="no room for a pack")
    with Run(tmp_path / "out.h5", resume=False) as run, refused:
        started(run, checkpoint, engine=Broken)


def test_blocks_are_whole_packs():
    blocks = all_tasks()
    assert {len(task.packs) for task in blocks[:-1]} == {PACKS_IN_BLOCK}
    assert [each.number for task in blocks for each in task.packs] == list(
        range(sum(len(task.packs) for task in blocks))
    )


def test_only_runs_of_the_same_settings_are_resumed(tmp_path):
    settings = {"device": "one GPU", "threads": 0, "pool": "mean", "weights": "here"}
    begun = compared(settings)
    assert agreed(begun, {**settings, "weights": "there"}, tmp_path, allow_mixed=False) == {}
    with pytest.raises(StoreError, match="pool 'mean' and not 'bos'"):
        agreed(begun, {**settings, "pool": "bos"}, tmp_path, allow_mixed=True)
    with pytest.raises(StoreError, match="device 'one GPU' and not 'another'"):
        agreed(begun, {**settings, "device": "another"}, tmp_path, allow_mixed=False)
    with pytest.raises(StoreError, match=r"channels_apart None and not '\{\}'"):
        agreed(begun, {**settings, "channels_apart": "{}"}, tmp_path, allow_mixed=True)
    kept = agreed(begun, {**settings, "device": "another"}, tmp_path, allow_mixed=True)
    assert kept == {"device": "another | one GPU", "threads": 0, "allow_mixed": True}


class Cluster:
    """What `resources` asks of Ray."""

    def __init__(self, **total):
        self.cluster_resources = lambda: total


def test_there_is_a_worker_for_each_gpu_or_one_without():
    assert resources(Cluster(CPU=16, GPU=8), "auto", None) == ("cuda", 8)
    assert resources(Cluster(CPU=16, GPU=8), "auto", 3) == ("cuda", 3)
    assert resources(Cluster(CPU=16, GPU=8), "cpu", None) == ("cpu", 1)
    assert resources(Cluster(CPU=2), "auto", 2) == ("cpu", 2)


@pytest.mark.parametrize(
    "device, workers, message",
    [
        ("cuda", None, "the Ray cluster has no GPU"),
        ("auto", 3, "3 workers need as many CPU cores, and the Ray cluster has 2"),
        ("cuda:1", None, "Ray chooses which GPU"),
    ],
)
def test_what_the_cluster_lacks_is_told(device, workers, message):
    with pytest.raises(RayError, match=message):
        resources(Cluster(CPU=2), device, workers)


@pytest.mark.parametrize("address, message", [("ray://head:10001", "host:6379"), ("head", "host:port")])
def test_an_address_that_makes_no_sense_is_refused(address, message):
    with pytest.raises(RayError, match=message):
        check_reachable(address)


def test_an_address_where_nothing_listens_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RayError, match=f"no Ray at 127.0.0.1:{port} .*ray start --head"):
        check_reachable(f"127.0.0.1:{port}")


@pytest.fixture
def listening(monkeypatch):
    """Listen at an address, and answer what is given to whoever connects."""
    monkeypatch.setattr("virnucpro.pipeline.cluster.CONNECT_SECONDS", 0.2)
    with contextlib.ExitStack() as stack:

        def listen(answer):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve():
                with contextlib.suppress(OSError):  # the test may be over
                    connection, _ = server.accept()
                    stack.enter_context(connection).sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{server.getsockname()[1]}"

        yield listen


@pytest.mark.parametrize(
    "answer, message",
    [
        (b"", "timed out"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is not Ray"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what listens there is not Ray"),
    ],
)
def test_an_address_where_something_else_listens_is_told_at_once(listening, answer, message):
    address = listening(answer)
    with pytest.raises(RayError, match=rf"no Ray at {address} \({message}\): .*ray start --head"):
        check_reachable(address)


def test_a_server_that_greets_in_http2_is_taken_for_ray(listening, monkeypatch):
    settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x40\0\0"
    check_reachable(listening(settings))
    monkeypatch.setenv("RAY_USE_TLS", "1")
    check_reachable(listening(b""))


def test_auto_is_the_address_that_the_environment_names(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_reachable("auto")
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(RayError, match="--ray head: an address is host:port"):
        check_reachable("auto")


@pytest.mark.parametrize(
    "said, message",
    [
        (
            "(ip=10.0.0.2)\nModuleNotFoundError: No module named 'x'",
            "worker 3 on b did not start: No module",
        ),
        ("\tip: 10.0.0.2\nThe worker was killed.", r"worker 3 on b did not start: The worker was killed\.$"),
        (
            "(ip=10.0.0.1)\nvirnucpro.errors.DeviceError: no model at x",
            "worker 3 on a did not start: no model at x$",
        ),
        (
            "(ip=10.0.0.2)\nvirnucpro.store.errors.StoreError: no folder x on b",
            "worker 3 did not start: no folder x on b$",
        ),
        ("(ip=10.0.0.3)\nOSError: x", r"worker 3 on 10\.0\.0\.3 did not start: x$"),
        ("died", "worker 3 on an unknown node did not start: died$"),
    ],
)
def test_a_worker_that_does_not_start_is_told_with_its_node(said, message):
    assert re.match(message, not_started(3, RuntimeError(said), NODES))


def test_a_node_that_lacks_what_this_virnucpro_has_is_told_to_install_the_same():
    said = not_started(0, RuntimeError("(ip=10.0.0.2)\nAttributeError: 'Plan' has no attribute 'x'"), NODES)
    assert said.endswith(f"this is {version_of('virnucpro')}): install the same on all nodes")


def test_without_ray_the_remedy_is_told_and_nothing_is_left(fasta, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError), connected("local", None):
        pass
    words = ["--model", MODEL, "--weights", "random"]
    assert main(["embed", str(fasta), "-o", str(tmp_path / "out.h5"), *words, "--ray"]) == 1
    assert "pip install 'virnucpro[ray]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def pool_of(allow_mixed=False):
    """A pool that starts nothing."""

    class NoRay:
        nodes = NODES.copy

        def remote(self, _):
            return self

        def options(self, **_):
            return self

        def kill(self, _):
            pass

        @property
        def about(self):
            return self

    return Pool(NoRay(), Plan(MODEL, "random", "auto", "cpu", OPTIONS, "", "", ""), 2, allow_mixed)


def about(host, **settings):
    here = {
        "virnucpro": version_of("virnucpro"),
        "engine": "x",
        "device": "a GPU",
        "threads": 0,
        "token_budget": 9,
    }
    return {"host": host, "settings": here | settings}


def test_workers_agree_on_the_smallest_token_budget():
    assert pool_of()._common([about("a"), about("b", token_budget=7)])["token_budget"] == 7


@pytest.mark.parametrize(
    "other, message",
    [
        ({"virnucpro": "0.1"}, "the worker on b has virnucpro 0.1, and this is"),
        ({"engine": "y"}, "engine is 'x' on a and 'y' on b: make them alike"),
        ({"device": "another"}, "device is 'a GPU' on a and 'another' on b: use --allow-mixed"),
    ],
)
def test_workers_that_would_give_other_bytes_are_refused(other, message):
    with pytest.raises(RayError, match=message):
        pool_of()._common([about("a"), about("b", **other)])


def test_mixed_hardware_is_recorded_where_it_is_allowed():
    found = pool_of(allow_mixed=True)._common([about("a"), about("b", device="another")])
    assert found["device"] == "a GPU | another" and found["allow_mixed"] is True
    with pytest.raises(RayError, match="engine"):
        pool_of(allow_mixed=True)._common([about("a"), about("b", engine="y")])


class Reference:
    """What Ray returns of a call: it can be the key of a dictionary."""

    def __init__(self, value):
        self.value = value


class RayOfOneProcess:
    """Workers that tell what they were planned to keep apart, or choose the next of `choices`."""

    def __init__(self, *choices):
        self._choices, self.plans, self.ended = iter(choices), [], []

    def remote(self, what):
        if not isinstance(what, Plan):
            return self
        self.plans.append(what.channels_apart)
        apart = next(self._choices) if what.channels_apart is None else what.channels_apart
        settings = {"channels_apart": json.dumps(apart), "weights_checksum": f"of {apart}"}
        reference = Reference({**about(f"host {len(self.plans)}", **settings), "shape": (320,)})
        return SimpleNamespace(about=SimpleNamespace(remote=lambda begun: reference))

    def options(self, **_):
        return self

    def wait(self, refs, **_):
        return refs[:1], refs[1:]

    def get(self, ref):
        return ref.value

    def kill(self, actor):
        self.ended.append(actor)


CHOSEN, OTHER = {"layers.0.fc1": [7]}, {"layers.0.fc1": [7, 9]}


@pytest.mark.parametrize("allow_mixed", [False, True])
@pytest.mark.parametrize(
    "planned, choices, agreed",
    [(None, [CHOSEN, OTHER, {}], CHOSEN), (None, [CHOSEN] * 3, CHOSEN), (OTHER, [], OTHER), ({}, [], {})],
    ids=["all choose differently", "all choose alike", "recorded", "none recorded"],
)
def test_all_workers_keep_the_first_ones_channels_apart_or_those_recorded(planned, choices, agreed, allow_mixed):
    ray = RayOfOneProcess(*choices)
    plan = Plan(MODEL, "random", "int8", "cpu", OPTIONS, "", "", "", channels_apart=planned)
    pool = Pool(ray, plan, 3, allow_mixed)
    settings = pool.open({}, lambda: False)
    assert settings["channels_apart"] == json.dumps(agreed) and settings["weights_checksum"] == f"of {agreed}"
    others = len([each for each in choices if each != agreed])
    assert ray.plans == [planned] * 3 + [agreed] * others and len(ray.ended) == others
    pool._launch(pool.slots[0])  # one that replaces a lost one
    assert ray.plans[-1] == agreed


def test_a_worker_takes_the_channels_of_the_plan(tmp_path, massive_checkpoint):
    with Run(tmp_path / "out.h5", resume=False) as run:
        for apart in (None, {}, CHOSEN):
            planned = plan(run, massive_checkpoint)
            worker = Worker(dataclasses.replace(planned, precision="int8", channels_apart=apart))
            found = json.loads(worker.about({})["settings"]["channels_apart"])
            assert found == apart if apart is not None else 77 in found["layers.3.fc1"]


def test_workers_with_other_channels_are_refused_with_mixed_hardware_too():
    with pytest.raises(RayError, match=r"channels_apart is '{}' on a and 'x' on b: make them alike"):
        pool_of(allow_mixed=True)._common([about("a", channels_apart="{}"), about("b", channels_apart="x")])


def test_workers_that_do_not_start_for_long_are_told_once(monkeypatch, caplog):
    pool, asked = pool_of(), iter([False, False, False, True])
    monkeypatch.setattr(pool, "_ready", lambda _: [])
    monkeypatch.setattr("virnucpro.pipeline.pool.LONG_SECONDS", 0.0)
    for slot in pool.slots:
        slot.starting = object()
    with pytest.raises(Stopped):
        list(pool._started(pool.slots, lambda: next(asked), "the GPUs are taken"))
    assert caplog.messages == ["still waiting for 2 of 2 workers to start: the GPUs are taken"]


def test_a_run_whose_workers_are_lost_again_and_again_ends_and_names_the_last_ones_node():
    pool = pool_of()
    error = RuntimeError("(ip=10.0.0.2)\nThe worker was killed.")
    for _ in range(LOSSES_IN_A_ROW - 1):
        assert pool._lost(pool.slots[0], error) == []
    with pytest.raises(RayError, match="nothing was done meanwhile; the last, on b: The worker was killed"):
        pool._lost(pool.slots[0], error)


@pytest.mark.slow
def test_a_real_local_ray_writes_the_bytes_of_one_process(fasta, tmp_path, checkpoint, whole):
    if not importlib.util.find_spec("ray"):
        pytest.skip("Ray is not installed")
    output = tmp_path / "out.h5"
    for resume in (False, True):
        with Fasta(fasta) as records:
            summary = embed_with_ray(
                records, output, MODEL, OPTIONS, weights=str(checkpoint), device="cpu", workers=2, resume=resume
            )
        assert summary["sequences"] == len(PROTEINS) and summary["resumed_sequences"] == len(PROTEINS) * resume
        with Embeddings(output) as file:
            assert (file.names, file.lengths.tolist()) == whole[:2] and (file.embeddings[()] == whole[2]).all()
    assert not folder_of(output).exists()


LOCAL_RAY = """
import json, os, subprocess, sys
if sys.argv[1] == "imported before":
    import ray
from virnucpro.pipeline.cluster import connected

CLIENT = '''
import sys
from ray._raylet import GcsClient
print("in", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)))
'''

def listening(processes):
    sockets = set()
    for each in processes:
        for fd in os.listdir(f"/proc/{each}/fd"):
            try:
                sockets.add(os.readlink(f"/proc/{each}/fd/{fd}"))
            except OSError:
                pass
    for table in ("tcp", "tcp6"):
        for line in open(f"/proc/net/{table}").read().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in sockets:
                yield cells[1].partition(":")[0]

def descendants(process):
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout.split()
    found = [process]
    for each in found:
        found += [int(child) for child, parent in zip(listed[::2], listed[1::2]) if int(parent) == each]
    return [each for each in found if os.path.exists(f"/proc/{each}/fd")]

def client(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", CLIENT, ray._private.worker._global_node.gcs_address]
    return "in 1" in subprocess.run(words, env=kept | environment, capture_output=True, text=True).stdout

before = dict(os.environ)
with connected("local", 3) as ray:
    class Worker:
        def about(self):
            return 1

    workers = [ray.remote(Worker).options(num_cpus=1).remote() for _ in range(3)]
    ray.get([each.about.remote() for each in workers])
    mine = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    found = {
        "addresses": sorted(set(listening(descendants(os.getpid())))),
        "with the token": client(**mine),
        "with another": client(**{**mine, "RAY_AUTH_TOKEN": "x" * 64}),
        "without": client(RAY_AUTH_MODE="disabled"),
        "a token of this run": mine["RAY_AUTH_TOKEN"] != "of a cluster" and len(mine["RAY_AUTH_TOKEN"]) >= 32,
    }
print(json.dumps({**found, "environment given back": dict(os.environ) == before}))
"""


def in_hexadecimal(addresses):
    return {each for each in addresses if not each.endswith("0100007F") and each != "0" * 24 + "01000000"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="lists sockets as Linux does")
@pytest.mark.parametrize("when", ["imported before", "imported by the run"])
def test_a_local_ray_listens_on_the_loopback_only_and_asks_for_a_token(when):
    if not importlib.util.find_spec("ray"):
        pytest.skip("Ray is not installed")
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "of a cluster"}
    words = [sys.executable, "-c", LOCAL_RAY, when]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    addresses = found.pop("addresses")
    assert addresses and not in_hexadecimal(addresses)
    assert found == {
        "with the token": True,
        "with another": False,
        "without": False,
        "a token of this run": True,
        "environment given back": True,
    }


def test_a_ray_that_asks_for_no_token_is_refused_and_the_environment_given_back(monkeypatch):
    started = []
    old = SimpleNamespace(
        __version__="2.51.0", is_initialized=lambda: False, init=lambda *_, **__: started.append(1)
    )
    monkeypatch.setitem(sys.modules, "ray", old)
    for module in ("ray._raylet", "ray._private", "ray._private.ray_constants"):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(env_bool=lambda *_: True))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/a/token")
    before = dict(os.environ)
    with (
        pytest.raises(RayError, match=r"Ray 2\.51\.0 asks for no token.*pip install 'ray>=2\.52'"),
        connected("local", 1),
    ):
        pass
    assert not started and dict(os.environ) == before


@pytest.mark.parametrize(
    "gpus, words, said",
    [
        (0, ["--workers", "3"], "3 workers need as many CPU cores, and this machine has 2: use --workers 2"),
        (0, ["--device", "cpu", "--workers", "100"], "100 workers need as many CPU cores"),
        (0, ["--device", "cuda"], "this machine has no GPU that PyTorch sees"),
        (0, ["--device", "cuda:1"], "with --ray it is cuda or cpu"),
        (4, ["--workers", "5"], "5 workers need as many GPUs, and this machine has 4: use --workers 4"),
        (4, ["--workers", "3", "--device", "cpu"], "3 workers need as many CPU cores, and this machine has 2"),
    ],
)
def test_more_workers_than_the_machine_has_are_refused_before_anything_starts(
    fasta, tmp_path, monkeypatch, capsys, gpus, words, said
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setitem(sys.modules, "ray", None)  # to import it would be another error
    how = ["--model", MODEL, "--weights", "random", "--ray", *words]
    assert main(["embed", str(fasta), "-o", str(tmp_path / "out.h5"), *how]) == 1
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--ray", ""], ["--ray="], ["--shard", ""], ["--shard="], ["--ray", " "]])
def test_an_empty_address_or_shard_is_refused(fasta, tmp_path, capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(["embed", str(fasta), "-o", str(tmp_path / "out.h5"), *words])
    assert ended.value.code == 2 and "is empty" in capsys.readouterr().err


def test_only_the_summary_goes_to_standard_output(fasta, tmp_path, monkeypatch, capfd):
    def noisy(*_, **__):
        os.write(1, b"(raylet) a worker died\n")
        print("and Python says so")
        subprocess.run([sys.executable, "-c", "print('as does a child')"], check=True)
        raise RayError("all is lost")

    monkeypatch.setattr("virnucpro.pipeline.distributed.embed_with_ray", noisy)
    words = ["embed", str(fasta), "-o", str(tmp_path / "out.h5"), "--ray", "--json"]
    assert main(words) == 1
    said = capfd.readouterr()
    assert said.out == "" and all(each in said.err for each in ("(raylet)", "as does a child", "all is lost"))
    print("output is given back")
    assert capfd.readouterr().out == "output is given back\n"


@pytest.mark.slow
def test_json_is_all_of_the_output_also_when_a_worker_dies(tmp_path):
    if not importlib.util.find_spec("ray"):
        pytest.skip("Ray is not installed")
    path, output = tmp_path / "in.fasta", tmp_path / "out.h5"
    path.write_text("".join(f">p{number}\n{'MKTAYIAKQR' * 10}\n" for number in range(1_500)))
    words = ["embed", path, "-o", output, "--model", MODEL, "--weights", "random", "--device", "cpu"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "virnucpro", *words, "--token-budget", "600", "--ray", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not (
        found := [each for each in folder_of(output).glob(f"segments/*/*/{JOURNAL}") if each.stat().st_size]
    ):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int(found[0].parent.name.split("-")[-2]), signal.SIGKILL)
    out, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, said
    summary = json.loads(out)
    assert summary["lost_workers"] == 1 and summary["sequences"] == 1_500, said


def test_progress_tells_the_speed_of_each_worker_and_of_all(monkeypatch, capsys):
    monkeypatch.setattr(Progress, "SECONDS_BETWEEN_LINES", 0.0)
    so_far = Progressed()
    so_far.count(3, 94, ["x"], 0.25)
    so_far.speeds, so_far.seconds = [30.0, 20.0], 2.0
    with Progress() as progress:
        progress(so_far)
    assert "3 sequences, 50 tokens/s (30, 20)" in capsys.readouterr().err
    assert so_far.not_finite.count == 1
