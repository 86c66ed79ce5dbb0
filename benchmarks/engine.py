"""How good the engine is, as ratios within one process: they do not depend on the machine's mood."""

import importlib.metadata
import time
from typing import Any

import torch

from .measure.gemms import COMPARABLE, LayerGEMMs
from .measure.timing import alternate, in_fresh_process
from .peers import fair_esm, transformers
from .peers.base import Encode, PaddedPeer
from .suite.cell import OncePerCell, Store, six_digits, tracked
from .suite.hardware import MODELS, PRECISIONS
from .suite.outcomes import Measurement
from .suite.places import find
from .suite.program import Embedder, load, notes, state
from .suite.workloads import Protein, copies_in_a_pass, joined, proteins, tokens_in

LARGE = MODELS[1:]
"""8M is left out to save time: it is what CPUs run."""

TOKENS = {"cpu": None, "cuda": 49_152}
"""Of a pass beside a peer: in passes of few batches the GPU would wait for a peer's host between them. On an H100
3B was 3.6 times as fast as fair-esm in passes of 8,192 tokens, and 2.6 times in passes of 107,009."""


class EngineCell(OncePerCell):
    """A cell that holds two models of one precision."""

    params = (MODELS, COMPARABLE, ["mixed"])
    param_names = ("model", "precision", "workload")
    on_gpus: tuple[str, ...]
    on_cpus: tuple[str, ...] = ("fp32",)

    def loaded_together(self, precision: str) -> tuple[str, ...]:
        """Twice the model: the engine's, and what it is measured beside."""
        return (precision, precision)

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Skip what takes minutes and tells little."""
        store.require_chosen(
            model,
            precision,
            models_on_gpus=LARGE,
            precisions_on_gpus=self.on_gpus,
            precisions_on_cpus=self.on_cpus,
        )
        super().setup(store, model, precision, workload)


class Engine(EngineCell):
    """The engine beside its own GEMMs, one long protein among short ones, and what comes before the first result.

    The engine's time is that of whole passes, from token batches on the CPU to pooled embeddings on the CPU.
    """

    params = (MODELS, PRECISIONS, ["mixed"])
    on_gpus = ("fp32", "fp16", "int8", "fp8")
    on_cpus = ("fp32", "int8")

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Skip what takes a minute."""
        if precision in store.hardware.slow:
            raise NotImplementedError(f"this CPU has no units for {precision.upper()}: its GEMMs take a minute")
        super().setup(store, model, precision, workload)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Loading and the first pass in a fresh process; then the engine and the GEMMs."""
        device = store.hardware.device
        self.load_seconds, self.compile_seconds = in_fresh_process(
            lambda: (
                seconds_to_load(model, precision, device),
                seconds_to_compile(Embedder(model, precision, self.entries, store.hardware)),
            )
        )
        self.engine = Embedder(model, precision, self.entries, store.hardware)
        self.has_own_attention = device == "cuda" and precision != "fp32"
        if self.has_own_attention:
            self.even, self.ragged = (
                Embedder(model, precision, entries, store.hardware) for entries in even_and_ragged()
            )
        self.ceiling = LayerGEMMs(self.engine.esm2.shape, precision, device, self.engine.tokens)

    @tracked("of the GEMMs' speed", higher_is_better=True, compare_factor=1.05, version="2")
    def track_fraction_of_gemm_ceiling(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """The layers' GEMMs alone would take this share of the time; 1 cannot be passed."""
        return self.metric("fraction of ceiling", store)

    @tracked("of the speed without the long one", higher_is_better=True, compare_factor=1.03)
    def track_one_long_among_short(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Tokens/s of proteins of 50 residues with one of 1,022 among them, over those without it. GPUs only."""
        return self.metric("one long among short", store)

    @tracked("seconds", compare_difference=5.0)  # a machine that has the kernels in its cache saves up to four
    def track_compile_seconds(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """The first pass in a fresh process beyond a later one: kernels compiled or read from their cache."""
        return self.metric("compile seconds", store)

    @tracked("seconds", compare_factor=1.5, regression_factor_without_gpu=1.5)
    def track_load_seconds(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """load_esm2_model in a fresh process, with PyTorch imported; random weights are made, not read."""
        return self.metric("load seconds", store)

    def measure(self, store: Store) -> Measurement:
        """Time the engine and its GEMMs in turn."""
        samples = {
            "fraction of ceiling": six_digits(alternate(self.ceiling.run, self.engine.run, self.engine.timer)),
            "compile seconds": six_digits([self.compile_seconds]),
            "load seconds": six_digits([self.load_seconds]),
        }
        unavailable = {}
        if self.has_own_attention:
            tokens = self.ragged.tokens / self.even.tokens
            ratios = alternate(self.even.run, self.ragged.run, self.engine.timer)
            samples["one long among short"] = six_digits([ratio * tokens for ratio in ratios])
        else:
            unavailable["one long among short"] = "only the GPU's attention in 16 bits takes a whole pack at once"
        return Measurement(samples, notes(store.hardware, self.entries), unavailable)


class OverPeer(EngineCell):
    """The engine beside another implementation with the same weights, in the same precision."""

    package: str
    on_gpus = ("fp16",)  # a cell of 3B in FP32 takes a minute; `make engine` measures it

    def peer(self, *arguments: Any) -> Encode:
        """Build the other implementation."""
        raise AssertionError("a subclass says which")

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """The engine, and the peer with its weights."""
        device = store.hardware.device
        self.engine = Embedder(model, precision, self.entries, store.hardware, TOKENS[device])
        encode = self.peer(self.engine.esm2.shape, precision, device, state(self.engine.esm2))
        self.other = PaddedPeer(encode, self.engine.proteins, precision, device)

    def measure(self, store: Store) -> Measurement:
        """Check that both compute the same, and time them in turn."""
        difference: list[float] = []

        def check() -> None:
            difference.append(self.other.check(self.engine.embeddings()))

        self.other.choose_fastest(self.engine.timer)
        speedups = alternate(self.other.run, self.engine.run, self.engine.timer, warm=check)
        samples = {"speed-up": six_digits(speedups)}
        about = {
            "peer": f"{self.package} {importlib.metadata.version(self.package)}",
            "peers_batch_size": self.other.size,
            "largest_difference": difference[0],
        }
        return Measurement(samples, notes(store.hardware, self.entries) | about)


class OverFairEsm(OverPeer):
    """Beside fair-esm: its best padded batch size, proteins sorted by length."""

    package = "fair-esm"
    peer = staticmethod(fair_esm.fair_esm)

    @tracked("times fair-esm", higher_is_better=True, compare_factor=1.05)
    def track_speedup_over_fair_esm(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """How many times fair-esm's tokens/s."""
        return self.metric("speed-up", store)


class OverTransformers(OverPeer):
    """Beside Transformers' EsmModel with SDPA: its best padded batch size, proteins sorted by length."""

    package = "transformers"
    peer = staticmethod(transformers.transformers)

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Skip where Transformers is not installed."""
        reason = transformers.transformers_is_missing()
        if reason:
            raise NotImplementedError(reason)
        super().setup(store, model, precision, workload)

    @tracked("times Transformers", higher_is_better=True, compare_factor=1.05)
    def track_speedup_over_transformers(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """How many times the tokens/s of Transformers with SDPA."""
        return self.metric("speed-up", store)


def even_and_ragged(tokens: int = 49_152) -> tuple[list[Protein], list[Protein]]:
    """Proteins of 50 residues, about so many tokens in all; and with one of 1,022 in the place of some."""
    short, long = proteins("short", "cuda"), proteins("full", "cuda")
    even = joined(short, copies_in_a_pass(short, tokens))
    fewer = joined(short, copies_in_a_pass(short, tokens - tokens_in(long)))
    return even, fewer + long


def seconds_to_load(model: str, precision: str, device: str) -> float:
    """Seconds of one call of load_esm2_model."""
    find("load_esm2_model")  # imported, which is not timed
    start = time.perf_counter()
    load(model, precision, device)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds_to_compile(embedder: Embedder) -> float:
    """Seconds of the first pass beyond those of the third; at least 0."""
    seconds = [embedder.timer(lambda: embedder.run(1)) for _ in range(3)]
    return max(0.0, seconds[0] - seconds[2])
