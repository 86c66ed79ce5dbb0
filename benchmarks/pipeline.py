"""The whole program: from a FASTA file to an HDF5 file, and what of the engine's own speed is left of it."""

import functools
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from .measure.memory import PeakMemory
from .measure.timing import TIMERS, Protocol, alternate
from .suite.cell import Store, _SpeedAndMemory, six_digits, speeds, tracked
from .suite.hardware import MODELS, pass_tokens
from .suite.outcomes import Measurement
from .suite.places import find
from .suite.program import load, notes, packed, runner
from .suite.workloads import Protein, copies_in_a_pass, tokens_in

PROTOCOL = Protocol(blocks=3)  # a block is a whole file
ENGINE_SECONDS = {"cpu": 0.5, "cuda": 3.0}
"""The file has as many copies of the workload as the engine embeds in that time."""
PRECISIONS = ["fp32", "fp16", "int8", "fp8"]
MODEL_ON_GPUS, ON_GPUS = "esm2_t33_650M_UR50D", ["fp16", "int8"]
"""The model there, as a larger one leaves reading and writing more time, and its precisions: each takes 20 s."""


class File:
    """Proteins as a FASTA file that is embedded into an HDF5 file beside it, and as packs for the engine alone."""

    def __init__(self, folder: str, entries: list[Protein], esm2: Any):
        self.fasta, self.output, self.esm2 = Path(folder, "in.fasta"), Path(folder, "out.h5"), esm2
        self.fasta.write_text("".join(f">{name}\n{protein}\n" for name, protein in entries))
        self.open, self.embed_file = find("Fasta"), find("embed_file")
        self.packs = packed(entries, find("token_budget")(esm2))
        self.runner = runner(esm2)
        self.seconds: list[float] = []

    def run(self, passes: int) -> None:
        """Embed the file that many times, each from opening it to the HDF5 file in its place."""
        for _ in range(passes):
            start = time.perf_counter()
            with self.open(self.fasta) as fasta:
                self.embed_file(fasta, self.output, self.esm2, force=True)
            self.seconds.append(time.perf_counter() - start)

    def run_engine(self, passes: int) -> None:
        """Embed the packs that many times."""
        for _ in self.runner.run(itertools.chain.from_iterable(itertools.repeat(self.packs, passes))):
            pass


class Pipeline(_SpeedAndMemory):
    """``virnucpro embed`` beside its engine alone, which gets the same proteins as token batches.

    The model is loaded before. The samples are whole files, long enough for some seconds on a GPU.
    """

    params = (MODELS, PRECISIONS, ["mixed"])
    param_names = ("model", "precision", "workload")
    needs = ("Fasta", "embed_file")

    def setup(self, store: Store, model: str, precision: str, workload: str) -> None:
        """Skip what takes minutes."""
        store.require_chosen(model, precision, models_on_gpus=[MODEL_ON_GPUS], precisions_on_gpus=ON_GPUS)
        super().setup(store, model, precision, workload)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """ESM-2, warmed up with a short file, and as many copies as the engine embeds in `ENGINE_SECONDS`."""
        device = store.hardware.device
        self.esm2 = load(model, precision, device)
        copies = copies_in_a_pass(self.entries, pass_tokens(model, device))
        with tempfile.TemporaryDirectory() as folder:
            some = File(folder, numbered(self.entries, copies), self.esm2)
            some.run(1)
        some.run_engine(1)
        seconds = TIMERS[device](functools.partial(some.run_engine, 1))
        self.copies = copies * max(1, round(ENGINE_SECONDS[device] / seconds))

    @tracked("of the engine's speed", higher_is_better=True, compare_factor=1.05)
    def track_fraction_of_engine(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Tokens/s of the program over those of its engine alone; at 1 reading and writing cost nothing."""
        return self.metric("fraction of engine", store)

    def measure(self, store: Store) -> Measurement:
        """Time the engine and the program in turn, and read the memory's peak."""
        device = store.hardware.device
        proteins = numbered(self.entries, self.copies)
        with tempfile.TemporaryDirectory() as folder:
            file = File(folder, proteins, self.esm2)
            memory = PeakMemory(device)
            fractions = alternate(file.run_engine, file.run, TIMERS[device], PROTOCOL, warm=lambda: None)
            peak = memory.measurement()
        seconds = file.seconds[-len(fractions) :]
        samples = speeds(seconds, tokens_in(proteins), len(proteins), self.copies) | {
            "fraction of engine": six_digits(fractions),
        }
        about = {"copies_in_the_file": self.copies}
        return Measurement(samples, notes(store.hardware, self.entries) | about) | peak


def numbered(entries: list[Protein], copies: int) -> list[Protein]:
    """Copies of the proteins, each under a name of its own."""
    return [(f"{name}_{copy}", protein) for copy in range(copies) for name, protein in entries]
