"""Measuring: every engine in a process of its own, honest ratios, errors said."""

from pathlib import Path

import pytest
from conftest import tiny_teacher

from penjing.checkpoint import read
from penjing.engines.calibrate import calibrate
from penjing.engines.engine import Form
from penjing.engines.export import INT8_FORMS, PORTABLE_INT8, export
from penjing.engines.measure import Measurement, Subject, measure
from penjing.errors import PenjingError
from penjing.sources import tokenizer_of
from penjing.tasks.task import Classification


def test_engines_are_measured_in_turn(tmp_path: Path) -> None:
    tiny_teacher(tmp_path / "model", "sequence")
    encoded, _, _ = Classification(["a", "b"]).encode(tokenizer_of(tmp_path / "model"), ["good film", "bad", "a good good film"] * 4, 32)
    model = read(tmp_path / "model")
    export(model, tmp_path / "engine", [PORTABLE_INT8, INT8_FORMS[0].file], calibrate(model, encoded), segments=False)
    subjects = [Subject(Form("eager", "torch", ""), tmp_path / "model"), Subject(INT8_FORMS[0], tmp_path / "engine")]
    eager, fused = measure(subjects, encoded, threads=1, rounds=2, throughput_texts=12)
    assert len(fused.rounds_ms) == 2 and len(fused.rounds_ms[0]) == 12
    assert 0 < fused.latency_ms < eager.latency_ms
    assert fused.throughput_per_s > 0
    ratio, low, high = fused.speedup_over(eager)
    assert low <= ratio <= high or low == pytest.approx(high, rel=0.5)
    with pytest.raises(PenjingError, match=r"torch|onnx|missing"):
        measure([Subject(Form("gone", "onnxruntime", "none.onnx"), tmp_path)], encoded, threads=1)


def test_a_speedup_is_a_ratio_of_medians() -> None:
    slow, fast = Measurement(0.0, [[4.0, 6.0, 100.0]]), Measurement(0.0, [[1.0, 2.0, 3.0]])
    assert fast.speedup_over(slow) == (3.0, 3.0, 3.0)
