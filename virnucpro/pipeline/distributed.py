"""One run on many GPUs: a Ray actor for each, which the driver hands blocks of packs.

The driver reads the input and packs it, at tens of millions of tokens a second, and sends a block to whichever
worker has room. Workers write what they embed to the run's folder themselves (see ``store/segments.py``), so
embeddings never pass through Ray; the driver holds the blocks in flight. When a worker dies, the blocks that it
had are handed out again. At the end the rows are put together in the order of the input.
"""

import contextlib
import itertools
import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import pack
from virnucpro.data.proteins import ProteinReader, Skipped
from virnucpro.errors import UserError
from virnucpro.names import NOT_FINITE
from virnucpro.pipeline import worker
from virnucpro.pipeline.embed import Done, inputs_of, summary_of
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.prefetch import ReadAhead
from virnucpro.pipeline.provenance import Place, changed, compared, version_of
from virnucpro.pipeline.resuming import Stopped, complete_work, earlier_settings, until
from virnucpro.pipeline.shards import Numbered, numbered
from virnucpro.pipeline.worker import CompactPack, Engine, ESM2Engine, Plan, Worker, compact
from virnucpro.store.committed import Committed
from virnucpro.store.errors import StoreError
from virnucpro.store.formats import TABLE, Format
from virnucpro.store.merge import HARDWARE, mixed
from virnucpro.store.per_protein import checked
from virnucpro.store.segments import RUN, Block, SegmentedRun, SegmentRows, missing_blocks, read_index
from virnucpro.store.unfinished import check_output, check_same

BLOCKS_AHEAD = 3  # of a worker: one computed, one received, one being put on disk
BLOCKS_READ_AHEAD = 4  # beside those
LOSSES_IN_A_ROW = 5  # workers lost without a block being done in between, after which the fault is not theirs
POLL_SECONDS = 0.2
CONNECT_SECONDS = 10.0
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # RFC 9113, 3.4: no settings
HTTP2_ANSWER = re.compile(rb"...\x04.\0{4}", re.DOTALL)  # as a frame of settings begins
OF_ANOTHER_VERSION = ("ModuleNotFoundError", "ImportError", "AttributeError", "TypeError")
LOCAL_OBJECT_STORE = 2**28  # bytes; only the blocks in flight pass through it
RAY, ALLOW_MIXED = "ray", "allow_mixed"  # settings

logger = logging.getLogger(__name__)


class RayError(UserError, RuntimeError):
    """Ray is missing, cannot be reached, or does not have what was asked for."""


@dataclass(frozen=True)
class Task:
    """A block to be embedded. `place`: where it begins, and a digest of the input up to its end."""

    number: int
    place: Place
    packs: list[CompactPack]
    fraction: float | None  # of the input that was read, up to here


@dataclass
class Slot:
    """A worker's place: the actor in it, which is replaced when it dies, and what it did."""

    number: int
    actor: Any
    starting: Any  # what `about`, then `start` will return; None when it is ready
    about: dict[str, Any] = field(default_factory=dict)
    in_flight: dict[Any, Task] = field(default_factory=dict)
    tokens: int = 0
    began: float = 0.0
    seconds: float = 0.0  # from when it was ready to its last block
    losses: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of the blocks that are on disk."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class DoneByWorkers(Done):
    """How far a run of several workers is."""

    def skip(self, block: Block) -> None:
        """A block that an earlier run did."""
        sequences = sum(counts.sequences for counts in block.packs)
        self.resumed += sequences
        self.sequences += sequences
        self.residues += sum(counts.residues for counts in block.packs)
        self.not_finite.count += len(block.skipped)

    def add(self, block: worker.Done, fraction: float | None) -> None:
        """A block more."""
        self.sequences += block.sequences
        self.residues += block.residues
        self.tokens += block.residues + 2 * block.sequences
        for name in block.not_finite:
            self.not_finite.add(name)
        self.fraction, self.seconds = fraction, time.perf_counter() - self._started


def embed_with_ray(
    fasta: Fasta,
    output: str | os.PathLike[str],
    model: str,
    options: Options,
    *,
    weights: str = "pretrained",
    precision: str = "auto",
    device: str = "auto",
    address: str = "local",
    workers: int | None = None,
    allow_mixed: bool = False,
    format: Format = TABLE,
    command: str = "",
    resume: bool = False,
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Done], None] = lambda done: None,
    on_skip: Callable[[Skipped], None] = lambda skipped: None,
    engine: Callable[[Plan], Engine] = ESM2Engine,
) -> dict[str, Any]:
    """As `embed_file`, on `workers` GPUs, a worker each: by default on all, or without GPUs one worker.

    device: ``auto`` (the GPUs, where there are any), ``cuda`` or ``cpu``. address: of a Ray cluster, ``auto`` for
    the one on this machine, or ``local`` to start one for this run. `output` must be on storage that all nodes
    share. allow_mixed: workers may have different hardware, whose rounding differs; it is recorded in ``device``.
    engine: what embeds, another one in tests.

    The datasets have the same bytes as those of `embed_file` on the same kind of hardware. Raises RayError, too.
    """
    began = time.perf_counter()
    output = check_output(output, resume, force, inputs_of(fasta), format.is_folder)
    with connected(address, workers) as ray, SegmentedRun(output, resume, format.is_folder) as run:
        complete = resume and run.begun is None and output.exists()
        known = earlier_settings(output) if resume else {}
        kind, count = resources(ray, device, 1 if complete else workers)
        plan = Plan(model, weights, precision, kind, options, run.folder, run.segments, run.proof, engine)
        reader = ProteinReader(fasta, options.max_length, options.chunk, options.strict, on_skip)
        pool = Pool(ray, plan, count, allow_mixed)
        try:
            settings = {
                **{"model": model, "weights": weights},
                **pool.open({"threads": torch.get_num_threads(), **known}, stop),
            }
            packs = pack(checked(reader) if format.named else reader, settings["token_budget"])
            if complete:
                work = complete_work(output, compared(settings), until(stop, packs), format)
                return summary_of(Done.after(work.before), settings, reader, torch.device("cpu"))
            if run.begun is not None:
                settings |= agreed(run.begun, settings, output, allow_mixed)
            before = run.begin({**compared(settings), RAY: True})
            pool.start(settings)
            ready = time.perf_counter()
            done = DoneByWorkers()
            if format is TABLE:
                run.copy_ahead(math.prod(pool.shape) * np.dtype(options.dtype).itemsize)
            for number, block in before.items():
                run.add(number, block)
            with ReadAhead(tasks(numbered(packs), before, fasta), BLOCKS_READ_AHEAD, stop) as todo:
                blocks = pool.run(todo, done, stop, progress, on_skip, run.add)
        finally:
            pool.close()
        if stop():
            raise Stopped
        rows = rows_of(run, blocks, pool.shape, options)
        attributes = {**settings, "command": command, "input_digest": rows.committed.digest}
        ragged = options.pool == "residue"

        def write(path: Path, copied: bool) -> bool:
            more = {"copied": True} if copied else {}
            return format.write(path, rows, attributes, pool.shape, ragged, stop, **more)

        if not run.finish(rows, write):
            raise Stopped
        done.end()
    return {
        **summary_of(done, settings, reader, torch.device("cpu")),
        "startup_seconds": round(ready - began, 3),
        "lost_workers": pool.losses,
        "workers": pool.summary(),
    }


def rows_of(run: SegmentedRun, blocks: int, shape: tuple[int, ...], options: Options) -> SegmentRows:
    """All rows, in order; StoreError where some are missing on disk."""
    index = read_index(run.segments)
    missing = missing_blocks(index, blocks)
    if missing:
        raise StoreError(
            f"{len(missing)} of {blocks} blocks are not on disk, the first is {missing[0]}: run again "
            "with --resume"
        )
    wanted = {number: index[number] for number in range(blocks)}
    return SegmentRows(wanted, math.prod(shape), np.dtype(options.dtype))


def tasks(packs: Iterable[Numbered], before: Mapping[int, Block], fasta: Fasta) -> Iterator[Task | Block | int]:
    """The blocks of an input in order: a `Block` where it is in `before`, or a `Task`; then how many there are.

    Raises FastaError where what is in `before` is not of this input.
    """
    count = 0
    for number, group in itertools.groupby(packs, lambda each: each.block):
        block, count = list(group), number + 1
        place = Place(block[0].place.begins, block[-1].place.digest)
        found = before.get(number)
        if found is None:
            yield Task(number, place, [compact(each.pack) for each in block], fasta.fraction())
        elif found.digest == place.digest:
            yield found
        else:
            break
    else:
        if all(number < count for number in before):
            yield count
            return
    sequences = sum(counts.sequences for block in before.values() for counts in block.packs)
    raise changed(Committed(sequences, skipped=sum(len(block.skipped) for block in before.values())))


def agreed(
    begun: Mapping[str, Any], settings: Mapping[str, Any], output: Path, allow_mixed: bool
) -> dict[str, Any]:
    """What of the settings that a run was begun with is kept; StoreError unless they are these."""
    then = {name: value for name, value in begun.items() if name not in (RUN, RAY)}
    if RAY not in begun:
        raise StoreError(f"{output} was begun without --ray: resume it without, or begin anew with --force")
    now, kept = compared(settings), dict[str, Any]()
    if allow_mixed:
        devices = {device for each in (then, now) for device in str(each["device"]).split(" | ")}
        kept = {"device": " | ".join(sorted(devices)), "threads": then["threads"], ALLOW_MIXED: True}
    check_same({**then, **kept}, {**now, **kept}, f"{output} was begun")
    return kept


@contextlib.contextmanager
def connected(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or to one of this run's own."""
    try:
        import ray
    except ImportError as error:
        raise RayError(
            f"--ray needs Ray, which cannot be imported ({error}): pip install 'virnucpro[ray]'"
        ) from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == "local":
        cores = max(workers or 1, os.cpu_count() or 1)
        options |= {
            "num_cpus": cores,
            "include_dashboard": False,
            "object_store_memory": LOCAL_OBJECT_STORE,
        }
    else:
        check_reachable(address)
    try:
        with keeping_signal_handlers():
            ray.init(address, **options)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and errors of gRPC
        if address == "local":
            raise RayError(f"cannot start Ray: {error}") from error
        raise RayError(
            f"cannot use Ray at {address}: {error}: all its nodes must have Ray {ray.__version__}, as this one; "
            "where they ask for a token, set RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH as on them"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def keeping_signal_handlers() -> Iterator[None]:
    """Ray puts handlers of its own in place of the program's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_reachable(address: str) -> None:
    """Raise RayError unless something that speaks HTTP/2, as Ray does, listens at ``host:port``, or for ``auto``
    at what ``RAY_ADDRESS`` names; Ray itself would try for minutes.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if "://" in address:
        raise RayError(
            f"--ray {address}: give the address of the head node, host:6379, and run on a node of the cluster"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise RayError(
            f"--ray {address}: an address is host:port, of the node that was started with `ray start --head`"
        )
    try:
        with socket.create_connection((host, int(port)), CONNECT_SECONDS) as there:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            there.sendall(HTTP2_GREETING)
            if not HTTP2_ANSWER.match(there.makefile("rb").read(9)):
                raise ConnectionError("what listens there is not Ray")
    except OSError as error:
        raise RayError(
            f"no Ray at {address} ({error}): start it there with `ray start --head`, or leave out the address"
        ) from error


def resources(ray: Any, device: str, workers: int | None) -> tuple[str, int]:
    """``cuda`` or ``cpu``, and how many workers; RayError where the cluster has too few of them."""
    if device not in ("auto", "cuda", "cpu"):
        raise RayError(f"--device {device}: with --ray it is cuda or cpu, and Ray chooses which GPU")
    total = ray.cluster_resources()
    gpus, cores = int(total.get("GPU", 0)), int(total.get("CPU", 0))
    if device == "cuda" and not gpus:
        raise RayError(
            "the Ray cluster has no GPU: start its nodes with `ray start --num-gpus`, or use --device cpu"
        )
    kind = "cuda" if gpus and device != "cpu" else "cpu"
    most, unit = (gpus, "GPUs") if kind == "cuda" else (cores, "CPU cores")
    count = workers or (gpus if kind == "cuda" else 1)
    if count > most:
        raise RayError(f"{count} workers need as many {unit}, and the Ray cluster has {most}")
    return kind, count


class Pool:
    """The workers of a run."""

    def __init__(self, ray: Any, plan: Plan, count: int, allow_mixed: bool):
        self._ray, self._plan, self._allow_mixed = ray, plan, allow_mixed
        resource = {"num_gpus": 1, "num_cpus": 1} if plan.device == "cuda" else {"num_cpus": 1}
        # A thread for each block, and one for `about`
        self._make = ray.remote(Worker).options(max_concurrency=BLOCKS_AHEAD + 1, max_restarts=0, **resource)
        self._begun: Mapping[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self.losses = self._losses_in_a_row = 0
        self.slots = [Slot(number, None, None) for number in range(count)]
        self.shape: tuple[int, ...] = ()

    def open(self, begun: Mapping[str, Any], stop: Callable[[], bool]) -> dict[str, Any]:
        """Start the workers, and settle what they have in common; Stopped where `stop` says so meanwhile."""
        self._begun = begun
        for slot in self.slots:
            self._launch(slot)
        waiting = {slot.starting: slot for slot in self.slots}
        while waiting:
            if stop():
                raise Stopped
            for ref in self._ready(waiting):
                slot = waiting.pop(ref)
                slot.about = self._result(ref, slot)
        found = [slot.about for slot in self.slots]
        self.shape = tuple(found[0]["shape"])
        self._settings = self._common(found)
        return self._settings

    def start(self, settings: Mapping[str, Any]) -> None:
        """Have the workers take the settings."""
        self._settings = dict(settings)
        for slot in self.slots:
            slot.starting = slot.actor.start.remote(self._settings)
        for slot in self.slots:
            self._result(slot.starting, slot)
            slot.starting = None
        for slot in self.slots:
            slot.began = time.perf_counter()

    def run(
        self,
        tasks: Iterator[Task | Block | int],
        done: DoneByWorkers,
        stop: Callable[[], bool],
        progress: Callable[[Done], None],
        on_skip: Callable[[Skipped], None],
        on_block: Callable[[int, Block], None],
    ) -> int:
        """Have all blocks embedded; returns how many the input has. When `stop` is true, those in flight are."""
        again: deque[Task] = deque()
        blocks: int | None = None
        while True:
            while blocks is None or again:
                slot = self._free()
                if slot is None or stop():
                    break
                task = again.popleft() if again else next(tasks, -1)
                if isinstance(task, int):
                    blocks = task
                    break
                if isinstance(task, Block):
                    done.skip(task)
                    continue
                slot.in_flight[slot.actor.embed.remote(task.number, task.place, task.packs)] = task
            busy = any(slot.in_flight for slot in self.slots)
            if not busy and not again and (blocks is not None or stop()):
                return blocks or 0
            if not busy and stop():
                return 0
            refs = {
                ref: slot for slot in self.slots for ref in (*slot.in_flight, slot.starting) if ref is not None
            }
            for ref in self._ready(refs):
                again.extend(self._taken(refs[ref], ref, done, progress, on_skip, on_block))

    def _taken(
        self,
        slot: Slot,
        ref: Any,
        done: DoneByWorkers,
        progress: Callable[[Done], None],
        on_skip: Callable[[Skipped], None],
        on_block: Callable[[int, Block], None],
    ) -> list[Task]:
        """Take what a worker returned; the blocks to be done again, if it is lost."""
        if ref is not slot.starting and ref not in slot.in_flight:
            return []  # of a worker that was found lost a moment ago
        try:
            value = self._ray.get(ref)
        except self._ray.exceptions.RayActorError as error:
            return self._lost(slot, error)
        except self._ray.exceptions.RayTaskError as error:
            raise reason_of(error) from error
        if ref is slot.starting:
            if not slot.about:
                self._check_replacement(slot, value)
            else:
                slot.starting, slot.began = None, time.perf_counter() - slot.seconds
            return []
        task = slot.in_flight.pop(ref)
        self._losses_in_a_row = 0
        slot.tokens += value.residues + 2 * value.sequences
        slot.seconds = time.perf_counter() - slot.began
        on_block(task.number, value.block)
        done.add(value, task.fraction)
        for name in value.not_finite:
            on_skip(Skipped(name, NOT_FINITE))
        done.speeds = [each.tokens_per_second for each in self.slots]
        progress(done)
        return []

    def _check_replacement(self, slot: Slot, about: dict[str, Any]) -> None:
        slot.about = about
        self._common([{"settings": self._settings, "host": "the run"}, about])
        slot.starting = slot.actor.start.remote(self._settings)

    def _lost(self, slot: Slot, error: Exception) -> list[Task]:
        """Replace a worker; its blocks."""
        self.losses += 1
        self._losses_in_a_row += 1
        slot.losses += 1
        host = slot.about.get("host") or node_of(error, self._ray.nodes())
        reason = last_line(error)
        logger.warning("worker %d on %s is lost, its work is done again: %s", slot.number, host, reason)
        if self._losses_in_a_row >= LOSSES_IN_A_ROW:
            raise RayError(
                f"{self._losses_in_a_row} workers were lost and nothing was done meanwhile; the last, on {host}: "
                + reason
            )
        again = list(slot.in_flight.values())
        slot.in_flight = {}
        with contextlib.suppress(Exception):  # it may live on, cut off from here
            self._ray.kill(slot.actor)
        self._launch(slot)
        return again

    def _launch(self, slot: Slot) -> None:
        slot.actor, slot.about = self._make.remote(self._plan), {}
        slot.starting = slot.actor.about.remote(self._begun)

    def _free(self) -> Slot | None:
        """The ready worker with the least to do, if it has room."""
        ready = [slot for slot in self.slots if slot.starting is None and len(slot.in_flight) < BLOCKS_AHEAD]
        return min(ready, key=lambda slot: len(slot.in_flight), default=None)

    def _ready(self, refs: Iterable[Any]) -> list[Any]:
        waiting = list(refs)
        if not waiting:
            time.sleep(POLL_SECONDS)
            return []
        ready: list[Any] = self._ray.wait(waiting, num_returns=1, timeout=POLL_SECONDS, fetch_local=False)[0]
        return ready

    def _result(self, ref: Any, slot: Slot) -> Any:
        """What a call returned; what it raised, or RayError where the worker could not be started."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise reason_of(error) from error
        except self._ray.exceptions.RayActorError as error:
            raise RayError(not_started(slot.number, error, self._ray.nodes())) from error

    def _common(self, workers: list[dict[str, Any]]) -> dict[str, Any]:
        """The settings of all workers; StoreError where they would not give the same bytes."""
        first = workers[0]
        here = version_of("virnucpro")
        for each in workers:
            if each["settings"]["virnucpro"] != here:
                raise RayError(
                    f"the worker on {each['host']} has virnucpro {each['settings']['virnucpro']}, and this is "
                    f"{here}: install the same on all nodes"
                )
            may_differ = ("token_budget", *(HARDWARE if self._allow_mixed else ()))
            for name, now in each["settings"].items():
                then = first["settings"].get(name)
                if then != now and name not in may_differ:
                    remedy = "use --allow-mixed, which is recorded" if name in HARDWARE else "make them alike"
                    raise RayError(
                        f"workers differ: {name} is {then!r} on {first['host']} and {now!r} on {each['host']}: "
                        + remedy
                    )
        settings = {**first["settings"], "token_budget": min(each["settings"]["token_budget"] for each in workers)}
        if self._allow_mixed:
            settings |= {**mixed([each["settings"] for each in workers]), ALLOW_MIXED: True}
        return settings

    def summary(self) -> list[dict[str, Any]]:
        """What each worker did, for JSON."""
        return [
            {
                "host": slot.about.get("host"),
                "gpu": slot.about.get("gpu"),
                "device": slot.about.get("settings", {}).get("device"),
                "tokens": slot.tokens,
                "tokens_per_second": round(slot.tokens_per_second, 1),
                "loading_seconds": slot.about.get("loading_seconds"),
                "lost": slot.losses,
            }
            for slot in self.slots
        ]

    def close(self) -> None:
        """End the workers."""
        for slot in self.slots:
            if slot.actor is not None:
                with contextlib.suppress(Exception):
                    self._ray.kill(slot.actor)


def reason_of(error: BaseException) -> BaseException:
    """What a worker raised, out of what Ray wraps it in."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def not_started(number: int, error: BaseException, nodes: Iterable[Mapping[str, Any]]) -> str:
    """What to say of a worker that died while it was made. `nodes`: as Ray lists them."""
    reason, host = last_line(error), node_of(error, nodes)
    where = "" if re.search(rf"\bon {re.escape(host)}\b", reason) else f" on {host}"
    if str(error).rstrip().endswith(tuple(f"{name}: {reason}" for name in OF_ANOTHER_VERSION)):
        reason += (
            f" (it may have another virnucpro, this is {version_of('virnucpro')}): install the same on all nodes"
        )
    return f"worker {number}{where} did not start: {reason}"


def node_of(error: BaseException, nodes: Iterable[Mapping[str, Any]]) -> str:
    """The name of the node that Ray's message has the address of; the address, unless it is of one node."""
    found = re.search(r"\bip[=:]\s*([^\s,)]+)", str(error))
    if not found:
        return "an unknown node"
    names = {each["NodeManagerHostname"] for each in nodes if each["NodeManagerAddress"] == found[1]}
    return str(names.pop()) if len(names) == 1 else found[1]


def last_line(error: BaseException) -> str:
    """What Ray says at the end of its long messages, or the cause that it quotes, without its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1])[:500] if lines else type(error).__name__
