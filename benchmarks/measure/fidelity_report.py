"""Print how far each precision moves embeddings, on this machine and with these weights; nothing is timed.

    make fidelity [MODEL=NAME] [WEIGHTS=pretrained|random|PATH] [FASTA=FILE]

Each precision is compared with FP32 on the suite's seeded proteins and on a sample of FILE's; with fair-esm's own
weights also with embeddings that others have published. One model is held at a time, and where memory does not
hold it in FP32, one layer.
"""

import argparse
import gc
import itertools
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..suite.hardware import GIB, PRECISIONS, Hardware, precision_skip_reason, probe
from ..suite.places import find
from ..suite.program import PACK_TOKENS, load_with, packed, runner
from ..suite.workloads import Protein, fidelity_proteins, read_fasta, sample_different
from .fidelity import FIGURE, LARGEST_ERROR, LEAST_PROTEINS, Embedded, fidelity, of_residues, of_results
from .golden import FOLDER, Golden, difference, golden
from .in_turn import show

MODELS = {"cpu": ["esm2_t6_8M_UR50D"], "cuda": ["esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D"]}
"""What is compared by default, by type of device."""

SEEDED, PUBLISHED = "seeded", "published"
"""Sets of proteins; the user's own is called by its file's name."""

FP16_UNITS = {"avx512_fp16", "fphp"}
"""What /proc/cpuinfo calls them on x86-64 and on Arm."""


@dataclass(frozen=True)
class Line:
    """A precision on a set of proteins.

    `found`: figures by name. `passed`: whether it is within the limit; None where it was not judged. `why` not, or
    where what it was compared with comes from. `channels`: of INT8, how far the largest input channel of each kind
    of GEMM stands out, and how many channels are apart in how many layers.
    """

    model: str
    precision: str
    proteins: str
    found: dict[str, Any]
    passed: bool | None
    why: str = ""
    channels: dict[str, Any] | None = None


def main(words: Sequence[str] | None = None) -> int:
    """Print the report; returns 1 with --strict where a precision is over the limit, 2 for what cannot be read."""
    chosen = arguments().parse_args(words)
    hardware = probe()
    try:
        sets = {SEEDED: fidelity_proteins("mixed")}
        if chosen.fasta:
            sets[chosen.fasta.name] = users_proteins(chosen.fasta)
        lines = []
        for model in chosen.model or MODELS[hardware.device]:
            lines += report(model, chosen.weights, chosen.precisions, sets, hardware)
    except (ValueError, RuntimeError) as error:  # a checkpoint, a model's name or a FASTA file that cannot be used
        print(f"make fidelity: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps([vars(line) for line in lines], indent=1))
    else:
        print(table(lines, chosen.weights, hardware))
    return 1 if chosen.strict and any(line.passed is False for line in lines) else 0


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser("make fidelity", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--model",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="default: 8M on a CPU, 650M and 3B on a GPU",
    )
    parser.add_argument("--weights", default="pretrained", help="pretrained (default), random, or a path")
    parser.add_argument("--fasta", type=Path, help="your own proteins, plain or compressed")
    parser.add_argument(
        "--precisions",
        action="extend",
        nargs="+",
        choices=PRECISIONS,
        help="default: all that this machine computes, on a CPU without FP16 units all but FP16",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a precision is over the limit")
    return parser


def users_proteins(path: Path) -> list[Protein]:
    """A sample of a file's proteins; ValueError for one that has too few, or cannot be read."""
    try:
        drawn = sample_different(read_fasta(path))
    except ValueError as error:
        raise ValueError(str(error).partition(": ")[2]) from error  # without the name of benchmarks' variable
    if len(drawn) < LEAST_PROTEINS:
        raise ValueError(
            f"{path} has {len(drawn)} different proteins: at least {LEAST_PROTEINS} are needed to tell how far "
            "apart they lie"
        )
    return drawn


def report(
    model: str,
    weights: str,
    asked: Sequence[str] | None,
    sets: dict[str, list[Protein]],
    hardware: Hardware,
    folder: Path = FOLDER,
) -> list[Line]:
    """A model's precisions on each set. `asked`: those to compare; `folder`: of published embeddings."""
    shapes = find("SHAPES")
    if model not in shapes:
        raise ValueError(f"unknown model {model!r}; ESM-2 comes as {', '.join(shapes)}")
    published = golden(model, folder) if weights == "pretrained" else None
    sets = sets | ({PUBLISHED: published.proteins} if published else {})
    reference = embedded(model, "fp32", weights, sets, hardware)
    lines = [judged(model, published, reference)] if published else []
    for precision in asked or [name for name in PRECISIONS if name != "fp32"]:
        reason = skip_reason(model, precision, hardware, asked is not None)
        if reason:
            lines.append(Line(model, precision, "", {}, None, reason))
            continue
        if precision == "fp32":
            continue
        found = embedded(model, precision, weights, sets, hardware)
        for name in sets:
            if name == PUBLISHED:
                assert published is not None
                lines.append(judged(model, published, found, precision))
            else:
                lines.append(compared(model, precision, name, reference[name], found[name]))
    return with_channels(lines, model, weights, hardware)


def with_channels(lines: list[Line], model: str, weights: str, hardware: Hardware) -> list[Line]:
    """The lines of a model, those of INT8 with what stands out of it."""
    if not any(of_int8(line) for line in lines):
        return lines
    found = find("measure")(model, weights, hardware.device)
    channels = {gemm: standing._asdict() for gemm, standing in found.items()}
    return [replace(line, channels=channels) if of_int8(line) else line for line in lines]


def of_int8(line: Line) -> bool:
    """Whether INT8 was compared here."""
    return line.precision == "int8" and line.passed is not None


def skip_reason(model: str, precision: str, hardware: Hardware, asked: bool) -> str | None:
    """Why a precision is left out; None where it is compared."""
    reason = precision_skip_reason(hardware, precision)
    if reason:
        return reason
    if precision == "fp16" and hardware.device == "cpu" and not asked and not has_fp16_units():
        return "this CPU has no FP16 units and takes ten times as long: PRECISIONS=fp16 asks for it"
    if precision != "fp32" and not fits(model, precision, hardware):
        return f"{hardware.memory / GIB:.1f} GiB are free, which do not hold it"
    return None


def fits(model: str, precision: str, hardware: Hardware) -> bool:
    """Whether memory holds a model in a precision, and a GiB for what is computed with it."""
    size = find("SHAPES")[model].parameters * find("PRECISIONS")[precision].bytes_per_weight
    return bool(1.05 * size + GIB < hardware.memory)


def has_fp16_units() -> bool:
    """Whether this CPU computes FP16 as it computes FP32."""
    try:
        return bool(FP16_UNITS & set(Path("/proc/cpuinfo").read_text().split()))
    except OSError:
        return platform.machine() == "arm64"


def embedded(
    model: str, precision: str, weights: str, sets: dict[str, list[Protein]], hardware: Hardware
) -> dict[str, Embedded]:
    """Each set's embeddings, in its order, with a model that is gone afterwards."""
    show(f"  {model} in {precision}: loading, embedding {sum(map(len, sets.values()))} proteins")
    batches = {name: packed(proteins, PACK_TOKENS) for name, proteins in sets.items()}
    try:
        if precision == "fp32" and not fits(model, precision, hardware):
            return one_layer_at_a_time(model, weights, batches, hardware)
        esm2 = load_with(model, precision, hardware.device, weights)
        by_residue = runner(esm2, pool="residue")
        return {name: of_results(by_residue.run(some)) for name, some in batches.items()}
    finally:
        esm2 = by_residue = None
        gc.collect()
        if hardware.device == "cuda":
            torch.cuda.empty_cache()


def one_layer_at_a_time(
    model: str, weights: str, batches: dict[str, list[Any]], hardware: Hardware
) -> dict[str, Embedded]:
    """Each set's embeddings in FP32, with one layer in memory."""
    together = [batch for some in batches.values() for batch in some]
    found = iter(find("representations")(model, weights, hardware.device, together))
    return {
        name: of_residues(rows for batch in some for rows in without_ends(next(found), batch.cu_seqlens.tolist()))
        for name, some in batches.items()
    }


def without_ends(rows: Tensor, cu_seqlens: list[int]) -> list[Tensor]:
    """The residues' rows of each protein, out of those of all tokens."""
    return [rows[start + 1 : end - 1] for start, end in itertools.pairwise(cu_seqlens)]


def compared(model: str, precision: str, proteins: str, reference: Embedded, other: Embedded) -> Line:
    """A precision beside FP32."""
    measured = fidelity(reference, other)
    figures = {"error_over_distance": next(iter(measured.samples.get(FIGURE, [])), None)}
    passed = None if figures["error_over_distance"] is None else figures["error_over_distance"] <= LARGEST_ERROR
    why = measured.unavailable.get(FIGURE, "")
    return Line(model, precision, proteins, figures | measured.notes["fidelity"], passed, why)


def judged(model: str, published: Golden, found: dict[str, Embedded], precision: str = "fp32") -> Line:
    """A precision beside published embeddings."""
    away = difference(published, found[PUBLISHED].pooled, precision)
    of = "of_the_norm" if precision == "fp32" or len(published.proteins) == 1 else "error_over_distance"
    return Line(model, precision, PUBLISHED, {of: away.value, "limit": away.limit}, away.passed, published.source)


def table(lines: Iterable[Line], weights: str, hardware: Hardware) -> str:
    """For people to read."""
    from tabulate import tabulate

    rows, notes = [], []
    for line in lines:
        if line.passed is None:
            notes.append(f"not judged: {line.model} in {line.precision.upper()}: {line.why}")
            continue
        found = line.found
        cosine, residue, same = (
            found.get(name) for name in ("smallest_cosine", "smallest_residue_cosine", "same_nearest_neighbour")
        )
        rows.append(
            [
                line.model,
                line.precision.upper(),
                line.proteins,
                f"{found['error_over_distance']:.2%}" if "error_over_distance" in found else "",
                "" if cosine is None else f"{cosine:.6f}",
                "" if residue is None else f"{residue:.6f}",
                "" if same is None else f"{same:.0%}",
                "PASS" if line.passed else "FAIL",
            ]
        )
        if "of_the_norm" in found:
            differs = f"{line.model} in {line.precision.upper()} differs from {line.why}"
            notes.append(f"{differs} by {found['of_the_norm']:.1e} of the norm")
        if line.channels:
            notes.append(f"{line.model} in INT8: {standing_out(line.channels)}")
    headers = ["model", "precision", "proteins", "error over distance", "smallest cosine", "of a residue",
               "same nearest neighbour", ""]  # fmt: skip
    said = f"{hardware.name}; PyTorch {hardware.versions['torch']}; {weights} weights"
    limit = f"PASS: the error is at most {LARGEST_ERROR:.0%} of the median distance between proteins in FP32"
    return "\n".join([said, tabulate(rows, headers, disable_numparse=True), limit, *dict.fromkeys(notes)])


def standing_out(channels: dict[str, Any]) -> str:
    """How far channels stand out of each kind of GEMM, in words."""
    times = ", ".join(f"{of['times']:.1f} ({gemm})" for gemm, of in channels.items())
    apart = ", ".join(
        f"{of['channels']} in {of['layers']} layer{'s' * (of['layers'] != 1)} ({gemm})"
        for gemm, of in channels.items()
        if of["channels"]
    )
    return f"the largest channel stands out by {times} times; apart: {apart or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
