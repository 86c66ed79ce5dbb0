"""Several GPUs of one machine beside each of them alone: speed, and that the bytes are the same.

``python -m tests.scale.gpus --case esm2_t33_650M_UR50D fp16 100000000 8000000``: a FASTA file of 100 million
tokens, embedded by ``virnucpro embed --ray`` on all GPUs, and its first 8 million tokens by each card alone,
without Ray, the model loaded and warm, one card after the other. Random weights, mean pooling, HDF5. Prints one
JSON object for each case:

- tokens/s of each card alone, and of all to the last block on disk and to the file in its place, both from the
  first pack on; each of the latter also over the sum of the cards;
- seconds of the start before (Ray, imports, loading, warming up);
- whether the rows of a card alone have the same bytes, but for its last pack, which is cut shorter.

Exits with 1 where bytes differ.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks.scaling import seeded_proteins
from benchmarks.suite.workloads import LENGTHS
from benchmarks.workers import VISIBLE, cards_seen

PROTEINS = 2_000
WARM_UP = 200_000
PATIENCE = 600


def records(tokens: int) -> Iterator[str]:
    """FASTA records of seeded proteins, again and again, until they have so many tokens."""
    lengths = LENGTHS["mixed"]
    proteins = seeded_proteins([lengths[index % len(lengths)] for index in range(PROTEINS)])
    written = 0
    for number, (_, protein) in enumerate(itertools.cycle(proteins)):
        if written >= tokens:
            return
        yield f">p{number}\n{protein}\n"
        written += len(protein) + 2


def write_fasta(path: Path, tokens: int) -> Path:
    """A file of them."""
    with path.open("w") as file:
        file.writelines(records(tokens))
    return path


def one_card(card: str, model: str, precision: str, folder: Path, pipe: Connection) -> None:
    """A process that has one GPU: says when it is warm, then embeds a file when told to, and says what it did."""
    os.environ[VISIBLE] = card
    from virnucpro.data.fasta import Fasta
    from virnucpro.models.esm2_flash import load_esm2_model
    from virnucpro.pipeline.embed import embed_file

    esm2, _ = load_esm2_model(model, "cuda", precision=precision, weights="random")

    def embed(fasta: Path, output: Path) -> dict[str, Any]:
        with Fasta(fasta) as opened:
            return embed_file(opened, output, esm2, force=True)

    embed(write_fasta(folder / f"warm-{card}.fasta", WARM_UP), folder / f"warm-{card}.h5")
    pipe.send("warm")
    pipe.send(embed(*pipe.recv()))


def alone(cards: list[str], model: str, precision: str, folder: Path, fasta: Path) -> list[dict[str, Any]]:
    """What each card does while the others wait."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for card in cards:
        ours, theirs = context.Pipe()
        pipes.append(ours)
        processes.append(context.Process(target=one_card, args=(card, model, precision, folder, theirs)))
        processes[-1].start()
    for pipe in pipes:
        pipe.recv()
    found = []
    for card, pipe in zip(cards, pipes, strict=True):
        pipe.send((fasta, folder / f"alone-{card}.h5"))
        found.append(pipe.recv())
    for process in processes:
        process.join(PATIENCE)
    return found


def together(cards: list[str], model: str, precision: str, fasta: Path, output: Path) -> dict[str, Any]:
    """What the program does with all."""
    words = [str(fasta), "-o", str(output), "--model", model, "--precision", precision, "--weights", "random"]
    done = subprocess.run(
        [sys.executable, "-m", "virnucpro", "embed", *words, "--ray", "--workers", str(len(cards)), "--json"],
        stdout=subprocess.PIPE, env={**os.environ, VISIBLE: ",".join(cards)}, check=True,
    )  # fmt: skip
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def same_bytes(part: Path, whole: Path, budget: int) -> bool:
    """Whether a file has the rows that another one begins with, but for those of its last pack at least."""
    with h5py.File(part) as first, h5py.File(whole) as second:
        count = int(np.searchsorted(np.cumsum(first["lengths"][()] + 2), first["lengths"][()].sum() - budget))
        names = [file["ids"][:count].tolist() for file in (first, second)]
        rows = [file["embeddings"][:count].tobytes() for file in (first, second)]
        return count > 0 and names[0] == names[1] and rows[0] == rows[1]


def measure(model: str, precision: str, tokens: int, tokens_alone: int, folder: Path) -> dict[str, Any]:
    """One case."""
    cards = cards_seen()
    part, output = write_fasta(folder / "part.fasta", tokens_alone), folder / "all.h5"
    single = alone(cards, model, precision, folder, part)
    summary = together(cards, model, precision, write_fasta(folder / "all.fasta", tokens), output)
    embedded = summary["residues"] + 2 * summary["sequences"]
    to_the_file = embedded / summary["file_seconds"]
    sum_of_cards = sum(each["tokens_per_second"] for each in single)
    budgets = {each["settings"]["token_budget"] for each in (*single, summary)}
    equal = [same_bytes(folder / f"alone-{card}.h5", output, max(budgets)) for card in cards]
    return {
        "model": model,
        "precision": precision,
        "device": summary["settings"]["device"],
        "tokens": embedded,
        "tokens_in_a_pack": sorted(budgets),
        "tokens_per_second_of_each_card_alone": [each["tokens_per_second"] for each in single],
        "tokens_per_second": summary["tokens_per_second"],
        "over_the_sum_of_the_cards": round(summary["tokens_per_second"] / sum_of_cards, 4),
        "tokens_per_second_to_the_file": round(to_the_file, 1),
        "to_the_file_over_the_sum_of_the_cards": round(to_the_file / sum_of_cards, 4),
        "seconds_from_the_last_block_to_the_file": round(
            summary["file_seconds"] - summary["embedding_seconds"], 3
        ),
        "seconds_of_the_start": summary["startup_seconds"],
        "seconds_of_loading_in_each_worker": [each["loading_seconds"] for each in summary["workers"]],
        "bytes_of_embeddings": output.stat().st_size,
        "same_bytes_as_each_card_alone": equal,
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--case", nargs=4, action="append", metavar=("MODEL", "PRECISION", "TOKENS", "TOKENS_ALONE"), required=True
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped: no NVIDIA GPU was found")
        return 0
    found = []
    for model, precision, tokens, tokens_alone in arguments.case:
        with tempfile.TemporaryDirectory(prefix="virnucpro-gpus-", dir=arguments.folder) as folder:
            found.append(measure(model, precision, int(tokens), int(tokens_alone), Path(folder)))
        print(json.dumps(found[-1], indent=2), flush=True)
    return 0 if all(all(each["same_bytes_as_each_card_alone"]) for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
