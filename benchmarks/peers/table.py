"""Print the engine beside its own GEMMs and beside what users run today, all in one process.

    python -m benchmarks.peers.table [--models NAME ...] [--precisions NAME ...] [--profile] (--help for all)
    python -m benchmarks.peers.table --formats     a model's precisions side by side instead; see `formats`

All implementations have the same random weights and proteins (20 to 400 residues), and are timed in turn, round by
round; OpenVINO and ONNX Runtime in a process each. A peer whose embeddings are not the engine's ends the run; one
that cannot run is named. Peak memory, weights included, is measured in a process for each; on a CPU it is what the
process grew by.
"""

import argparse
import multiprocessing
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..measure.gemms import COMPARABLE, LayerGEMMs
from ..measure.in_turn import Fresh, Row, in_turn, peak_memory, show
from ..measure.timing import Run
from ..suite.cell import listed
from ..suite.hardware import PRECISIONS, Hardware, precision_skip_reason, probe
from ..suite.places import find
from ..suite.program import Embedder, load, state
from ..suite.workloads import AMINO_ACIDS, Protein, tokens_in
from . import esm_cpp, esm_efficient, fair_esm, formats, onnx_runtime, open_vino, transformers
from .base import PaddedPeer, Peer, State
from .own_process import OwnProcess

ENGINE = "virnucpro, tokens to embeddings on the CPU"
MODELS = {
    "cpu": ["esm2_t6_8M_UR50D", "esm2_t12_35M_UR50D"],
    "cuda": ["esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D"],
}
USUAL = {"cpu": ["fp32", "bf16", "fp16"], "cuda": COMPARABLE}
"""In what peers compute, by type of device."""

DEFAULT_PRECISIONS = {"cpu": ["fp32", "int8"], "cuda": PRECISIONS}


def proteins_for(device: str, *precisions: str) -> int:
    """As many as take seconds a pass in the slowest of these."""
    if device == "cpu":
        return 32
    return 96 if "fp32" in precisions else 512


def mixed(count: int) -> list[Protein]:
    """So many proteins of 20 to 400 residues, uniformly, in no order."""
    rng = random.Random("virnucpro engine")
    lengths = [rng.randint(20, 400) for _ in range(count)]
    return [(f"p{index}", "".join(rng.choices(AMINO_ACIDS, k=n))) for index, n in enumerate(lengths)]


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

    def encoder(self, peer: str, state: State | None) -> Callable[..., torch.Tensor]:
        """A peer with these weights, or with random ones of its own."""
        shape = find("SHAPES")[self.model]
        return PEERS[peer].build(shape, self.precision, self.hardware.device, state)

    def peer(self, name: str, encode: Callable[..., torch.Tensor], sizes: Sequence[int] | None) -> Peer:
        """A peer with its batches; `sizes` are those to try."""
        how, device = PEERS[name], self.hardware.device
        if how.packed:
            return how.packed(encode, self.entries, self.precision, device, sizes)
        proteins = sorted(self.entries, key=lambda entry: len(entry[1])) if how.by_length else self.entries
        return how.padded(encode, proteins, self.precision, device, sizes)

    def peer_alone(self, name: str) -> Peer:
        """A peer with the engine's weights, in a process without the engine."""
        weights = state(load(self.model, self.precision, self.hardware.device))
        load.cache_clear()
        return self.peer(name, self.encoder(name, weights), PEERS[name].sizes)


@dataclass(frozen=True)
class PeerSetup:
    """How users run a peer: proteins sorted by length in the best batch size, as they come, or packed by `packed`.

    `precisions`: those in which it computes, by type of device. `lacks`: why this machine does not run it in a
    precision. `alone`: whether it has a process of its own; its memory, after a conversion, is not measured.
    """

    build: Callable[..., Callable[..., torch.Tensor]]
    by_length: bool = False
    packed: Callable[..., Peer] | None = None
    padded: Callable[..., Peer] = PaddedPeer
    sizes: Sequence[int] | None = None
    missing: Callable[[], str | None] = lambda: None
    lacks: Callable[[str], str | None] = lambda precision: None
    alone: bool = False
    precisions: Mapping[str, Sequence[str]] = field(default_factory=lambda: USUAL)

    def skip_reason(self, case: Case) -> str | None:
        """Why it cannot run here; None where it can."""
        device = case.hardware.device
        precisions = self.precisions[device]
        if not precisions:
            return f"it does not run on {'CPUs' if device == 'cpu' else 'GPUs'}"
        if case.precision not in precisions:
            computes = listed([each.upper() for each in precisions])
            return f"on {'CPUs' if device == 'cpu' else 'GPUs'} it computes in {computes} only"
        return self.missing() or self.lacks(case.precision)


PEERS = {
    "fair-esm, as they come": PeerSetup(fair_esm.fair_esm, sizes=[8]),
    "fair-esm, sorted": PeerSetup(fair_esm.fair_esm, by_length=True),
    "Transformers SDPA, sorted": PeerSetup(
        transformers.transformers, by_length=True, missing=transformers.transformers_is_missing
    ),
    "esm-efficient on PyTorch's attention, packed": PeerSetup(
        esm_efficient.esm_efficient,
        packed=esm_efficient.PackedPeer,
        missing=esm_efficient.missing,
        precisions=USUAL | {"cuda": ["bf16", "fp16"]},
    ),
    "esm-cpp, tokens to logits": PeerSetup(
        esm_cpp.esm_cpp,
        packed=esm_cpp.EsmCppPeer,
        missing=esm_cpp.missing,
        precisions={"cpu": esm_cpp.PRECISIONS, "cuda": []},
    ),
    **{
        name: PeerSetup(
            build,
            by_length=True,
            padded=open_vino.OpenVinoPeer,
            sizes=open_vino.SIZES,
            missing=open_vino.missing,
            lacks=open_vino.lacks,
            alone=True,
            precisions={"cpu": open_vino.PRECISIONS, "cuda": []},
        )
        for name, build in (
            ("OpenVINO, sorted", open_vino.one_by_one),
            ("OpenVINO in streams, sorted", open_vino.in_streams),
        )
    },
    "ONNX Runtime, sorted": PeerSetup(
        onnx_runtime.onnx_runtime,
        by_length=True,
        sizes=open_vino.SIZES,
        missing=onnx_runtime.missing,
        alone=True,
        precisions={"cpu": onnx_runtime.PRECISIONS, "cuda": []},
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

    def load_it() -> Run:
        return case.peer(peer, case.encoder(peer, None), [size]).run if peer else case.engine().run

    return peak_memory(load_it, case.hardware.device)


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


def table(
    case: Case, rounds: int, fresh: Fresh, profiled: bool = False, beginnings: tuple[str, ...] = ("",)
) -> str:
    """The table of one case, with the peers whose names have one of the `beginnings`.

    `profiled`: and what the engine's time consists of.
    """
    from tabulate import tabulate  # not in asv's environments

    load.cache_clear()  # an earlier case's model takes memory

    engine = case.engine()
    tokens = max(len(batch.input_ids) for batch in engine.batches)
    products = LayerGEMMs(engine.esm2.shape, case.precision, engine.device, tokens)
    rows = [
        Row(ENGINE, engine.run, engine.tokens),
        Row("virnucpro, forward pass alone", forward_alone(engine), engine.tokens),
        Row("its GEMMs alone", products.run, tokens),
    ]
    peaks = {ENGINE: fresh(memory, (case,))}
    left_out = []
    encoders: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {}
    for name, how in PEERS.items():
        if not name.startswith(beginnings):
            continue
        reason = how.skip_reason(case)
        if reason:
            left_out.append(f"not measured: {name} ({reason})")
            continue
        show(f"  {name}: loading, its fastest batches, its results, its memory")
        if how.alone:
            peer: Peer = OwnProcess(case.peer_alone, name)
        else:
            if how.build not in encoders:
                encoders[how.build] = case.encoder(name, state(engine.esm2))
            peer = case.peer(name, encoders[how.build], how.sizes)
        peer.choose_fastest(engine.timer)
        peer.check(engine.embeddings())
        rows.append(Row(f"{name}, {peer.unit} of {peer.size:,}", peer.run, engine.tokens))
        if not how.alone:
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
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, help="default: FP32 and INT8 on a CPU, all on a GPU"
    )
    parser.add_argument("--proteins", type=int, help="default: 32 on a CPU, 512 on a GPU, there 96 for FP32")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--peers", nargs="*", default=[""], help="how the peers' names begin; default: all")
    parser.add_argument("--profile", action="store_true", help="print what the engine's forward pass consists of")
    parser.add_argument("--formats", action="store_true", help="one table a model: its precisions side by side")
    arguments = parser.parse_args()
    # A process for each call: what one left behind must not count as the next one's memory
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        hardware = pool.apply(probe)
        models = arguments.models or MODELS[hardware.device]
        if arguments.formats:
            precisions = arguments.precisions or formats.DEFAULT[hardware.device]
            entries = mixed(arguments.proteins or proteins_for(hardware.device, *precisions))
            for model in models:
                print(heading(hardware, entries), flush=True)
                found = formats.table(model, precisions, entries, hardware, arguments.rounds, pool.apply)
                print(found, end="\n\n", flush=True)
            return
        for model in models:
            for precision in arguments.precisions or DEFAULT_PRECISIONS[hardware.device]:
                entries = mixed(arguments.proteins or proteins_for(hardware.device, precision))
                print(heading(hardware, entries), flush=True)
                reason = precision_skip_reason(hardware, precision)
                if reason:
                    print(f"{model} is not measured: {reason}", end="\n\n", flush=True)
                    continue
                case = Case(model, precision, entries, hardware)
                found = table(case, arguments.rounds, pool.apply, arguments.profile, tuple(arguments.peers))
                print(found, end="\n\n", flush=True)


def heading(hardware: Hardware, entries: Sequence[Protein]) -> str:
    """On what a table was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in hardware.versions.items())
    size = f"{len(entries)} proteins, {tokens_in(entries):,} tokens"
    return f"{hardware.name}; {versions}; random weights; {size}"


if __name__ == "__main__":
    main()
