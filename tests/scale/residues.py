"""How long embeddings of residues take to reach the file, beside mean pooling and the disk's own rate.

``python tests/scale/residues.py --folder FOLDER``: seeded random proteins of UniRef90-like lengths (median 280,
cut at 1,022), random weights. In each round mean pooling, then residues: seconds to the last block and to the
file. The longer of mean pooling's time to the file and of the residues' bytes at the disk's rate is the `floor`;
`ratio` is the residues' time to the file over it. The rate is that of ``dd`` with fsync in the same folder, of as
many bytes.

``--tokens-per-second N`` takes results from memory at that rate instead of a model, as a GPU would give them: then
what is left is the host's and the disk's work, which any machine can measure.

It imports virnucpro and nothing of the tests, so another checkout is measured by the same script:
``PYTHONPATH=CHECKOUT python tests/scale/residues.py ...``. The digest of the rows tells whether both wrote the
same.
"""

import argparse
import hashlib
import inspect
import json
import math
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import virnucpro
from virnucpro.data.fasta import Fasta
from virnucpro.data.packing import Pack
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline import embed as embed_module
from virnucpro.pipeline.async_inference import AsyncInferenceRunner, InferenceResult, residues_of
from virnucpro.pipeline.embed import embed_file
from virnucpro.pipeline.options import Options

MEDIAN, SPREAD, LONGEST = 280, 0.6, 1_022  # UniRef90's are about log-normal
DIMENSION, TOKEN_BUDGET = 1_280, 49_152  # of the stand-in: 650M's, and what a GPU gets
RATE_BYTES = 2**33  # at most, written to measure the disk's rate
BLOCK = 2**20


def write_fasta(path: Path, count: int) -> None:
    """So many seeded proteins."""
    rng = random.Random("virnucpro residues")
    with path.open("w") as file:
        for number in range(count):
            length = min(LONGEST, max(10, round(MEDIAN * math.exp(rng.gauss(0, SPREAD)))))
            file.write(f">p{number}\n{''.join(rng.choices('ACDEFGHIKLMNPQRSTVWY', k=length))}\n")


class FromMemory:
    """A runner that computes nothing: results as the real one's on a GPU, so many tokens a second."""

    device = torch.device("cpu")

    def __init__(self, options: Options, tokens_per_second: float):
        self._pool, self._speed = options.pool, tokens_per_second
        rows = np.random.default_rng(0).standard_normal((TOKEN_BUDGET, DIMENSION), dtype=np.float32)
        # Whether the device converts the rows, and leaves them where they were copied to
        self._converted = "dtype" in inspect.signature(AsyncInferenceRunner).parameters
        self._rows = torch.from_numpy(rows.astype(options.dtype if self._converted else np.float32))

    def run(self, packs: Iterable[Pack]) -> Iterator[InferenceResult]:
        """A result a pack."""
        free = time.perf_counter()
        for pack in packs:
            free = max(free, time.perf_counter() - 0.1) + len(pack.input_ids) / self._speed
            time.sleep(max(0.0, free - time.perf_counter()))
            residues = residues_of(pack)
            rows = self._rows[: sum(residues) if self._pool == "residue" else len(pack)]
            yield InferenceResult(pack.sequence_ids, rows if self._converted else rows.clone(), residues)


def take_from_memory(tokens_per_second: float) -> None:
    """Have `embed_file` take results from memory."""
    about = {"precision": "none", "token_budget": TOKEN_BUDGET, "threads": 0}
    changes = {
        "runner_for": lambda _, options: FromMemory(options, tokens_per_second),
        "shape_of_row": lambda *_: (DIMENSION,),
        "settings_of": lambda _, options, begun: {"pool": options.pool, "dtype": options.dtype, **about},
    }
    for name, change in changes.items():
        setattr(embed_module, name, change)


def embedded(proteins: Path, output: Path, model: Any, pool: str, dtype: str) -> dict[str, Any]:
    """A run; what it tells."""
    with Fasta(proteins) as fasta:
        return embed_file(fasta, output, model, Options(pool, dtype=dtype), about={"model": "random"})


def disk_rate(folder: Path, size: int) -> float:
    """Bytes a second that ``dd`` with fsync writes there."""
    path = folder / "dd"
    began = time.perf_counter()
    command = ["dd", "if=/dev/zero", f"of={path}", f"bs={BLOCK}", f"count={size // BLOCK}", "conv=fsync"]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    path.unlink()
    return size // BLOCK * BLOCK / seconds


def digest_of(output: Path) -> tuple[str, int]:
    """SHA-256 of the rows in their order, and how many bytes those are."""
    digest, size = hashlib.sha256(), 0
    with h5py.File(output) as file:
        rows = file["embeddings"]
        for at in range(0, len(rows), 4_096):
            values = rows[at : at + 4_096]
            digest.update(values)
            size += values.nbytes
    return digest.hexdigest(), size


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=10_000)
    parser.add_argument("--model", default="esm2_t33_650M_UR50D")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens-per-second", type=float, default=None)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    model = None
    if chosen.tokens_per_second is None:
        model, _ = load_esm2_model(chosen.model, chosen.device, precision=chosen.precision, weights="random")
    else:
        take_from_memory(chosen.tokens_per_second)
    with tempfile.TemporaryDirectory(prefix="virnucpro-residues-", dir=chosen.folder) as name:
        folder = Path(name)
        proteins, few, output = folder / "in.fasta", folder / "few.fasta", folder / "out.h5"
        write_fasta(proteins, chosen.proteins)
        write_fasta(few, min(400, chosen.proteins))
        for pool in ("mean", "residue"):  # kernels are loaded, and memory is allocated
            embedded(few, output, model, pool, chosen.dtype)
            output.unlink()
        rounds = []
        for _ in range(chosen.rounds):
            seconds = {}
            for pool in ("mean", "residue"):
                summary = embedded(proteins, output, model, pool, chosen.dtype)
                seconds[pool] = (summary["embedding_seconds"], summary["file_seconds"])
                if pool == "residue":
                    digest, size = digest_of(output)
                output.unlink()
            rate = disk_rate(folder, min(size, RATE_BYTES))
            floor = max(seconds["mean"][1], size / rate)
            rounds.append(
                {
                    "disk_gb_per_second": round(rate / 1e9, 3),
                    "disk_seconds": round(size / rate, 2),
                    "mean_to_last_block": seconds["mean"][0],
                    "mean_to_file": seconds["mean"][1],
                    "residues_to_last_block": seconds["residue"][0],
                    "residues_to_file": seconds["residue"][1],
                    "floor": round(floor, 2),
                    "ratio": round(seconds["residue"][1] / floor, 3),
                    "sha256": digest,
                }
            )
            print(json.dumps(rounds[-1]), flush=True)
    print(
        json.dumps(
            {
                "virnucpro": str(Path(virnucpro.__file__).parent),
                "gigabytes": round(size / 1e9, 3),
                "tokens": summary["residues"] + 2 * summary["sequences"],
                "median_residues_to_file": statistics.median(each["residues_to_file"] for each in rounds),
                "median_ratio": statistics.median(each["ratio"] for each in rounds),
                "same_bytes_each_round": len({each["sha256"] for each in rounds}) == 1,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
