"""What the summary says: the numbers, their direction, the recommendation, and how numbers are written."""

import pytest

from asv_plugin.answer.numbers import format_quantity, improvement
from asv_plugin.answer.records import Record, Value
from asv_plugin.answer.summary import summarize
from asv_plugin.answer.terminal import render

MODEL = "esm2_t33_650M_UR50D"


def record(speeds: dict[str, float], cosines: dict[str, float] | None = None, **more: object) -> Record:
    cells = {precision: (MODEL, precision, "mixed") for precision in speeds}
    size = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
    return Record(
        "NVIDIA-H100",
        "0123456789abcdef",
        values={
            "tokens/s": {cells[p]: Value(speed, 0.01 * speed, 7) for p, speed in speeds.items()},
            "sequences/s": {cells[p]: Value(speed / 212) for p, speed in speeds.items()},
            "total runtime": {cells[p]: Value(50_000 / speed) for p, speed in speeds.items()},
            "peak memory": {cells[p]: Value(size.get(p, 1) * 2.0**30) for p in speeds},
            "min cosine to FP32": {cells[p]: Value(cosine) for p, cosine in (cosines or {}).items()},
        },
        **{"precisions": tuple(size)} | more,
    )


def advice(*arguments: dict[str, float]) -> tuple[str | None, str]:
    (table,) = summarize(record(*arguments)).tables
    return table.recommended, table.advice


def test_the_fastest_faithful_precision_is_recommended():
    recommended, said = advice(
        {"fp32": 25_000, "tf32": 60_000, "bf16": 99_000, "fp16": 100_000},
        {"tf32": 0.99999, "bf16": 0.9995, "fp16": 0.99995},
    )
    assert recommended == "fp16"
    assert said == "Use FP16: 4.00 times FP32's speed, 50% of its peak memory, smallest cosine 0.99995."


def test_the_fastest_precision_is_not_recommended_when_it_is_unfaithful():
    recommended, said = advice({"fp32": 25_000, "bf16": 90_000, "fp16": 100_000}, {"bf16": 0.9995, "fp16": 0.97})
    assert recommended == "bf16"
    assert "Not faithful enough: FP16 (smallest cosine 0.97000); 0.999 is needed." in said


def test_fp16_is_not_recommended_on_a_cpu_where_it_is_slow():
    recommended, said = advice({"fp32": 5_000, "bf16": 2_500, "fp16": 900}, {"bf16": 0.9999, "fp16": 1.0})
    assert recommended == "fp32"
    assert said == "Use FP32: BF16 runs at 0.50 times its speed and FP16 runs at 0.18 times its speed here."


def test_a_precision_as_fast_as_fp32_within_noise_is_not_recommended():
    recommended, said = advice({"fp32": 5_000, "bf16": 5_100}, {"bf16": 0.9999})
    assert recommended == "fp32"
    assert (
        "BF16 runs at 1.02 times its speed here, and less than 3 % more is what measuring again can show." in said
    )


def test_a_cosine_just_too_small_does_not_look_large_enough():
    assert "smallest cosine 0.99899" in advice({"fp32": 5_000, "bf16": 9_000}, {"bf16": 0.998999})[1]


def test_a_precision_that_comes_later_is_shown_and_can_be_recommended():
    one = record({"fp32": 25_000, "fp16": 90_000}, {"fp16": 0.9999})
    for metric, value in (("tokens/s", 200_000.0), ("peak memory", 2.0**30), ("min cosine to FP32", 0.9995)):
        one.values[metric][MODEL, "fp8", "mixed"] = Value(value)
    (table,) = summarize(one).tables
    assert [column.precision for column in table.columns] == ["fp32", "fp16", "fp8"]
    assert table.recommended == "fp8"


def test_precisions_stand_in_the_suites_order():
    speeds = dict.fromkeys(("int8", "fp16", "tf32", "fp32"), 1_000.0)
    (table,) = summarize(record(speeds, precisions=("fp32", "int8", "fp16"))).tables
    assert [column.precision for column in table.columns] == ["fp32", "int8", "fp16", "tf32"]


def test_cells_measured_in_part_are_shown():
    one = Record("m", "0" * 40, values={"peak memory": {(MODEL, "fp32", "mixed"): Value(2.0**30)}})
    (table,) = summarize(one).tables
    assert table.columns[0].cells == ["n/a", "n/a", "n/a", "1.00 GiB"]


def test_a_comparison_with_fp32_alone_can_recommend():
    cell = (MODEL, "fp16", "mixed")
    values = {"speed-up, same process": {cell: Value(3.9)}, "min cosine to FP32": {cell: Value(0.99999)}}
    (table,) = summarize(Record("m", "0" * 40, values=values)).tables
    assert table.recommended == "fp16"


def test_different_weights_of_speed_and_fidelity_are_told_apart():
    note = {"device": "a chip", "versions": {}, "proteins": 5, "residues": 1050}
    notes = {
        f"throughput.Throughput.track_runtime({MODEL}, fp16, mixed)": note | {"weights": "random"},
        f"precision.Precision.track_memory_saving({MODEL}, fp16, mixed)": note | {"weights": "pretrained"},
    }
    said = summarize(record({"fp32": 1_000, "fp16": 2_000}, {"fp16": 1.0}, notes=notes)).how
    assert said == "random weights, pretrained weights for the comparison with FP32"


def test_a_failure_that_only_points_to_anothers_is_left_out_and_any_other_is_kept():
    name = "throughput.Throughput.{}(" + MODEL + ", fp16, mixed)"
    notes = {
        name.format("track_a"): {"failed": "CellFailed: NotImplementedError: no kernel for 'Half'"},
        name.format("track_b"): {"failed": "CellFailed: measured once, and it failed: NotImplementedError: no"},
    }
    (said,) = summarize(record({}, notes=notes)).failed
    assert said.startswith("CellFailed: NotImplementedError: no kernel for 'Half'")


def test_bars_compare_a_row_with_its_largest_value():
    (table,) = summarize(record({"fp32": 25_000, "fp16": 100_000}, {"fp16": 1.0})).tables
    assert [column.shares[0] for column in table.columns] == [0.25, 1.0]
    assert [column.shares[3] for column in table.columns] == [1.0, 0.5]
    assert table.columns[1].shares[4] is None


def test_fp32_alone_is_recommended():
    assert advice({"fp32": 5_000}) == ("fp32", "Use FP32: nothing else has a usable result here.")


def test_a_precision_without_a_fidelity_is_not_recommended():
    recommended, said = advice({"fp32": 5_000, "fp16": 9_000})
    assert recommended == "fp32"
    assert "Not judged, for want of a fidelity or of FP32's speed: FP16." in said


def test_without_fp32_nothing_is_recommended():
    recommended, said = advice({"fp16": 9_000})
    assert recommended is None
    assert said.startswith("No recommendation: FP32")


def test_when_everything_failed_there_is_no_table_and_the_reason_is_listed():
    notes = {f"throughput.Throughput.track_runtime({MODEL}, fp16, mixed)": {"failed": "OutOfMemoryError: boo"}}
    found = summarize(record({}, notes=notes))
    assert found.tables == []
    assert found.failed == [f"OutOfMemoryError: boo ({MODEL}, fp16, mixed)"]


def test_speed_is_judged_by_the_same_process_where_it_was_measured():
    one = record({"fp32": 5_000, "fp16": 9_000}, {"fp16": 1.0})
    one.values["speed-up, same process"] = {(MODEL, "fp16", "mixed"): Value(0.9)}
    assert summarize(one).tables[0].recommended == "fp32"


def row(text: str, metric: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(metric)]
    return line.removeprefix(metric).split()


def test_each_metric_is_a_row_with_fp32_the_others_and_the_improvement():
    text = render(summarize(record({"fp32": 25_000, "fp16": 100_000}, {"fp16": 0.99991})))
    assert row(text, "tokens/s") == ["25.0k", "±1%", "100k", "±1%", "4.00x"]
    assert row(text, "total runtime") == ["2", "s", "500", "ms", "4.00x"]
    assert row(text, "peak memory") == ["4.00", "GiB", "2.00", "GiB", "2.00x"]
    assert row(text, "min cosine to FP32") == ["0.99991"]


def test_markdown_has_the_same_numbers_in_a_table():
    text = render(summarize(record({"fp32": 25_000, "fp16": 100_000}, {"fp16": 0.99991})), markdown=True)
    (line,) = [line for line in text.splitlines() if line.startswith("| tokens/s")]
    assert [part.strip() for part in line.strip("|").split("|")] == ["tokens/s", "25.0k ±1%", "100k ±1%", "4.00x"]
    assert "Use FP16: 4.00 times FP32" in text


def test_skips_are_listed_with_their_reason_once():
    notes = {
        f"throughput.Throughput.{metric}({MODEL}, tf32, mixed)": {"skipped": "no TF32 here"}
        for metric in ("track_runtime", "track_peak_memory")
    }
    text = render(summarize(record({"fp32": 1_000}, notes=notes)))
    assert f"Not run (n/a):\n- no TF32 here ({MODEL}, tf32, mixed)" in text


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
        ("tokens/s", 84_432.1, "84.4k"),
        ("tokens/s", 5_369.0, "5.37k"),
        ("tokens/s", 1_234_567.0, "1.23M"),
        ("sequences/s", 0.8244, "0.824"),
        ("total runtime", 0.0123, "12.3 ms"),
        ("total runtime", 12.34, "12.3 s"),
        ("peak memory", 300 * 2**20, "300 MiB"),
        ("peak memory", 5.3 * 2**30, "5.30 GiB"),
        ("min cosine to FP32", 0.9999972, "0.99999"),
        ("sequences/s", 999.7, "1.00k"),
        ("tokens/s", 999_600.0, "1.00M"),
        ("total runtime", 0.9996, "1 s"),
        ("total runtime", 1234.0, "1,230 s"),
    ],
)
def test_numbers_are_written_with_their_unit(metric, value, expected):
    assert format_quantity(metric, value) == expected


@pytest.mark.parametrize("spread, written", [(0.05, "±5%"), (0.051, "±5%!"), (0.12, "±12%!")])
def test_a_spread_wider_than_a_change_is_marked_and_the_mark_explained(spread, written):
    one = record({"fp32": 25_000})
    one.values["tokens/s"] = {(MODEL, "fp32", "mixed"): Value(25_000, spread * 25_000, 7)}
    text = render(summarize(one))
    assert row(text, "tokens/s") == ["25.0k", written]
    assert "!: that is over 5 %, too wide to judge by" in " ".join(text.split())
