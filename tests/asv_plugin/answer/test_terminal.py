"""What the terminal and Markdown show first, which tables follow, and that no line is too long."""

import itertools
import re
import subprocess
import sys

import pytest

from asv_plugin.answer.records import BENCHMARKS, FIDELITY, MASSIVE, Record, Value, records
from asv_plugin.answer.summary import summarize
from asv_plugin.answer.terminal import render
from tests.asv_plugin.test_untrusted import rendered
from tests.made_up import ROOT

MODELS = ("esm2_t6_8M_UR50D", "esm2_t33_650M_UR50D", "esm2_t36_3B_UR50D", "esm2_t48_15B_UR50D")
WORKLOADS = ("short", "medium", "long", "mixed", "full", "fasta")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "int8", "fp8")
H200 = records(ROOT / "results", "NVIDIA-H200")[0]
WIDTHS = (80, 100)
FIRST = 10
"""Lines that are seen without scrolling, wherever a terminal begins."""


def full(*without_fp32: str) -> Record:
    """A record of all models and workloads, with values as wide as they get; some models without FP32."""
    one = Record("m", "0123456789" * 4, precisions=PRECISIONS)
    for model, workload, (at, precision) in itertools.product(MODELS, WORKLOADS, enumerate(PRECISIONS)):
        if precision == "fp32" and model in without_fp32:
            continue
        cell = (model, precision, workload)
        values = {"tokens/s": Value(12_345.0 * (1 + 3.4 * at), 9_000, 7), "sequences/s": Value(123.0, 99, 7)}
        values |= {"total runtime": Value(0.01234, 0.01, 7), "peak memory": Value(28.35 * 2**30)}
        values |= dict.fromkeys(("speed-up, same process", "memory saving, alone"), Value(18.66, 9, 7))
        values |= {"energy per 1,000 tokens": Value(0.0512), FIDELITY: Value(0.012), MASSIVE: Value(0.026)}
        for metric, value in values.items():
            if metric in BENCHMARKS or precision != "fp32":
                one.values.setdefault(metric, {})[cell] = value
    return one


def tables(text: str) -> list[str]:
    return re.findall(r"^(?:### )?(esm2_\w+, \w+)", text, re.MULTILINE)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("one", [H200, full(), full(MODELS[-1])], ids=["H200", "all", "without FP32"])
def test_the_answer_is_in_the_first_lines_and_none_is_too_long(one, width):
    lines = render(summarize(one), width=width, all_tables=True).splitlines()
    assert max(map(len, lines)) <= width
    first = "\n".join(lines[:FIRST])
    assert re.search(r"^(3B|15B), mixed: Fastest: \w+, [\d.]+ times FP32", first, re.MULTILINE)
    assert all(re.search(rf"^{size} ", first, re.MULTILINE) for size in ("8M", "650M", "3B", "15B"))


def test_the_matrix_has_each_advice_with_its_speed_and_a_dash_where_there_is_none():
    lines = render(summarize(H200)).splitlines()
    assert lines[2].split() == ["short", "medium", "long", "mixed", "full"]
    assert lines[3].split()[:3] == ["8M", "FP16", "5.40x"]
    assert lines[6].split() == ["15B", "-"]
    assert lines[6].index("-") == lines[2].index("mixed") + len("mixed") - 1


def test_one_advice_is_given_with_its_reservation_once():
    text = " ".join(render(summarize(H200), all_tables=True).split())
    assert text.count("Fastest:") == text.count("Fidelity was measured with random weights") == 1
    assert text.count("15B: No advice: FP32, which the others are judged against, has no result.") == 1


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize(
    "bench, all_tables, expected",
    [
        (".", False, [f"{MODELS[2]}, mixed"]),
        ("8M.*(short|long)", False, [f"{MODELS[0]}, short", f"{MODELS[0]}, long"]),
        (r"track_runtime\('esm2_t6_8M_UR50D', 'int8', 'full'\)", False, [f"{MODELS[0]}, full"]),
        ("Engine", False, []),
        (".", True, [f"{table.model}, {table.workload}" for table in summarize(H200).tables]),
        ("8M.*short", True, [f"{table.model}, {table.workload}" for table in summarize(H200).tables]),
    ],
)
def test_tables_are_those_that_were_asked_for(markdown, bench, all_tables, expected):
    text = render(summarize(H200), markdown, bench=bench, all_tables=all_tables)
    assert tables(text) == expected
    assert ("Nothing in the tables matches BENCH=Engine" in text) == (not expected)
    assert ("ALL=1" in text) == (len(expected) < len(summarize(H200).tables))


def test_the_advice_is_of_what_was_asked_for():
    assert "650M, short: Fastest: INT8" in render(summarize(H200), bench="650M.*short")


def test_columns_that_do_not_fit_follow_with_the_precisions_and_none_is_lost():
    narrow, wide = (
        render(summarize(H200), width=width).partition("esm2_t36_3B_UR50D, mixed")[2].partition("\nx:")[0]
        for width in (40, 1_000)
    )
    assert len(re.findall(r"^INT8 ", narrow, re.MULTILINE)) > len(re.findall(r"^INT8 ", wide, re.MULTILINE)) == 1
    of_int8 = [re.findall(r"^INT8 (.*)", text, re.MULTILINE) for text in (narrow, wide)]
    assert " ".join(of_int8[0]).split() == of_int8[1][0].split()


def test_markdown_shows_a_matrix_and_a_table():
    html = rendered(render(summarize(H200), markdown=True))
    assert html.count("<table>") == 2
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)
    assert cells[:6] == ["", "short", "medium", "long", "mixed", "full"]
    assert {"INT8 18.7x", "8.45k ±0%", "164k ±1% 19.41x"} <= set(cells)


def test_the_width_is_the_terminals_and_at_most_100_columns():
    for columns, most in (("80", 80), ("250", 100)):
        command = [sys.executable, "-m", "asv_plugin.answer", "--machine=NVIDIA-H200", "--bench=8M.*long"]
        done = subprocess.run(
            command, cwd=ROOT, env={"COLUMNS": columns, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert most - 5 <= max(map(len, done.stdout.splitlines())) <= most
