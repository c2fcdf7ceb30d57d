"""A report in lines: what a person is told."""

from dataclasses import replace
from pathlib import Path

import pytest
from reports import BUSY, FORMS, FULL, JUDGED, SHAPE, figures, paired, with_result

from penjing.cli import telling
from penjing.report.record import Gate

OUT = Path("out")


def test_a_budget_that_is_not_met_is_one_line_of_what_decided() -> None:
    gates = (
        Gate("speedup", False, None, 7.0), Gate("size_mb", False, 5.0, 4.0), Gate("drop", True, 0.8, 1.5),
        Gate("steady machine", False, 0.0, 1.0, asked=False, decides=False),
    )  # fmt: skip
    assert telling.missed(replace(FULL, gates=gates), OUT) == (
        "the budget was not met: speedup unknown (limit 7), size_mb 5.00 (limit 4); the best that was found is in out, so ask again on a quiet"
        " machine, with another --out"
    )
    assert telling.missed(replace(FULL, gates=gates[1:]), OUT).endswith(
        "size_mb 5.00 (limit 4); the best that was found is in out, so ask for less or allow more"
    )


def test_a_compression_is_told_in_four_lines_and_one_more_where_nothing_was_asked() -> None:
    lines = telling.compressed(FULL, OUT).splitlines()
    assert lines == [
        "onnxruntime fused int8: 7.3x faster than eager PyTorch (6.10 -> 0.84 ms, p99 1.67; end to end 6.20 -> 0.94, 6.6x), 7.7x smaller"
        " (91.0 -> 11.8 MB)",
        "accuracy 89.70 -> 88.90: 0.80 points lost, at most 1.90 (95 %: -0.40 ... 1.90)",
        "scores: at temperature 1.20, 6.0 -> 2.0 points from what they say on average (ECE)",
        "model: out/model   engine: out/engine   report: out/report.html",
    ]
    assert telling.compressed(replace(FULL, met=None), OUT).splitlines() == ["no limit was asked", *lines]
    untouched = replace(FULL, met=None, steps=FULL.steps[2:])
    assert telling.compressed(untouched, OUT).startswith("nothing was asked, so nothing was cut: give --speedup")


def test_on_a_busy_machine_no_speed_up_is_told() -> None:
    line = telling.faster(with_result(**BUSY))
    assert line == (
        "onnxruntime fused int8: the machine was too busy to say how much faster than eager PyTorch it is (other processes take 1.2 of 2"
        " processors; 6.10 -> 0.84 ms, p99 1.67; end to end 6.20 -> 0.94)"
    )
    assert "end to end" not in telling.faster(with_result(end_to_end_ms=None))


def test_what_is_slower_or_better_is_told_as_such() -> None:
    line = telling.faster(with_result(speedup_vs_eager=0.8, latency_ms=7.6, end_to_end_ms=12.4))
    assert "fused int8: 1.2x slower than eager PyTorch (6.10 -> 7.60 ms" in line and "end to end 6.20 -> 12.40, 2.0x slower)" in line
    line = telling.lost(with_result(judged=paired(90.2, 89.7, (-1.5, 0.5), 0.4)))
    assert line == "accuracy 89.70 -> 90.20: 0.50 points gained, at most 0.50 lost (95 %: -1.50 ... 0.50)"
    assert "1.25x slower than uncut where" in telling.pruned(replace(FULL, shapes=(replace(SHAPE, speedup=0.8),)), OUT)


def test_the_most_that_may_have_been_lost_is_of_the_confidence_that_was_asked() -> None:
    assert FULL.asked
    report = replace(with_result(judged=replace(JUDGED, drop_at_most=1.2)), asked=replace(FULL.asked, confidence=0.8))
    assert telling.lost(report) == "accuracy 89.70 -> 88.90: 0.80 points lost, at most 1.20 with 80 % confidence (95 %: -0.40 ... 1.90)"


def test_scores_as_they_come_and_a_deployment_that_grew() -> None:
    report = replace(with_result(bytes=182_000_000), scores=replace(FULL.scores, temperature=1.0))
    assert telling.scores(report) == "scores: as they come, 6.0 points from what they say on average (ECE)"
    assert telling.smaller(report) == "2.0x larger (91.0 -> 182.0 MB)"


def test_what_was_pruned_is_told_with_the_clock_beside_the_multiply_accumulates() -> None:
    told = telling.pruned(FULL, OUT)
    assert "0.30 of the multiply-accumulates and 0.19 of the parameters are left" in told
    assert (
        "onnxruntime fused int8, 24 tokens, the data's own lengths: 2.00 -> 0.80 ms, 2.50x faster than uncut where the multiply-accumulates say 3.33x"
        in told
    )
    assert "50.0 % of the pruned matrices and 10.0 % of all weights are zero: 9.0 -> 1.0 MB stored, loads in 0.10 -> 0.20 s" in told
    shapes = (replace(SHAPE, own=False, steady=False, macs=0.0),)
    told = telling.pruned(replace(FULL, shapes=shapes, stored=None), OUT)
    assert (
        "24 tokens: 2.00 -> 0.80 ms, not steady enough for a speed-up where the multiply-accumulates say no end" in told
        and "zero" not in told
    )


def test_what_was_quantized_is_told_form_by_form() -> None:
    real = replace(with_result(float_layers=("layers.0.up",)), stored=None)
    lines = telling.quantized(real, OUT).splitlines()
    assert "int8 kernels of this processor: AVX-512 VNNI; in float: layers.0.up" in lines
    assert "* onnxruntime fused int8: 95.10 on texts held out, 0.84 ms, 3900 texts/s" in lines
    assert "  onnxruntime int8: 90.10 on texts held out, 1.00 ms, - texts/s" in lines
    assert "  torch eager, uncut: 89.70, 6.10 ms, 500 texts/s" in lines
    assert any(line.startswith("weights: 9.0 -> 1.0 MB stored") for line in telling.quantized(FULL, OUT).splitlines())


@pytest.mark.parametrize("throughput", [3900.0, None])
def test_what_was_distilled_is_told_with_its_throughput(throughput: float | None) -> None:
    report = replace(FULL, result=replace(FULL.result, figures=figures(0.837, throughput)), forms=FORMS)
    told = telling.distilled(report, OUT)
    assert "22.7 -> 4.4 million parameters, 7.7x smaller" in told
    assert f"500 -> {'3900' if throughput else '-'} texts/s" in told
