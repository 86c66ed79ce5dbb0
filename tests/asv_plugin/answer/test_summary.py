"""What the summary says: the numbers, their direction, the recommendation, and how numbers are written."""

import pytest

from asv_plugin import notes
from asv_plugin.answer.numbers import format_quantity, improvement
from asv_plugin.answer.records import BENCHMARKS, FIDELITY, MASSIVE, MASSIVE_NOTE, Record, Value
from asv_plugin.answer.summary import summarize
from asv_plugin.answer.terminal import render

MODEL = "esm2_t33_650M_UR50D"


def record(speeds: dict[str, float], errors: dict[str, float] | None = None, **more: object) -> Record:
    """A record with these tokens/s and, with pretrained weights, these largest errors over distance."""
    cells = {precision: (MODEL, precision, "mixed") for precision in speeds}
    size = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}
    about = {"device": "a chip", "versions": {}, "proteins": 5, "residues": 1050, "weights": "pretrained"}
    return Record(
        "NVIDIA-H100",
        "0123456789abcdef",
        values={
            "tokens/s": {cells[p]: Value(speed, 0.01 * speed, 7) for p, speed in speeds.items()},
            "sequences/s": {cells[p]: Value(speed / 212) for p, speed in speeds.items()},
            "total runtime": {cells[p]: Value(50_000 / speed) for p, speed in speeds.items()},
            "peak memory": {cells[p]: Value(size.get(p, 1) * 2.0**30) for p in speeds},
            FIDELITY: {cells[p]: Value(error) for p, error in (errors or {}).items()},
        },
        **{
            "precisions": tuple(size),
            "notes": {notes.key(BENCHMARKS[FIDELITY], cells[p]): about for p in errors or {}},
        }
        | more,
    )


def advice(*arguments: dict[str, float], **more: object) -> tuple[str | None, str]:
    (table,) = summarize(record(*arguments, **more)).tables
    return table.best, table.advice


def random_weights(*precisions: str) -> dict[str, object]:
    """Notes that say so of the fidelity of these precisions."""
    about = {"device": "a chip", "versions": {}, "proteins": 5, "residues": 1050, "weights": "random"}
    return {"notes": {notes.key(BENCHMARKS[FIDELITY], (MODEL, p, "mixed")): about for p in precisions}}


def test_the_fastest_faithful_precision_is_recommended():
    best, said = advice(
        {"fp32": 25_000, "tf32": 60_000, "bf16": 90_000, "fp16": 100_000},
        {"tf32": 0.001, "bf16": 0.0133, "fp16": 0.002},
    )
    assert best == "fp16"
    assert said == (
        "Use FP16, 4.00 times FP32, with 50% of its peak memory; it moves embeddings by at most 0.2 % of the "
        "distance between proteins."
    )


def test_the_fastest_precision_is_not_named_when_it_is_unfaithful():
    speeds, errors = {"fp32": 25_000, "bf16": 90_000, "fp16": 100_000}, {"bf16": 0.0133, "fp16": 0.0801}
    unfaithful = "Not faithful enough: FP16 (8.1 %) of the distance between proteins, at most 5.0 %."
    for more in ({}, random_weights("bf16", "fp16")):
        best, said = advice(speeds, errors, **more)
        assert best == "bf16"
        assert unfaithful in said


def test_the_gate_is_five_per_cent():
    speeds = {"fp32": 25_000, "fp8": 90_000}
    assert advice(speeds, {"fp8": 0.05})[0] == "fp8"
    assert advice(speeds, {"fp8": 0.0501})[0] == "fp32"


def test_an_error_that_is_no_number_is_unfaithful():
    assert advice({"fp32": 25_000, "fp8": 90_000}, {"fp8": float("inf")})[0] == "fp32"


def test_of_precisions_as_fast_within_three_per_cent_the_most_faithful_is_used():
    best, said = advice({"fp32": 25_000, "bf16": 102_000, "fp16": 100_000}, {"bf16": 0.013, "fp16": 0.002})
    assert best == "fp16"
    assert "As fast within 3 %, and less faithful: BF16 (1.02 times)." in said


def test_fp16_is_not_recommended_on_a_cpu_where_it_is_slow():
    best, said = advice({"fp32": 5_000, "bf16": 2_500, "fp16": 900}, {"bf16": 0.01, "fp16": 0.001})
    assert best == "fp32"
    assert said == "Use FP32: BF16 runs at 0.50 times its speed and FP16 runs at 0.18 times its speed."


def test_a_precision_as_fast_as_fp32_within_noise_is_not_recommended():
    best, said = advice({"fp32": 5_000, "bf16": 5_100}, {"bf16": 0.01})
    assert best == "fp32"
    assert "As fast within 3 %, and less faithful: BF16 (1.02 times)." in said


def test_an_error_just_too_large_does_not_look_small_enough():
    assert "BF16 (5.1 %)" in advice({"fp32": 5_000, "bf16": 9_000}, {"bf16": 0.05001})[1]


def test_with_random_weights_the_fastest_is_named_and_nothing_is_recommended():
    one = record({"fp32": 25_000, "bf16": 90_000}, {"bf16": 0.013}, **random_weights("bf16"))
    (table,) = summarize(one).tables
    assert table.best == "bf16" and not table.is_recommendation
    assert table.advice.startswith("Fastest: BF16, 3.60 times FP32, with 50% of its peak memory; ")
    assert "Fidelity was measured with random weights; to measure it with ESM-2's own: " in table.advice
    assert "Use BF16" not in table.advice


def test_with_random_weights_nothing_is_recommended_where_all_are_unfaithful():
    one = record({"fp32": 25_000, "fp8": 90_000}, {"fp8": 0.08}, **random_weights("fp8"))
    (table,) = summarize(one).tables
    assert table.best == "fp32" and not table.is_recommendation
    assert "Fidelity was measured with random weights" in table.advice


def with_massive(errors: dict[str, float], **more: object) -> Record:
    """A record of FP32, BF16 and INT8, both faithful, with these errors with a massive channel."""
    one = record({"fp32": 25_000, "bf16": 90_000, "int8": 140_000}, {"bf16": 0.013, "int8": 0.024}, **more)
    one.values[MASSIVE] = {(MODEL, p, "mixed"): Value(error) for p, error in errors.items()}
    return one


def advised(one: Record) -> tuple[str | None, str]:
    (table,) = summarize(one).tables
    return table.best, table.advice


def test_a_precision_over_the_limit_with_a_massive_channel_is_not_recommended():
    best, said = advised(with_massive({"bf16": 0.02, "int8": 0.63}, **random_weights("bf16", "int8")))
    assert best == "bf16"
    assert said.endswith(
        "Over 5.0 % with a massive channel, as ESM-2 3B's: INT8 (63.0 %); not recommended without a measurement "
        "with your own weights: make fidelity."
    )


def test_within_the_limit_with_a_massive_channel_it_is_named_with_that_error():
    best, said = advised(with_massive({"bf16": 0.085, "int8": 0.05}, **random_weights("bf16", "int8")))
    assert best == "int8"
    assert "by at most 2.4 % of the distance between proteins, and by 5.0 % with a massive channel, as" in said
    assert "3B's: BF16 (8.5 %); not recommended" in said


def test_where_all_are_over_the_limit_with_a_massive_channel_fp32_is_left():
    best, said = advised(with_massive({"bf16": 0.085, "int8": 0.3}, **random_weights("bf16", "int8")))
    assert best == "fp32"
    assert "BF16 (8.5 %), INT8 (30.0 %); not recommended" in said


def test_a_precision_over_both_limits_is_named_once():
    one = with_massive({"bf16": 0.02, "int8": 0.63}, **random_weights("bf16", "int8"))
    one.values[FIDELITY][MODEL, "int8", "mixed"] = Value(0.08)
    _, said = advised(one)
    assert "Not faithful enough: INT8 (8.0 %)" in said and "not recommended" not in said


def test_without_a_second_figure_the_advice_is_the_same_as_ever():
    assert advised(with_massive({}, **random_weights("bf16", "int8"))) == (
        "int8",
        "Fastest: INT8, 5.60 times FP32, with 25% of its peak memory; it moves embeddings by at most 2.4 % of the "
        "distance between proteins. Fidelity was measured with random weights; to measure it with ESM-2's own: "
        "make fidelity.",
    )


def test_with_pretrained_weights_a_massive_channel_changes_nothing():
    assert advised(with_massive({"int8": 0.63})) == advised(with_massive({}))
    assert advised(with_massive({}))[0] == "int8"


def test_the_error_with_a_massive_channel_is_a_row_below_the_error():
    one = with_massive({"bf16": 0.085, "int8": 0.024})
    one.values["min cosine to FP32"] = {(MODEL, "bf16", "mixed"): Value(0.99991)}
    (table,) = summarize(one).tables
    assert table.metrics[table.metrics.index(FIDELITY) + 1] == MASSIVE
    assert row(one, "with a massive channel") == ["", "8.5 %", "2.4 %"]
    assert MASSIVE not in summarize(with_massive({})).tables[0].metrics


def test_why_there_is_no_second_figure_is_listed():
    one = with_massive({}, **random_weights("bf16", "int8"))
    name = notes.key(BENCHMARKS[FIDELITY], (MODEL, "bf16", "mixed"))
    one.notes[name][MASSIVE_NOTE] = {"skipped": "it needs a file of 11.4 GiB"}
    assert f"Not run (n/a):\n- it needs a file of 11.4 GiB ({MODEL}, bf16, mixed" in render(summarize(one))


def test_only_less_faithful_precisions_are_called_so():
    speeds = {"fp32": 10_000, "tf32": 29_000, "bf16": 29_500, "fp16": 30_000}
    best, said = advice(speeds, {"tf32": 0.01, "bf16": 0.02, "fp16": 0.03})
    assert best == "bf16"
    assert "less faithful: FP16 (1.02 times)." in said and "TF32 (" not in said


def test_with_pretrained_weights_it_is_a_recommendation():
    (table,) = summarize(record({"fp32": 25_000, "bf16": 90_000}, {"bf16": 0.013})).tables
    assert table.is_recommendation
    assert "random weights" not in table.advice


def test_what_was_measured_beside_the_fidelity_is_shown():
    one = record({"fp32": 25_000, "bf16": 90_000}, {"bf16": 0.013})
    one.values |= {"same nearest neighbour": {(MODEL, "bf16", "mixed"): Value(0.984)}}
    one.values |= {"min cosine, any residue": {(MODEL, "bf16", "mixed"): Value(0.999876)}}
    assert row(one, "max error over distance") == ["", "1.3 %"]
    assert row(one, "same nearest neighbour") == ["", "98 %"]
    assert row(one, "min cosine, any residue") == ["", "0.99987"]


def test_a_cell_measured_on_a_busy_gpu_is_named():
    name = f"throughput.Throughput.track_runtime({MODEL}, fp32, mixed)"
    text = render(summarize(record({"fp32": 1_000}, notes={name: {"gpu": {"busy": "the GPU was 37 % utilised"}}})))
    assert f"Measured while the GPU was busy:\n- the GPU was 37 % utilised ({MODEL}, fp32, mixed)" in text


def test_the_threads_and_cpus_of_a_cpus_numbers_are_told():
    about = {"device": "a CPU", "versions": {}, "proteins": 5, "residues": 1050, "weights": "random"}
    name = f"throughput.Throughput.track_runtime({MODEL}, fp32, mixed)"
    one = record({"fp32": 1_000}, notes={name: about | {"threads": 2, "cpus": "0-1"}})
    assert summarize(one).how == "random weights; 2 threads on CPUs 0-1"


def test_a_precision_that_comes_later_is_shown_and_can_be_recommended():
    one = record({"fp32": 25_000, "fp16": 90_000}, {"fp16": 0.002})
    for metric, value in (("tokens/s", 200_000.0), ("peak memory", 2.0**30), (FIDELITY, 0.02)):
        one.values[metric][MODEL, "fp8", "mixed"] = Value(value)
    (table,) = summarize(one).tables
    assert [column.precision for column in table.columns] == ["fp32", "fp16", "fp8"]
    assert table.best == "fp8"


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
    values = {"speed-up, same process": {cell: Value(3.9)}, FIDELITY: {cell: Value(0.001)}}
    (table,) = summarize(Record("m", "0" * 40, values=values)).tables
    assert table.best == "fp16"


def test_different_weights_of_speed_and_fidelity_are_told_apart():
    note = {"device": "a chip", "versions": {}, "proteins": 5, "residues": 1050}
    about_cells = {
        f"throughput.Throughput.track_runtime({MODEL}, fp16, mixed)": note | {"weights": "random"},
        f"precision.Precision.track_memory_saving({MODEL}, fp16, mixed)": note | {"weights": "pretrained"},
    }
    said = summarize(record({"fp32": 1_000, "fp16": 2_000}, {"fp16": 0.0}, notes=about_cells)).how
    assert said == "random weights, pretrained weights for the comparison with FP32"


def test_a_failure_that_only_points_to_anothers_is_left_out_and_any_other_is_kept():
    name = "throughput.Throughput.{}(" + MODEL + ", fp16, mixed)"
    about_cells = {
        name.format("track_a"): {"failed": "CellFailed: NotImplementedError: no kernel for 'Half'"},
        name.format("track_b"): {"failed": "CellFailed: measured once, and it failed: NotImplementedError: no"},
    }
    (said,) = summarize(record({}, notes=about_cells)).failed
    assert said.startswith("CellFailed: NotImplementedError: no kernel for 'Half'")


def test_fp32_alone_is_recommended():
    assert advice({"fp32": 5_000}) == ("fp32", "Use FP32: nothing else has a usable result.")


def test_a_precision_without_a_fidelity_is_not_recommended():
    best, said = advice({"fp32": 5_000, "fp16": 9_000})
    assert best is None
    assert said.startswith("No advice: no fidelity was measured beside FP32.")
    assert "Not judged, for want of a fidelity or of FP32's speed: FP16." in said


def test_without_fp32_nothing_is_recommended():
    best, said = advice({"fp16": 9_000})
    assert best is None
    assert said.startswith("No advice: FP32")


def test_when_everything_failed_there_is_no_table_and_the_reason_is_listed():
    about_cells = {
        f"throughput.Throughput.track_runtime({MODEL}, fp16, mixed)": {"failed": "OutOfMemoryError: boo"}
    }
    found = summarize(record({}, notes=about_cells))
    assert found.tables == []
    assert found.failed == [f"OutOfMemoryError: boo ({MODEL}, fp16, mixed)"]


def test_speed_is_judged_by_the_same_process_where_it_was_measured():
    one = record({"fp32": 5_000, "fp16": 9_000}, {"fp16": 0.0})
    one.values["speed-up, same process"] = {(MODEL, "fp16", "mixed"): Value(0.9)}
    assert summarize(one).tables[0].best == "fp32"


def row(one: Record, metric: str) -> list[str]:
    """What the Markdown of a record with one table has of a metric, by precision."""
    lines = render(summarize(one), markdown=True).splitlines()
    (found,) = [cells for line in lines if (cells := line.strip("|").split("|"))[0].strip() == metric]
    return [cell.strip() for cell in found[1:]]


def test_improvements_stand_beside_the_values():
    one = record({"fp32": 25_000, "fp16": 100_000}, {"fp16": 0.002})
    one.values["min cosine to FP32"] = {(MODEL, "fp16", "mixed"): Value(0.99991)}
    one.values["speed-up, same process"] = {(MODEL, "fp16", "mixed"): Value(3.9)}
    assert row(one, "tokens/s") == ["25.0k ±1%", "100k ±1% 4.00x"]
    assert row(one, "total runtime") == ["2 s", "500 ms 4.00x"]
    assert row(one, "peak memory") == ["4.00 GiB", "2.00 GiB 2.00x"]
    assert row(one, "speed-up, same process") == ["", "3.90x"]
    assert row(one, "min cosine to FP32") == ["", "0.99991"]
    fp32, fp16 = [line.split() for line in render(summarize(one)).splitlines() if " GiB" in line]
    assert fp32 == ["FP32", "25.0k", "±1%", "118", "2", "s", "4.00", "GiB"]
    assert fp16[:9] == ["FP16", "100k", "±1%", "4.00x", "472", "4.00x", "500", "ms", "4.00x"]


def test_skips_are_listed_with_their_reason_once():
    about_cells = {
        f"throughput.Throughput.{metric}({MODEL}, tf32, mixed)": {"skipped": "no TF32 here"}
        for metric in ("track_runtime", "track_peak_memory")
    }
    text = render(summarize(record({"fp32": 1_000}, notes=about_cells)))
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
        ("max error over distance", 0.013, "1.3 %"),
        ("max error over distance", 0.0501, "5.1 %"),
        ("same nearest neighbour", 0.9999, "99 %"),
        ("energy per 1,000 tokens", 6.4412, "6.44 J"),
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
    assert row(one, "tokens/s") == [f"25.0k {written}"]
    assert "!: that is over 5 %, too wide to judge by" in " ".join(text.split())
