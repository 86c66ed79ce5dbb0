"""Which precision to use: the fastest that is faithful to FP32, and a sentence that says why."""

from asv_plugin.answer.numbers import format_cosine
from asv_plugin.answer.records import Record

FAITHFUL = 0.999
"""The smallest cosine to FP32 with which a precision is recommended."""

FASTER = 1.03
"""A precision is recommended over FP32 only if it is faster by more than measuring it again would show."""


def speedup(record: Record, model: str, precision: str, workload: str) -> float | None:
    """Tokens/s over FP32's: measured in one process where it was, else from two processes."""
    if precision == "fp32":
        return 1.0
    together = record.value("speed-up, same process", model, precision, workload)
    if together:
        return round(together.median, 3)
    this, fp32 = (record.value("tokens/s", model, p, workload) for p in (precision, "fp32"))
    return round(this.median / fp32.median, 3) if this and fp32 else None


def recommend(record: Record, model: str, workload: str, precisions: list[str]) -> tuple[str | None, str]:
    """The fastest precision that is faithful, and a sentence that says why. Those that failed are not shown."""
    others: dict[str, tuple[float, float]] = {}
    unfaithful, unknown = [], []
    for precision in precisions:
        if precision == "fp32":
            continue
        cosine = record.value("min cosine to FP32", model, precision, workload)
        speed = speedup(record, model, precision, workload)
        if cosine is None or speed is None:
            unknown.append(precision.upper())
        elif cosine.median < FAITHFUL:
            unfaithful.append(f"{precision.upper()} (smallest cosine {format_cosine(cosine.median)})")
        else:
            others[precision] = (speed, cosine.median)
    left_out = f" Not faithful enough: {', '.join(unfaithful)}; {FAITHFUL} is needed." if unfaithful else ""
    left_out += f" Not judged, for want of a fidelity or of FP32's speed: {', '.join(unknown)}." if unknown else ""
    if "fp32" not in precisions and not others:
        return None, f"No recommendation: FP32, which the others are judged against, has no result.{left_out}"
    best = max(others, key=lambda precision: others[precision][0], default=None)
    if best and others[best][0] > FASTER:
        speed, smallest = others[best]
        this, fp32 = (record.value("peak memory", model, p, workload) for p in (best, "fp32"))
        share = f", {this.median / fp32.median:.0%} of its peak memory" if this and fp32 else ""
        said = f"{speed:.2f} times FP32's speed{share}, smallest cosine {format_cosine(smallest)}"
        return best, f"Use {best.upper()}: {said}.{left_out}"
    said = " and ".join(f"{p.upper()} runs at {speed:.2f} times its speed" for p, (speed, _) in others.items())
    noise = ", and less than 3 % more is what measuring again can show" if best and others[best][0] > 1 else ""
    return "fp32", f"Use FP32: {said or 'nothing else has a usable result'} here{noise}.{left_out}"
