"""How the speed depends on the proteins' length and on how many there are."""

import random
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

from .measure.timing import TIMERS, Protocol, measure
from .pipeline import MODEL_ON_GPUS, ON_GPUS, PRECISIONS, File
from .suite.cell import OncePerCell, Store, six_digits, tracked
from .suite.hardware import MODELS
from .suite.outcomes import Measurement
from .suite.program import Embedder, load, notes
from .suite.workloads import AMINO_ACIDS, LENGTHS, Protein, tokens_in

PROTOCOL = Protocol(window=1, warm_up_seconds=0.0, blocks=3, block_seconds=0.1, least_blocks=1, enough_seconds=3.0)
"""Short: a curve has many points."""

LONGEST_ON_CPU, MOST_ON_CPU = 1024, 10
TOKENS = 512
"""About how many a set of one length has at least; on a GPU copies of it are joined."""


class Scaling(OncePerCell):
    """Base: a cell whose proteins follow from its last parameter, a number."""

    param_names: tuple[str, ...]
    limit_on_cpu: int

    def setup(self, store: Store, model: str, precision: str, number: int) -> None:
        """Make the proteins and load what embeds them, unless it was measured."""
        store.require_chosen(model, precision, models_on_gpus=[MODEL_ON_GPUS], precisions_on_gpus=ON_GPUS)
        if store.hardware.device == "cpu" and number > self.limit_on_cpu:
            most = f"{self.limit_on_cpu:,} {self.param_names[-1]}"
            raise NotImplementedError(f"more than {most} take too long on a CPU")
        super().setup(store, model, precision, number)

    def proteins(self, workload: str, device: str) -> list[Protein]:
        """Seeded ones; `workload` is the cell's number."""
        return seeded_proteins(self.lengths(int(workload)))

    def lengths(self, number: int) -> list[int]:
        """Residues of each protein of a cell."""
        raise AssertionError("a benchmark says on what it is measured")


class SequenceLength(Scaling):
    """The engine on proteins of one length, from token batches on the CPU to pooled embeddings on the CPU."""

    params = (MODELS, PRECISIONS, [64, 128, 256, 512, 1024, 2048, 4096])
    param_names = ("model", "precision", "residues")
    limit_on_cpu = LONGEST_ON_CPU

    def lengths(self, number: int) -> list[int]:
        """As many of that length as have some hundred tokens, at least one."""
        return [number] * max(1, TOKENS // number)

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """ESM-2 and the token batches."""
        self.embedder = Embedder(model, precision, self.entries, store.hardware)

    @tracked("tokens/s", higher_is_better=True, compare_factor=1.05)
    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Residues, BOS and EOS embedded in a second."""
        return self.metric("tokens per second", store)

    def measure(self, store: Store) -> Measurement:
        """Time passes."""
        timing = measure(self.embedder.run, self.embedder.timer, PROTOCOL)
        speeds = six_digits(self.embedder.tokens / seconds for seconds in timing.samples)
        return Measurement({"tokens per second": speeds}, notes(store.hardware, self.entries))


class SequenceCount(Scaling):
    """``virnucpro embed`` on a FASTA file of so many proteins of 58 to 362 residues, the model loaded before."""

    params = (MODELS, PRECISIONS, [1, 10, 100, 1_000, 10_000])
    param_names = ("model", "precision", "sequences")
    needs = ("Fasta", "embed_file")
    limit_on_cpu = MOST_ON_CPU

    def lengths(self, number: int) -> list[int]:
        """Those of `mixed`, again and again; of a single one their median."""
        lengths = LENGTHS["mixed"]
        if number == 1:
            return [int(statistics.median(lengths))]
        return [lengths[index % len(lengths)] for index in range(number)]

    def load(self, store: Store, model: str, precision: str, workload: str) -> None:
        """ESM-2."""
        self.esm2 = load(model, precision, store.hardware.device)

    @tracked("tokens/s", higher_is_better=True, compare_factor=1.05)
    def track_tokens_per_second(self, store: Store, *parameters: str) -> dict[str, Any] | float:
        """Residues, BOS and EOS embedded in a second, opening and closing the files included."""
        return self.metric("tokens per second", store)

    def measure(self, store: Store) -> Measurement:
        """Time whole files."""
        with tempfile.TemporaryDirectory() as folder:
            file = File(folder, self.entries, self.esm2)
            timing = measure(file.run, TIMERS[store.hardware.device], PROTOCOL)
        speeds = six_digits(tokens_in(self.entries) / seconds for seconds in timing.samples)
        return Measurement({"tokens per second": speeds}, notes(store.hardware, self.entries))


def seeded_proteins(lengths: Sequence[int]) -> list[Protein]:
    """Seeded proteins of these lengths."""
    rng = random.Random("virnucpro scaling")
    return [(f"p{index}", "".join(rng.choices(AMINO_ACIDS, k=length))) for index, length in enumerate(lengths)]
