"""The workers of a run: a Ray actor for each GPU, replaced where one dies, and the blocks that they have."""

import contextlib
import dataclasses
import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from virnucpro.data.proteins import Skipped
from virnucpro.names import NOT_FINITE
from virnucpro.pipeline.cluster import RayError
from virnucpro.pipeline.embed import Progressed
from virnucpro.pipeline.provenance import CHANNELS_APART, version_of
from virnucpro.pipeline.resuming import Stopped
from virnucpro.pipeline.worker import CompactPack, Plan, Worker
from virnucpro.store.merge import HARDWARE, mixed
from virnucpro.store.segments import StoredPack
from virnucpro.store.settings import shown

BLOCKS_AHEAD = 3  # of a worker: one computed, one received, one being put on disk
LOSSES_IN_A_ROW = 5  # workers lost without a block being done in between, after which the fault is not theirs
POLL_SECONDS = 0.2
LONG_SECONDS = 30.0  # for a start, after which the user is told what is waited for
OF_ANOTHER_VERSION = ("ModuleNotFoundError", "ImportError", "AttributeError", "TypeError")
ALLOW_MIXED = "allow_mixed"  # a setting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A block to be embedded, and how much of the input was read up to it."""

    packs: list[CompactPack]
    fraction: float | None


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
        self._open(self.slots, stop)
        self._open(self._without_the_channels(), stop)
        found = [slot.about for slot in self.slots]
        self.shape = tuple(found[0]["shape"])
        self._settings = self._common(found)
        return self._settings

    def _open(self, slots: Sequence[Slot], stop: Callable[[], bool]) -> None:
        for slot in slots:
            self._launch(slot)
        for slot, about in self._started(slots, stop, "other programs may have the Ray cluster's GPUs or cores"):
            slot.about = about

    def _without_the_channels(self) -> list[Slot]:
        """The workers whose model keeps other channels apart than the first one's, which is the plan from now on.

        They are ended: one that starts again, now or when another is lost, does not choose.
        """
        agreed = self.slots[0].about["settings"].get(CHANNELS_APART)
        if agreed is not None:
            self._plan = dataclasses.replace(self._plan, channels_apart=json.loads(agreed))
        others = [slot for slot in self.slots if slot.about["settings"].get(CHANNELS_APART) != agreed]
        for slot in others:
            self._ray.kill(slot.actor)
        return others

    def start(self, settings: Mapping[str, Any], stop: Callable[[], bool]) -> None:
        """Have the workers take the settings; Stopped where `stop` says so meanwhile."""
        self._settings = dict(settings)
        for slot in self.slots:
            slot.starting = slot.actor.start.remote(self._settings)
        for slot, _ in self._started(self.slots, stop, "they load and warm up"):
            slot.starting = None
        for slot in self.slots:
            slot.began = time.perf_counter()

    def _started(self, slots: Sequence[Slot], stop: Callable[[], bool], reason: str) -> Iterator[tuple[Slot, Any]]:
        """Each worker with what its start returned, as they come; `reason`: told where that takes long."""
        waiting = {slot.starting: slot for slot in slots}
        told_at = time.monotonic() + LONG_SECONDS
        while waiting:
            if stop():
                raise Stopped
            if time.monotonic() >= told_at:
                told_at = math.inf
                logger.warning("still waiting for %d of %d workers to start: %s", len(waiting), len(slots), reason)
            for ref in self._ready(waiting):
                slot = waiting.pop(ref)
                yield slot, self._result(ref, slot)

    def run(
        self,
        tasks: Iterator[Task],
        done: Progressed,
        stop: Callable[[], bool],
        progress: Callable[[Progressed], None],
        on_skip: Callable[[Skipped], None],
        on_disk: Callable[[list[StoredPack]], None],
    ) -> None:
        """Have all blocks embedded; when `stop` is true, those in flight."""
        again: deque[Task] = deque()
        ended = False
        while True:
            while again or not ended:
                slot = self._free()
                if slot is None or stop():
                    break
                task = again.popleft() if again else next(tasks, None)
                if task is None:
                    ended = True
                    break
                slot.in_flight[slot.actor.embed.remote(task.packs)] = task
            busy = any(slot.in_flight for slot in self.slots)
            if not busy and (stop() or (ended and not again)):
                return
            refs = {
                ref: slot for slot in self.slots for ref in (*slot.in_flight, slot.starting) if ref is not None
            }
            for ref in self._ready(refs):
                again.extend(self._taken(refs[ref], ref, done, progress, on_skip, on_disk))

    def _taken(
        self,
        slot: Slot,
        ref: Any,
        done: Progressed,
        progress: Callable[[Progressed], None],
        on_skip: Callable[[Skipped], None],
        on_disk: Callable[[list[StoredPack]], None],
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
            if not slot.about:  # it is in another's place
                slot.about = value
                self._common([{"settings": self._settings, "host": "the run"}, value])
                slot.starting = slot.actor.start.remote(self._settings)
            else:
                slot.starting, slot.began = None, time.perf_counter() - slot.seconds
            return []
        task = slot.in_flight.pop(ref)
        self._losses_in_a_row = 0
        slot.tokens += value.residues + 2 * value.sequences
        slot.seconds = time.perf_counter() - slot.began
        on_disk(value.packs)
        done.count(value.sequences, value.residues, value.not_finite, task.fraction)
        for name in value.not_finite:
            on_skip(Skipped(name, NOT_FINITE))
        done.speeds = [each.tokens_per_second for each in self.slots]
        progress(done)
        return []

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
                    was, is_ = shown(then, now)
                    raise RayError(
                        f"workers differ: {name} is {was} on {first['host']} and {is_} on {each['host']}: {remedy}"
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
