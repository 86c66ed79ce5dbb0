"""Print the engine beside its own GEMMs and beside what users run today, all in one process.

    python -m benchmarks._engine_table [--models NAME ...] [--precisions NAME ...] [--profile] (--help for all)

All implementations have the same random weights and proteins (20 to 400 residues), and are timed in turn, round by
round. A peer whose embeddings are not the engine's ends the run; one that cannot run is named. Peak memory,
weights included, is measured in a process for each; on a CPU it is what the process grew by.
"""

import argparse
import functools
import multiprocessing
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import _esm_efficient, _peers
from ._esm2 import Embedder, load
from ._hardware import PRECISIONS, Hardware, probe
from ._memory import PeakMemory, unavailable
from ._protocol import TIMERS
from ._virnucpro import find
from ._workloads import AMINO_ACIDS, Protein, tokens_in

ENGINE = "virnucpro, tokens to embeddings on the CPU"
MODELS = {
    "cpu": ["esm2_t6_8M_UR50D", "esm2_t12_35M_UR50D"],
    "cuda": ["esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D"],
}
COMPARABLE = [name for name, precision in PRECISIONS.items() if precision.dtype]
"""Those in which peers compute, too."""

DEFAULT_PRECISIONS = {"cpu": ["fp32"], "cuda": COMPARABLE}
MIB = 1024**2


def proteins_for(device: str, precision: str) -> int:
    """As many as take seconds a pass."""
    if device == "cpu":
        return 32
    return 96 if precision == "fp32" else 512


Fresh = Callable[[Callable[..., str], tuple[Any, ...]], str]
"""Calls a function in a process that has done nothing else."""


def mixed(count: int) -> list[Protein]:
    """So many proteins of 20 to 400 residues, uniformly, in no order."""
    rng = random.Random("virnucpro engine")
    lengths = [rng.randint(20, 400) for _ in range(count)]
    return [(f"p{index}", "".join(rng.choices(AMINO_ACIDS, k=n))) for index, n in enumerate(lengths)]


@dataclass(frozen=True)
class Row:
    """One implementation: passes over the proteins, and how many tokens one pass counts as."""

    name: str
    run: Callable[[int], None]
    tokens: int


@dataclass(frozen=True)
class Case:
    """One model in one precision, on these proteins."""

    model: str
    precision: str
    entries: list[Protein]
    hardware: Hardware

    def engine(self) -> Embedder:
        """virnucpro, loaded."""
        return Embedder(self.model, self.precision, self.entries, self.hardware)

    def encoder(self, peer: str, state: _peers.State | None) -> Callable[..., torch.Tensor]:
        """A peer with these weights, or with random ones of its own."""
        shape = find("SHAPES")[self.model]
        return PEERS[peer].build(shape, self.precision, self.hardware.device, state)

    def peer(self, name: str, encode: Callable[..., torch.Tensor], sizes: Sequence[int] | None) -> _peers.Peer:
        """A peer with its batches; `sizes` are those to try."""
        how, device = PEERS[name], self.hardware.device
        if how.packed:
            return _esm_efficient.PackedPeer(encode, self.entries, self.precision, device, sizes)
        proteins = sorted(self.entries, key=lambda entry: len(entry[1])) if how.by_length else self.entries
        return _peers.PaddedPeer(encode, proteins, find("BatchConverter")(), self.precision, device, sizes)


@dataclass(frozen=True)
class PeerSetup:
    """How users run a peer: proteins sorted by length in the best batch size, as they come, or packed."""

    build: Callable[..., Callable[..., torch.Tensor]]
    by_length: bool = False
    packed: bool = False
    sizes: Sequence[int] | None = None
    missing: Callable[[], str | None] = lambda: None

    def skip_reason(self, case: Case) -> str | None:
        """Why it cannot run here; None where it can."""
        if self.packed and case.hardware.device == "cuda" and case.precision not in ("fp16", "bf16"):
            return "its attention on a GPU takes FP16 and BF16 only"
        return self.missing()


PEERS = {
    "fair-esm, as they come": PeerSetup(_peers.fair_esm, sizes=[8]),
    "fair-esm, sorted": PeerSetup(_peers.fair_esm, by_length=True),
    "Transformers SDPA, sorted": PeerSetup(
        _peers.transformers, by_length=True, missing=_peers.transformers_is_missing
    ),
    "esm-efficient on PyTorch's attention, packed": PeerSetup(
        _esm_efficient.esm_efficient, packed=True, missing=_esm_efficient.missing
    ),
}


def forward_alone(engine: Embedder) -> Callable[[int], None]:
    """The forward pass over packs that are on the device already; no pooling, nothing copied back."""
    packs = [
        (batch.input_ids.to(engine.device), batch.cu_seqlens.to(engine.device), batch.max_seqlen)
        for batch in engine.batches
    ]

    def run(passes: int) -> None:
        with torch.inference_mode():
            for _ in range(passes):
                for each in packs:
                    engine.esm2.forward_packed(*each)

    return run


def memory(case: Case, peer: str | None = None, size: int = 0) -> str:
    """What the engine, or a peer in batches of `size`, takes at its peak, weights included.

    Nothing where this system does not tell. To be called in a process that has done nothing else.
    """
    device = case.hardware.device
    if unavailable(device):
        return ""
    torch.ones(1, device=device)
    before = memory_in_use(device)
    run = case.peer(peer, case.encoder(peer, None), [size]).run if peer else case.engine().run
    peak = PeakMemory(device)
    run(1)
    return f"{(peak.read().amount - before) / MIB:,.0f} MiB"


def memory_in_use(device: str) -> int:
    """Bytes in use now, of the kind whose peak is measured."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return PeakMemory(device).read().amount


def in_turn(rows: list[Row], device: str, rounds: int) -> dict[str, list[float]]:
    """Tokens/s of each implementation in each round."""
    timer = TIMERS[device]
    speeds: dict[str, list[float]] = {row.name: [] for row in rows}
    for row in rows:
        row.run(1)
    for number in range(rounds):
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            show(f"  round {number + 1} of {rounds}: {row.name}")
            speeds[row.name].append(row.tokens / timer(functools.partial(row.run, 1)))
    show("")
    return speeds


def show(progress: str) -> None:
    """On a terminal, what is going on, instead of what was."""
    if sys.stderr.isatty():
        print(f"\r{progress:90}\r", end="", file=sys.stderr, flush=True)


def profile(run: Callable[[int], None], device: str) -> str:
    """What one pass consists of, longest first: kernels on a GPU, PyTorch's operators on a CPU."""
    from tabulate import tabulate

    activity = torch.profiler.ProfilerActivity
    run(1)
    with torch.profiler.profile(activities=[activity.CUDA if device == "cuda" else activity.CPU]) as profiler:
        run(1)
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    took = {each.key: (getattr(each, attribute) / 1000, each.count) for each in profiler.key_averages()}
    total = sum(milliseconds for milliseconds, _ in took.values())
    longest = sorted(took.items(), key=lambda each: -each[1][0])[:16]
    lines = [[key[:90], count, f"{ms:,.2f}", f"{100 * ms / total:.1f} %"] for key, (ms, count) in longest]
    return tabulate(
        [*lines, ["all", "", f"{total:,.2f}", ""]], ["", "calls", "ms", "share"], disable_numparse=True
    )


def table(case: Case, rounds: int, fresh: Fresh, profiled: bool = False) -> str:
    """The table of one case; `profiled`: and what the engine's time consists of."""
    from tabulate import tabulate  # not in asv's environments

    load.cache_clear()  # an earlier case's model takes memory

    engine = case.engine()
    filling = max(len(batch.input_ids) for batch in engine.batches)
    products = _peers.LayerGEMMs(engine.esm2.shape, case.precision, engine.device, filling)
    rows = [
        Row(ENGINE, engine.run, engine.tokens),
        Row("virnucpro, forward pass alone", forward_alone(engine), engine.tokens),
        Row("its GEMMs alone", products.run, filling),
    ]
    peaks = {ENGINE: fresh(memory, (case,))}
    left_out = []
    encoders: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {}
    for name, how in PEERS.items():
        reason = how.skip_reason(case)
        if reason:
            left_out.append(f"not measured: {name} ({reason})")
            continue
        show(f"  {name}: loading, its fastest batches, its results, its memory")
        if how.build not in encoders:
            encoders[how.build] = case.encoder(name, engine.weights())
        peer = case.peer(name, encoders[how.build], how.sizes)
        peer.choose_fastest(engine.timer)
        peer.check(engine.embeddings())
        kind = "packs" if how.packed else "batches"
        rows.append(Row(f"{name}, {kind} of {peer.size:,}", peer.run, engine.tokens))
        peaks[rows[-1].name] = fresh(memory, (case, name, peer.size))
    speeds = in_turn(rows, engine.device, rounds)
    lines = []
    for row in rows:
        ratios = [ours / theirs for ours, theirs in zip(speeds[ENGINE], speeds[row.name], strict=True)]
        peak = peaks.get(row.name, "")
        median, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append([row.name, f"{statistics.median(speeds[row.name]):,.0f}", f"{median:.2f}", spread, peak])
    headers = [f"{case.model}, {case.precision}", "tokens/s", "virnucpro is", "in rounds", "peak memory"]
    parts = [tabulate(lines, headers, disable_numparse=True), *left_out]
    return "\n".join([*parts, profile(rows[1].run, engine.device)] if profiled else parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="default: 8M and 35M on a CPU, 650M and 3B on a GPU")
    parser.add_argument("--precisions", nargs="+", choices=COMPARABLE, help="default: fp32 on a CPU, all on a GPU")
    parser.add_argument("--proteins", type=int, help="default: 32 on a CPU, 512 on a GPU, there 96 for FP32")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--profile", action="store_true", help="print what the engine's forward pass consists of")
    arguments = parser.parse_args()
    # A process for each call: what one left behind must not count as the next one's memory
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        hardware = pool.apply(probe)
        versions = ", ".join(f"{name} {version}" for name, version in hardware.versions.items())
        for model in arguments.models or MODELS[hardware.device]:
            for precision in arguments.precisions or DEFAULT_PRECISIONS[hardware.device]:
                entries = mixed(arguments.proteins or proteins_for(hardware.device, precision))
                size = f"{len(entries)} proteins, {tokens_in(entries):,} tokens"
                print(f"{hardware.name}; {versions}; random weights; {size}", flush=True)
                case = Case(model, precision, entries, hardware)
                print(table(case, arguments.rounds, pool.apply, arguments.profile), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
