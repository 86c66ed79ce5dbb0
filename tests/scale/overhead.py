"""What rate the driver, reader and writers of ``virnucpro embed --ray`` reach when the model costs nothing.

``python -m tests.scale.overhead --workers 8 --tokens 200000000 --folder FOLDER``: a FASTA file of so many tokens,
embedded by workers whose model is a test double of 1,000,000 tokens/s each, mean pooling, 1,280 values a protein.
Prints tokens/s with the workers ready, from the first block to the last one on disk, and to the file in its place,
and the CPU seconds of the driver.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from tests.scale.stand_in import StandIn
from virnucpro.data.fasta import Fasta
from virnucpro.pipeline.distributed import embed_with_ray
from virnucpro.pipeline.options import Options

LONGEST = 580


def write_fasta(path: Path, tokens: int) -> None:
    """2,000 seeded proteins of 58 to 580 residues, again and again."""
    rng = random.Random("virnucpro overhead")
    proteins = ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(58, LONGEST))) for _ in range(2_000)]
    lines = ["\n".join(each[at : at + 60] for at in range(0, len(each), 60)) for each in proteins]
    written = number = 0
    with path.open("w") as file:
        while written < tokens:
            file.write(f">p{number}\n{lines[number % len(lines)]}\n")
            written += len(proteins[number % len(lines)]) + 2
            number += 1


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=200_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="virnucpro-overhead-", dir=chosen.folder) as folder:
        path, output = Path(folder, "in.fasta"), Path(folder, "out.h5")
        write_fasta(path, chosen.tokens)
        with Fasta(path) as fasta:
            used = time.process_time()
            summary = embed_with_ray(
                fasta, output, "test double", Options(), workers=chosen.workers, device="cpu", engine=StandIn
            )
            used = time.process_time() - used
    tokens = summary["residues"] + 2 * summary["sequences"]
    print(
        json.dumps(
            {
                "workers": chosen.workers,
                "tokens": tokens,
                "startup_seconds": summary["startup_seconds"],
                "tokens_per_second_to_the_last_block": summary["tokens_per_second"],
                "tokens_per_second_to_the_file": round(tokens / summary["file_seconds"]),
                "tokens_per_second_of_each": [each["tokens_per_second"] for each in summary["workers"]],
                "driver_cpu_seconds": round(used, 1),
                "driver_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
