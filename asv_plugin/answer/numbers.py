"""How numbers are written for people: units, spreads, and improvements over FP32."""

import math

from asv_plugin.answer.records import ENERGY, FIDELITY, MASSIVE, THROUGHPUT, Value

HIGHER_IS_BETTER = {"tokens/s", "sequences/s"}
RATIOS = {"speed-up, same process", "memory saving, alone"}
"""Metrics that are improvements over FP32 themselves."""

WIDE_SPREAD = 0.05
"""A spread above this share of the value is marked: it is wider than what counts as a change in speed."""


def ratio(value: float, other: float) -> float | None:
    """One number over another; None where that is none."""
    return value / other if other and math.isfinite(value / other) else None


def format_cosine(cosine: float) -> str:
    """A cosine to five digits, never rounded up: what is too small must not look large enough."""
    return f"{math.floor(cosine * 1e5) / 1e5:.5f}"


def format_error(error: float) -> str:
    """A share in per cent, never rounded down: what is too large must not look small enough."""
    return f"{math.ceil(round(error * 1e3, 6)) / 10:.1f} %" if math.isfinite(error) else "not finite"


def format_value(metric: str, value: Value | None, steady: bool = True) -> str:
    """A value with its unit and spread, which is marked where it is `WIDE_SPREAD`."""
    if value is None:
        return "n/a"
    share = ratio(value.spread, value.median) if value.spread is not None else None
    spread = f" ±{100 * share:.0f}%{'!' if share > WIDE_SPREAD else ''}" if share is not None else ""
    return f"{format_quantity(metric, value.median)}{spread}{'' if steady else ' ~'}"


def format_quantity(metric: str, value: float) -> str:
    """A number as people write it: three digits and a unit."""
    if metric in (FIDELITY, MASSIVE):
        return format_error(value)
    unit, size = unit_of(metric, value)
    space = "" if unit in ("", "x") else " "
    return f"{number_in(metric, value, size)}{space}{unit}"


def unit_of(metric: str, value: float) -> tuple[str, float]:
    """The unit in which a number is written, and its size; of several numbers, take the largest."""
    if metric in RATIOS:
        return "x", 1
    if metric in (FIDELITY, MASSIVE, "same nearest neighbour"):
        return "%", 0.01
    if metric == "peak memory":
        return ("GiB", 2.0**30) if value >= 2**30 else ("MiB", 2.0**20)
    if metric == "total runtime":
        return ("s", 1) if float(f"{value:.3g}") >= 1 else ("ms", 0.001)
    return ("J", 1) if metric == ENERGY else ("", 1)


def number_in(metric: str, value: float, size: float) -> str:
    """A number in a unit of this size, without it; no rounding makes a precision look more faithful."""
    if "cosine" in metric:
        return format_cosine(value)
    if metric in (FIDELITY, MASSIVE):
        return format_error(value).removesuffix(" %")
    if metric == "same nearest neighbour":
        return f"{math.floor(100 * value):.0f}"
    if metric in RATIOS:
        return f"{value:.2f}"
    if metric == "peak memory":
        return f"{value / size:.{2 if size == 2**30 else 0}f}"
    if metric == ENERGY:
        return f"{value:.3g}"
    value = float(f"{value:.3g}")
    if metric == "total runtime":
        return f"{value:,.4g}" if size == 1 and value >= 1 else f"{value / size:.3g}"
    for large, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= large:
            return f"{value / large:.{2 if value < 10 * large else 1 if value < 100 * large else 0}f}{suffix}"
    return f"{value:.3g}"


def improvement(metric: str, fp32: Value | None, other: Value | None) -> str:
    """How many times better than FP32; nothing for a metric that is no quantity of one precision."""
    if metric not in THROUGHPUT:
        return ""
    if fp32 is None or other is None:
        return "n/a"
    pair = (other.median, fp32.median) if metric in HIGHER_IS_BETTER else (fp32.median, other.median)
    better = ratio(*pair)
    return "n/a" if better is None else f"{better:.2f}x"
