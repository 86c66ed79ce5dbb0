"""The table: what stands where, in which direction, and how numbers are written."""

import pytest

from asv_plugin.report import Report, Value, improvement, quantity, render

MODEL = "esm2_t33_650M_UR50D"


def gpu_report() -> Report:
    cells = {p: (MODEL, p, "mixed") for p in ("fp32", "bf16", "fp16")}
    return Report(
        "NVIDIA-H100",
        "0123456789abcdef",
        values={
            "tokens/s": {cells["fp32"]: Value(25_000.0, 250.0), cells["fp16"]: Value(100_000.0)},
            "sequences/s": {cells["fp32"]: Value(120.0), cells["fp16"]: Value(480.0)},
            "total runtime": {cells["fp32"]: Value(2.0), cells["fp16"]: Value(0.5)},
            "peak memory": {cells["fp32"]: Value(4.0 * 2**30), cells["fp16"]: Value(2.0 * 2**30)},
            "min cosine to FP32": {cells["fp16"]: Value(0.99991)},
        },
        notes={
            f"throughput.Throughput.track_runtime({MODEL}, bf16, mixed)": {"failed": "OutOfMemoryError: boo"},
            f"throughput.Throughput.track_runtime({MODEL}, tf32, mixed)": {"skipped": "no TF32 here"},
        },
    )


def row(text: str, metric: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(metric)]
    return line.removeprefix(metric).split()


def test_each_metric_is_a_row_with_fp32_the_others_and_the_improvement():
    text = render(gpu_report())
    assert row(text, "tokens/s") == ["25,000", "±1%", "100,000", "4.00x"]
    assert row(text, "total runtime") == ["2", "s", "500", "ms", "4.00x"]
    assert row(text, "peak memory") == ["4.00", "GiB", "2.00", "GiB", "2.00x"]
    assert row(text, "min cosine to FP32") == ["0.999910"]


def test_failures_and_skips_are_listed_with_their_reasons():
    text = render(gpu_report())
    assert f"FAILED:\n  OutOfMemoryError: boo ({MODEL}, bf16, mixed)" in text
    assert f"Not run (n/a):\n  no TF32 here ({MODEL}, tf32, mixed)" in text


def test_nothing_measured_shows_no_table():
    assert "Improvement" not in render(Report("machine", "0" * 40))


@pytest.mark.parametrize(
    "metric, fp32, other, expected",
    [
        ("tokens/s", 100, 200, "2.00x"),
        ("tokens/s", 100, 50, "0.50x"),
        ("total runtime", 100, 50, "2.00x"),
        ("peak memory", 100, 200, "0.50x"),
    ],
)
def test_an_improvement_above_one_is_always_better(metric, fp32, other, expected):
    assert improvement(metric, Value(fp32), Value(other)) == expected


def test_an_improvement_over_nothing_is_not_available():
    assert improvement("tokens/s", None, Value(1.0)) == "n/a"


@pytest.mark.parametrize(
    "metric, value, expected",
    [
        ("tokens/s", 84_432.1, "84,432"),
        ("sequences/s", 0.8244, "0.824"),
        ("total runtime", 0.0123, "12.3 ms"),
        ("total runtime", 12.34, "12.3 s"),
        ("peak memory", 300 * 2**20, "300 MiB"),
        ("peak memory", 5.3 * 2**30, "5.30 GiB"),
        ("min cosine to FP32", 0.9999912, "0.999991"),
    ],
)
def test_numbers_are_written_with_their_unit(metric, value, expected):
    assert quantity(metric, value) == expected
