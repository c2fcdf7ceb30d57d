"""The commands as a person types them, on a tiny model."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from conftest import tiny_teacher

from penjing import cli
from penjing.cli import view
from penjing.engines.clock.machine import machine
from penjing.engines.clock.measurement import Figures
from penjing.job.evaluation import Benchmark, BenchRow
from penjing.tasks.sources import load_data
from penjing.text.reading import Reading
from penjing.training.finetune import Split


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_teacher(tmp_path / "teacher", "sequence")
    rows = [{"text": "good film", "label": "positive"}, {"text": "bad film", "label": "negative"}] * 12
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def _run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    monkeypatch.setattr(sys, "argv", ["penjing", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    captured = capsys.readouterr()
    assert caught.value.code == status, captured.err
    return captured.err if status else captured.out


def test_train_writes_a_plain_model_and_never_over_another(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"text": f"{article} {noun} was {adverb} {word}", "label": label}
        for article in ("the", "a", "this")
        for noun in ("film", "plot", "song", "food", "room")
        for adverb in ("very", "too", "never", "always")
        for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--model", place / "teacher", "--task", "classification", "--train", place / "train.jsonl", "--eval", place / "data.jsonl")
    command = ("train", *given, "--out", place / "trained")
    printed = json.loads(_run(monkeypatch, capsys, *command, "--epochs", 30, "--learning-rate", "3e-3", "--json"))
    assert printed["quality"] > 90 and printed["held_out"] == {"examples": 12, "quality": 100.0}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place / "trained")
    assert type(model).__name__ == "BertForSequenceClassification" and model.config.id2label == {0: "negative", 1: "positive"}
    assert not [*place.glob(".*"), *(place / "trained").glob(".*")]
    assert "is not empty and holds no run that could go on" in _run(monkeypatch, capsys, *command, status=2)
    again = json.loads(_run(monkeypatch, capsys, "eval", place / "trained", "--data", place / "data.jsonl", "--json"))
    assert again["quality"] == 100.0


@pytest.mark.parametrize("count", [4, 24, 400])
def test_what_the_best_weights_are_chosen_by_is_what_compress_judges_by_and_is_not_learned(
    count: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"film {i}", "label": ("positive", "negative")[i % 2]} for i in range(count)]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen: list[Any] = []

    def finetune(model: str, task: Any, split: Split, *given: Any, **options: Any) -> tuple[Any, float]:
        seen.extend((split.train.inputs, split.dev.inputs))
        return SimpleNamespace(best=0.0, steps=0, seconds=0.0), 0.0

    monkeypatch.setattr("penjing.job.api.finetune", finetune)
    given = ("--model", place / "teacher", "--task", "classification", "--train", place / "train.jsonl", "--eval", place / "data.jsonl")
    _run(monkeypatch, capsys, "train", *given, "--out", place / "trained")
    train, dev = seen
    data = load_data(str(place / "teacher"), "classification", str(place / "train.jsonl"), str(place / "data.jsonl"), Reading(), str)
    assert dev == [data.train.inputs[i] for i in data.sides.judging] and dev
    assert not set(train) & set(dev) and len(train) + len(dev) == count


def test_eval_against_a_teacher_lists_what_flipped(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_teacher(place / "other", "sequence", seed=3)
    said = _run(monkeypatch, capsys, "eval", place / "other", "--data", place / "data.jsonl", "--teacher", place / "teacher")
    assert "points lost, and at most (95 %)" in said and "flipped: " in said and "scores: expected calibration error" in said
    command = ("eval", place / "other", "--data", place / "data.jsonl", "--teacher", place / "teacher", "--metric", "f1", "--json")
    report = json.loads(_run(monkeypatch, capsys, *command))
    assert report["metric_said"] == "F1 of 'positive': it is the positive of positive / negative"
    low, high = report["drop_ci95"]
    assert low < report["drop"] < high == report["drop_at_most"]
    assert {row["label"] for row in report["flipped"]["by_label"]} == {"negative", "positive"}


def test_a_label_that_flips_more_than_chance_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_teacher(place / "swapped", "sequence", ("positive", "negative"))
    said = _run(monkeypatch, capsys, "eval", place / "teacher", "--data", place / "data.jsonl", "--teacher", place / "swapped")
    assert " of 12 (p = 0.00" in said
    refused = _run(monkeypatch, capsys, "eval", place / "teacher", "--data", place / "data.jsonl", "--metric", "entity-f1", status=2)
    assert "does not fit classification; allowed are accuracy, macro-f1, f1, mcc" in refused


def test_the_metric_is_said_or_refused_before_anything_is_trained(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "good film", "label": "sports"}, {"text": "bad film", "label": "politics"}] * 12
    (place / "news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("train", "--model", place / "teacher", "--task", "classification", "--train", place / "news.jsonl", "--out", place / "news")
    said = _run(monkeypatch, capsys, *command, "--metric", "f1", status=2)
    assert "politics / sports do not say which is; give --positive" in said and not (place / "news").exists()
    told: list[str] = []
    reading = Reading(metric="f1", positive="sports")
    load_data(str(place / "teacher"), "classification", str(place / "news.jsonl"), "", reading, told.append, new_labels=True)
    assert "F1 of 'sports': as was asked" in told


def test_a_teacher_with_its_labels_in_another_order_is_understood(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_teacher(place / "swapped", "sequence", ("positive", "negative"))  # the same weights, so every answer is the other one
    command = ("eval", place / "teacher", "--data", place / "data.jsonl", "--teacher", place / "swapped", "--json")
    report = json.loads(_run(monkeypatch, capsys, *command))
    assert report["teacher_quality"] == pytest.approx(100 - report["quality"])
    assert report["flipped"]["worse"] + report["flipped"]["better"] == 24


def test_bench_measures_side_by_side(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("bench", place / "teacher", place / "teacher", "--data", place / "data.jsonl", "--threads", 1, "--rounds", 1)
    report = json.loads(_run(monkeypatch, capsys, *command, "--json"))
    assert [row["form"] for row in report["results"]] == ["torch eager"] * 2
    first, second = report["results"]
    assert first["speedup"] == (1.0 if first["steady"] else None)
    assert second["steady"] == (not second["disturbance"]) and (second["speedup"] is None or first["steady"])
    assert min(second[name] for name in ("latency_ms", "end_to_end_ms", "throughput_per_s", "cold_start_s")) > 0
    name = str(place / "teacher")
    table = _run(monkeypatch, capsys, "bench", *command[2:]).splitlines()
    assert table[0] == f"1: {name}, torch eager" and table[2].split() == [*view.COLUMNS[1].split(), *view.COLUMNS[2:-2], "start", "s", "MB"]
    assert table[3].startswith("1  ") and max(map(len, table[1:4])) <= 80


def test_a_table_holds_in_80_columns_and_cuts_no_name() -> None:
    name = "models/" + "a-long-name-" * 20
    figures = Figures(123.456, 234.5, 345.6, None, 12345.6, 12.3, 0.3, 1234.5, True)
    row = BenchRow(f"{name}\x1b", "onnxruntime fused int8", figures, "", 12.345, (0.998, 12.3))
    busy = replace(row, speedup=None, disturbance="other work took half of a processor")
    lines = view._bench_text(Benchmark(2, 1, 24.0, 44.0, machine(), {}, (row, busy))).splitlines()
    title = "batch 1, 2 threads, 24 tokens (median); faster than row 1"
    assert lines[:3] == [f"1: {name}\\x1b, onnxruntime fused int8", f"2: {name}\\x1b, onnxruntime fused int8", title]
    header, first, second, unsteady = lines[3:]
    assert len(header) == len(first) == len(second) <= 80 and "0.998-12.3" in first and "12.35x" in first and "  -  " in second
    assert unsteady.startswith("2 is not steady") and unsteady.endswith("half of a processor")


def test_inspect_draws_every_layer(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blueprint = json.loads(_run(monkeypatch, capsys, "inspect", place / "teacher", "--json"))
    assert blueprint["blueprint"]["layers"] == [[2, 64], [2, 64]] and blueprint["parameters"] > 0
    assert _run(monkeypatch, capsys, "inspect", place / "teacher").count("64") >= 2
