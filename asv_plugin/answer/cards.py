"""The cells of a record as the Precision page's script takes them: numbers in one unit for each metric."""

from collections.abc import Iterable
from typing import Any

from asv_plugin.answer.numbers import WIDE_SPREAD, improvement, number_in, ratio, unit_of
from asv_plugin.answer.records import ENERGY, THROUGHPUT, Record
from asv_plugin.answer.steps import Step
from asv_plugin.answer.summary import Table

BESIDE_FP32 = ("tokens/s", "peak memory", ENERGY)
"""Metrics that are shown with their improvement over FP32; sequences/s and runtime have that of tokens/s."""


def card(record: Record, table: Table, worse: Iterable[Step]) -> dict[str, Any]:
    """One model and workload.

    `rows`: see `row`. `gain`: how many times FP32's speed the advised precision has. `worse`, where there is any:
    metric, precision, times the value of the commit before, and that commit; the largest change first.
    """
    precisions = [column.precision for column in table.columns]
    # the sentence that names a precision; what it rests on and what is left out follow it
    advice, _, more = table.advice.partition(". ")
    found = {
        "model": table.model,
        "workload": table.workload,
        "size": table.size,
        "precisions": precisions,
        "best": table.best,
        "gain": table.gain,
        "recommended": table.is_recommendation,
        "advice": advice.removesuffix(".") + ".",
        "more": more,
        "rows": [row(record, metric, table.model, precisions, table.workload) for metric in table.metrics],
    }
    listed = [
        [each.metric, each.precision, f"{each.times:.2f}", each.since[:8]]
        for each in sorted(worse, key=lambda each: -abs(each.times - 1))
    ]
    return found | ({"worse": listed} if listed else {})


def row(record: Record, metric: str, model: str, precisions: list[str], workload: str) -> list[Any]:
    """A metric: its name, unit, numbers, spreads in per cent and, where they are shown, improvements over FP32."""
    values = [record.value(metric, model, precision, workload) for precision in precisions]
    fp32 = record.value(metric, model, "fp32", workload)
    unit, size = unit_of(metric, max((value.median for value in values if value), default=0))
    numbers: list[str] = []
    spreads: list[int | None] = []
    for precision, value in zip(precisions, values, strict=True):
        if value is None:
            numbers.append("n/a" if metric in THROUGHPUT else "")
            spreads.append(None)
            continue
        share = ratio(value.spread, value.median) if value.spread is not None else None
        note = record.note(model, precision, workload, about=THROUGHPUT.values())
        unsteady = metric == "tokens/s" and note.get("settled") is False
        wide = share is not None and share > WIDE_SPREAD
        numbers.append(f"{number_in(metric, value.median, size)}{'!' if wide else ''}{'~' if unsteady else ''}")
        spreads.append(None if share is None else round(100 * share))
    shown: list[Any] = [metric, unit, numbers, spreads if any(each is not None for each in spreads) else []]
    if metric in BESIDE_FP32 and fp32:
        gains = [improvement(metric, fp32, value) for value in values]
        shown.append(
            ["" if p == "fp32" or gain == "n/a" else gain for p, gain in zip(precisions, gains, strict=True)]
        )
    return shown
