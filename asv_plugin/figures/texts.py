"""What each block says, as Markdown."""

import datetime
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from asv_plugin import notes
from asv_plugin.answer import summary
from asv_plugin.answer.numbers import HIGHER_IS_BETTER, format_error, format_quantity, ratio
from asv_plugin.answer.records import BENCHMARKS, ENERGY, FIDELITY, MASSIVE, THROUGHPUT, Record
from asv_plugin.figures import CannotWrite
from asv_plugin.figures.chosen import (
    ENGINE,
    FRAGMENTS,
    HISTORY,
    M3B,
    MORE_OF_A_GPU,
    OF_A_CPU,
    OF_A_GPU,
    OVER_FAIR_ESM,
    OVER_GEMMS,
    OVER_PEERS,
    WORKLOAD,
    Rows,
    choose,
    is_itself,
)
from asv_plugin.untrusted import each_text, for_markdown

NAMES = {
    "total runtime": "runtime",
    ENERGY: "J per 1,000 tokens",
    "speed-up, same process": "speedup, interleaved",
    MASSIVE: "with a massive channel",
}
"""What a row is called, where not as its metric."""

ABOUT_FRAGMENTS = f"`{FRAGMENTS}`: six-frame proteins of 500 bases, as VirNucPro's."
"""What stands below a table that has them."""

REMARKS = {"f30ab72": "a shared machine with AVX-512 VNNI; INT8 without channels apart"}
"""Commit to what a reader of its figures must know."""


def figures(results: Path) -> dict[str, str]:
    """The text of each block by name, from the records in results/."""
    chosen = choose(results)
    gpu = chosen.gpu
    peers = " and ".join(peer(gpu, metric) for metric in OVER_PEERS[0].metrics)
    return {
        "headline": headline(gpu),
        "results": main_results(gpu, chosen.cpu),
        "record-gpu": captioned("More figures", gpu, MORE_OF_A_GPU),
        "record-history": history(chosen.history),
        "engine-gemms": captioned("The engine beside its GEMMs alone", gpu, OVER_GEMMS),
        "engine-baselines": captioned(f"Times as fast as {peers}, the same weights", gpu, OVER_PEERS),
    }


def headline(record: Record) -> str:
    """How many times as fast as fair-esm the engine is."""
    times = (
        f"{size(rows.model)} {written(record, OVER_FAIR_ESM, rows.model, 'fp16')} times" for rows in OVER_PEERS
    )
    return wrapped(
        f"On one {short(record)} in FP16 the engine runs {' and '.join(times)} as fast as "
        f"{peer(record, OVER_FAIR_ESM)} (commit {record.commit[:7]})."
    )


def main_results(gpu: Record, cpu: Record) -> str:
    """The table of both, the beginning of the advice for the GPU, and how they were measured."""
    lines = [
        *by_precision(gpu, OF_A_GPU, gpu.precisions, f"{short(gpu)}, "),
        *by_precision(cpu, OF_A_CPU, gpu.precisions, f"{short(cpu)}, "),
    ]
    advice = each_text(summary.table(gpu, M3B, WORKLOAD), for_markdown)
    said = f"The advice for {size(M3B)}: *{advice.advice.partition('. ')[0]}. ...*"
    if energy := gpu.value(ENERGY, M3B, advice.best or "", WORKLOAD):
        joules = format_quantity(ENERGY, energy.median)
        said += f" {joules} per 1,000 tokens are {energy.median / 3.6:.2g} Wh per million."
    if any(FRAGMENTS in name for _, name, *_ in lines):
        said = f"{ABOUT_FRAGMENTS} {said}"
    sources = [source(gpu, OF_A_GPU), source(cpu, OF_A_CPU)]
    return "\n\n".join([table(["", ""], gpu.precisions, lines), wrapped(said), *sources])


def captioned(caption: str, record: Record, shown: Sequence[Rows]) -> str:
    """A table of one record, of the precisions that its rows need."""
    day = datetime.datetime.fromtimestamp(record.measured / 1000, datetime.UTC).date()
    precisions = [each for each in record.precisions if any(each in rows.precisions for rows in shown)]
    lines = by_precision(record, shown, precisions)
    caption += f", `{WORKLOAD}`, commit {record.commit[:7]} on one {device(record)}, {day}:"
    return f"{wrapped(caption)}\n\n{table(['', ''], precisions, lines)}"


def history(found: list[Record]) -> str:
    """Tokens/s of the commits that one GPU has recorded."""
    lines = [
        [record.commit[:7], *(written(record, "tokens/s", rows.model, "fp16") for rows in HISTORY)]
        for record in found
    ]
    if not found:
        raise CannotWrite("no GPU has a commit with the figures of the history: run make bench on one")
    caption = f"Tokens/s in FP16, `{WORKLOAD}`, on one {device(found[-1])}:"
    return f"{caption}\n\n{table(['Commit'], [size(rows.model) for rows in HISTORY], lines)}"


def table(names: list[str], columns: Iterable[str], lines: list[list[str]]) -> str:
    """A table of Markdown: some columns of names, and then columns of values."""
    header = [*names, *(for_markdown(column.upper()) for column in columns)]
    sides = ["left"] * len(names) + ["right"] * (len(header) - len(names))
    return tabulate(lines, header, tablefmt="pipe", disable_numparse=True, colalign=sides)


def by_precision(
    record: Record, shown: Iterable[Rows], precisions: Iterable[str], label: str = ""
) -> list[list[str]]:
    """A line for each metric, a column a precision; the first of a model begins with the label and its size.

    Of another workload than `WORKLOAD` there is a line where the record has a value.
    """
    lines: list[list[str]] = []
    for rows in shown:
        name = f"**{label}{size(rows.model)}**"
        for metric in rows.metrics:
            is_first = name not in (line[0] for line in lines)
            called = NAMES.get(metric, metric)
            if rows.workload != WORKLOAD:
                if not any(record.value(metric, rows.model, each, rows.workload) for each in precisions):
                    continue
                called += f", `{rows.workload}`"
            cells = (cell(record, metric, rows.model, precision, rows.workload) for precision in precisions)
            lines.append([name * is_first, called, *cells])
    return lines


def cell(record: Record, metric: str, model: str, precision: str, workload: str) -> str:
    """A value; of tokens/s the advised one is bold, and those that did not settle have ~."""
    text = written(record, metric, model, precision, workload)
    if metric != "tokens/s" or not record.value(metric, model, precision, workload):
        return text
    is_steady = record.note(model, precision, workload, about=THROUGHPUT.values()).get("settled") is not False
    mark = "**" * (precision == summary.table(record, model, workload).best)
    return f"{mark}{text}{'' if is_steady else ' ~'}{mark}"


def written(record: Record, metric: str, model: str, precision: str, workload: str = WORKLOAD) -> str:
    """A value, with rates in full and no unit that the row's name has; or why there is none."""
    value = record.value(metric, model, precision, workload)
    if value is None:
        benchmark = (BENCHMARKS | ENGINE).get(metric, BENCHMARKS[FIDELITY])
        note = record.notes.get(notes.key(benchmark, (model, precision, workload)), {})
        return "failed" if "failed" in note else "" if is_itself(metric, precision) else "n/a"
    if metric in ENGINE:
        return f"{value.median:.2f}"
    if metric in HIGHER_IS_BETTER and value.median >= 100:
        return f"{float(f'{value.median:.3g}'):,.0f}"
    return format_quantity(metric, value.median).removesuffix("x").removesuffix(" J")


def source(record: Record, shown: Iterable[Rows]) -> str:
    """Where and how a record was measured, and how much blocks vary at most within a process."""
    values = [
        record.value(metric, rows.model, precision, rows.workload)
        for rows in shown
        for metric in rows.metrics
        for precision in record.precisions
    ]
    shares = (ratio(value.spread, value.median) for value in values if value and value.spread)
    spread = max((share for share in shares if share), default=0)
    how = for_markdown(summary.summarize(record).how)
    parts = [f"{device(record)}: commit {record.commit[:7]}", how, f"±{format_error(spread)} at most"]
    parts += [remark for commit, remark in REMARKS.items() if record.commit.startswith(commit)]
    return wrapped("; ".join(parts) + ".")


def device(record: Record) -> str:
    """As in "NVIDIA H200", as Markdown."""
    return for_markdown(summary.summarize(record).device)


def short(record: Record) -> str:
    """As in "H200"."""
    return device(record).removeprefix("NVIDIA ").removeprefix("AMD ")


def peer(record: Record, metric: str) -> str:
    """The other implementation of a comparison, with its version, as Markdown."""
    note = record.note(M3B, "fp16", WORKLOAD, about=[ENGINE[metric]])
    if "peer" not in note:
        raise CannotWrite(f"the notes of commit {record.commit[:8]} do not say what {metric!r} compares with")
    return for_markdown(note["peer"])


def size(model: str) -> str:
    """As in "3B"."""
    return model.split("_")[2]


def wrapped(text: str) -> str:
    """A paragraph in lines."""
    return textwrap.fill(text, 125, break_long_words=False, break_on_hyphens=False)
