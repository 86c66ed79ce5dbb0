"""Which precision to use: the fastest that is faithful to FP32, and a sentence that says why."""

from collections.abc import Iterable
from dataclasses import dataclass

from asv_plugin.answer.numbers import format_error, ratio
from asv_plugin.answer.records import AGAINST_FP32, FIDELITY, MASSIVE, Record

LARGEST_ERROR = 0.05
"""The most that a precision may move an embedding, as a share of the median distance between different proteins'.

INT8 with a scale for each token moves them by 1.8 % with trained weights, FP8 in all GEMMs by 8 % and weights that
are rounded to four bits by more: docs/reading-results.md says why 5.
"""

AS_FAST = 1.03
"""Precisions whose speeds differ by less are equally fast: measuring again would show as much."""

RANDOM = "random"
"""What a note calls weights that were not trained."""

OWN_WEIGHTS = "make fidelity"


@dataclass(frozen=True)
class Advice:
    """A precision to use, or None, a sentence that says why, and whether its fidelity is pretrained weights'."""

    precision: str | None
    sentence: str
    is_recommendation: bool


@dataclass(frozen=True)
class Candidate:
    """A precision with its speed over FP32's and its largest error over the distance between proteins.

    `massive`: that error of random weights with a massive channel, where it was measured.
    """

    precision: str
    speed: float
    error: float
    massive: float | None = None


def speedup(record: Record, model: str, precision: str, workload: str) -> float | None:
    """Tokens/s over FP32's: measured in one process where it was, else from two processes."""
    if precision == "fp32":
        return 1.0
    together = record.value("speed-up, same process", model, precision, workload)
    if together:
        return round(together.median, 3)
    this, fp32 = (record.value("tokens/s", model, p, workload) for p in (precision, "fp32"))
    over_fp32 = ratio(this.median, fp32.median) if this and fp32 else None
    return None if over_fp32 is None else round(over_fp32, 3)


def advise(record: Record, model: str, workload: str, precisions: Iterable[str]) -> Advice:
    """The fastest precision within `LARGEST_ERROR`; of those that are `AS_FAST`, the most faithful.

    Those that failed are not among `precisions`. With random weights the sentence names the fastest and says that
    fidelity was measured with such weights: it is a recommendation with pretrained ones only. What is over the
    limit with a massive channel is then left out, too.
    """
    faithful, others = [], []
    unfaithful, unmeasured, unknown = [], [], []
    weights = set()
    for precision in precisions:
        error = record.value(FIDELITY, model, precision, workload)
        speed = speedup(record, model, precision, workload)
        if precision == "fp32":
            faithful.append(Candidate(precision, 1.0, 0.0))
            continue
        if error is None or speed is None or speed <= 0:
            unknown.append(precision.upper())
            continue
        note = record.note(model, precision, workload, about=AGAINST_FP32.values())
        weights.add(note.get("weights", RANDOM))
        is_random = note.get("weights", RANDOM) == RANDOM
        massive = record.value(MASSIVE, model, precision, workload) if is_random else None
        if error.median > LARGEST_ERROR:
            unfaithful.append(f"{precision.upper()} ({format_error(error.median)})")
        elif massive and massive.median > LARGEST_ERROR:
            unmeasured.append(f"{precision.upper()} ({format_error(massive.median)})")
        else:
            others.append(Candidate(precision, speed, error.median, massive.median if massive else None))
    left_out = ""
    if unfaithful:
        most = format_error(LARGEST_ERROR)
        left_out += (
            f" Not faithful enough: {', '.join(unfaithful)} of the distance between proteins, at most {most}."
        )
    if unmeasured:
        left_out += (
            f" Over {format_error(LARGEST_ERROR)} {MASSIVE}: {', '.join(unmeasured)}; not recommended without a "
            f"measurement with your own weights: {OWN_WEIGHTS}."
        )
    if unknown:
        left_out += f" Not judged, for want of a fidelity or of FP32's speed: {', '.join(unknown)}."
    if not faithful and not others:
        return Advice(
            None, f"No advice: FP32, which the others are judged against, has no result.{left_out}", False
        )
    if not others and unknown and not (unfaithful or unmeasured):
        return Advice(None, f"No advice: no fidelity was measured beside FP32.{left_out}", False)
    trained = RANDOM not in weights
    best = most_faithful_of_the_fastest([*faithful, *others])
    said = sentence(record, model, workload, best, others, trained)
    return Advice(best.precision, said + left_out, trained)


def most_faithful_of_the_fastest(candidates: list[Candidate]) -> Candidate:
    """Of the candidates that are as fast as the fastest one, that with the smallest error."""
    fastest = max(each.speed for each in candidates)
    return min((each for each in candidates if each.speed * AS_FAST >= fastest), key=lambda each: each.error)


def sentence(
    record: Record, model: str, workload: str, best: Candidate, others: list[Candidate], trained: bool
) -> str:
    """What is used, or fastest, by how much, and what its fidelity was measured with."""
    begin = f"Use {best.precision.upper()}" if trained else f"Fastest: {best.precision.upper()}"
    if best.precision == "fp32":
        said = " and ".join(
            f"{each.precision.upper()} runs at {each.speed:.2f} times its speed" for each in others
        )
        result = f"{begin}: {said}." if said else f"{begin}: nothing else has a usable result."
    else:
        this, fp32 = (record.value("peak memory", model, p, workload) for p in (best.precision, "fp32"))
        memory = ratio(this.median, fp32.median) if this and fp32 else None
        share = "" if memory is None else f", with {memory:.0%} of its peak memory"
        result = (
            f"{begin}, {best.speed:.2f} times FP32{share}; it moves embeddings by at most "
            f"{format_error(best.error)} of the distance between proteins"
            f"{'' if best.massive is None else f', and by {format_error(best.massive)} {MASSIVE}'}."
        )
    near = [each for each in others if each.error > best.error and each.speed * AS_FAST >= best.speed]
    faster = [f"{each.precision.upper()} ({each.speed / best.speed:.2f} times)" for each in near]
    if faster:
        result += f" As fast within 3 %, and less faithful: {', '.join(faster)}."
    if not trained:
        result += f" Fidelity was measured with random weights; to measure it with ESM-2's own: {OWN_WEIGHTS}."
    return result
