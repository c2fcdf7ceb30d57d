"""Chosen apart from reported: the evaluation labels are read by the report alone, and what is said is of what is shipped."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import rows_of, told, write_rows
from conftest import tiny_teacher
from reports import CHOICE, JUDGED, SHIPPED

from penjing.engines.clock.measure import Subject
from penjing.engines.clock.measurement import Measurement, Turn
from penjing.engines.clock.trial import Trial
from penjing.engines.opening import EngineKind
from penjing.files.run import RECORD
from penjing.job import proving
from penjing.job.asked import Budget, Job
from penjing.job.pipeline import compress
from penjing.job.proving import Further, Shipped
from penjing.job.recipe import Recipe
from penjing.report.record import OtherData, Overlap, Report
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.tasks.judging import PairedQuality
from penjing.tasks.sources import Reading, load_data
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.loop import Schedule

ONE_EPOCH = Recipe().with_(DistillSettings(schedule=Schedule(epochs=1)))
SEED = 5
OTHER = {"positive": "negative", "negative": "positive"}


def compressed(
    folder: Path, out: str, budget: Budget, recipe: Recipe = ONE_EPOCH, eval: str = "dev.jsonl", engine: EngineKind | None = "onnxruntime"
) -> Report:
    """The report of a run in `folder`; engine: None is every one."""
    data = load_data(str(folder / "teacher"), "classification", str(folder / "train.jsonl"), str(folder / eval), Reading(), str)
    return compress(Job(folder / "teacher", data, budget, recipe, folder / out, threads=1, engine=engine))


def contents(folder: Path) -> dict[str, bytes]:
    """Of every file but the card, which says how good the model is."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "README.md"
    }


def records(folder: Path) -> dict[str, Any]:
    """What each step left, but for the seconds that it took."""

    def untimed(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "seconds"}

    return {file.parent.name: json.loads(file.read_text(), object_hook=untimed) for file in sorted((folder / "steps").glob(f"*/{RECORD}"))}


def swapped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """With every label the other one."""
    return [row | {"label": OTHER[row["label"]]} for row in rows]


def of_one_length(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of eight words, so that no text stands in another."""
    return [row for row in rows_of("classification", 12 * count, seed) if len(row["text"].split()) == 8][:count]


TRAIN, EVAL = of_one_length(200, 1), of_one_length(40, 2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher that is wrong more often than not, its data, and the same evaluation data `swapped`; on a clock that is told."""
    monkeypatch.setattr(Trial, "measure", told)
    tiny_teacher(tmp_path / "teacher", "classification", seed=SEED)
    for name, rows in (("train", TRAIN), ("dev", EVAL), ("swapped", swapped(EVAL))):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


BUDGETS = {
    "a drop alone": Budget(max_drop=0.0),
    "a drop at most": Budget(max_drop=1.0, confidence=0.9),
    "a speed": Budget(speedup=4.0, max_drop=0.0),
    "a size": Budget(size_mb=0.06),
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_is_made_does_not_hang_on_the_evaluation_labels(budget: str, place: Path) -> None:
    """With every evaluation label the other one, a drop becomes a gain: all that was chosen by it would be chosen otherwise."""
    reports = {name: compressed(place, f"out-{name}", BUDGETS[budget], eval=f"{name}.jsonl") for name in ("dev", "swapped")}
    one, other = (place / f"out-{name}" for name in reports)
    assert contents(one / "model") == contents(other / "model") and contents(one / "engine") == contents(other / "engine")
    made, again = records(one), records(other)
    assert made.keys() == again.keys()
    assert [name for name in made if made[name] != again[name]] == [name for name in made if name.endswith(("-baseline", "-verify"))]
    first, second = reports["dev"], reports["swapped"]
    assert first.result.judged.quality == pytest.approx(100 - second.result.judged.quality)
    assert first.result.judged.drop == pytest.approx(-second.result.judged.drop)
    assert BUDGETS[budget].max_drop is None or not BUDGETS[budget].unbounded or abs(first.result.judged.drop) > 2
    assert first.held_out == second.held_out and first.result.temperature == second.result.temperature


def test_what_is_made_hangs_on_the_labels_of_the_texts_held_out(place: Path) -> None:
    """So the law above can fail: where the training labels are the other ones, another depth is taken."""
    own = compressed(place, "out", Budget(max_drop=0.0))
    write_rows(place / "train.jsonl", swapped(TRAIN))
    other = compressed(place, "other", Budget(max_drop=0.0))
    assert own.blueprint and other.blueprint and len(own.blueprint.layers) < len(other.blueprint.layers)


# -- what is said --------------------------------------------------------------------------------------------------


def busy(self: Trial, subjects: Sequence[Subject], encoded: Encoded, *given: Any, **options: Any) -> list[Measurement]:
    """The told clock, of turns that other work disturbed."""
    found = told(self, subjects, encoded, *given, **options)
    return [replace(each, turns=[replace(turn, load="others were busy") for turn in each.turns]) for each in found]


QUICK = Recipe.of(QuantizeSettings(scheme="static"))


def test_on_a_busy_machine_no_speed_up_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = compressed(place, "quiet", Budget(), QUICK).result
    assert quiet.speedup_vs_eager is not None
    assert quiet.figures.steady and quiet.speedup_range[0] <= quiet.speedup_vs_eager <= quiet.speedup_range[1]
    monkeypatch.setattr(Trial, "measure", busy)
    report = compressed(place, "busy", Budget(latency_ms=1e3), QUICK)
    result = report.result
    assert (result.figures.steady, result.speedup_vs_eager, result.disturbance) == (False, None, "others were busy")
    assert result.figures.latency_ms == quiet.figures.latency_ms and report.met is True


def test_the_shipped_form_is_measured_alone_against_eager_and_its_figures_are_of_that(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the run of all forms everything takes ten times as long: that is said of the rivals, not of what is shipped."""
    alone: list[list[str]] = []

    def measure(self: Trial, subjects: Sequence[Subject], *given: Any, **options: Any) -> list[Measurement]:
        if options.get("rounds") == proving.ROUNDS:
            alone.append([subject.form.name for subject in subjects])
            return told(self, subjects, *given, **options)
        found = told(self, subjects, *given, **options)
        return [replace(each, turns=[Turn(t.round, [10 * ms for ms in t.ms], t.end_to_end_ms) for t in each.turns]) for each in found]

    expected = compressed(place, "even", Budget(), QUICK, engine=None)
    monkeypatch.setattr(Trial, "measure", measure)
    report = compressed(place, "slow", Budget(), QUICK, engine=None)
    result, others = report.result, [form for form in report.forms if not form.chosen]
    assert alone == [["torch eager", result.form]] * proving.PROCESSES
    assert result.figures.latency_ms == expected.result.figures.latency_ms and result.speedup_vs_eager == expected.result.speedup_vs_eager
    assert report.baselines["torch_eager"].figures.latency_ms == expected.baselines["torch_eager"].figures.latency_ms
    slow = {form.name: form.figures.latency_ms for form in expected.forms}
    assert others and all(form.figures.latency_ms == pytest.approx(10 * slow[form.name]) for form in others)
    assert result.figures.throughput_per_s is not None  # of the run of all, for alone none is measured


def test_evaluation_rows_that_are_training_rows_are_counted(place: Path) -> None:
    same = [row | {"text": row["text"].upper()} for row in TRAIN[:5]]
    write_rows(place / "seen.jsonl", [*same, {"text": "paris london bank river", "label": "positive"}])
    overlap = compressed(place, "out", Budget(), QUICK, eval="seen.jsonl").overlap
    assert overlap == Overlap(5, 0, 6)


def test_further_data_are_judged_each_in_its_own_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def judge_pair(task: Any, *given: Any) -> PairedQuality:
        seen.append(given)
        return JUDGED

    def opened(form: Any, folder: Path, threads: int) -> Any:
        return SimpleNamespace(logits=lambda encoded: (form.name, folder.name, encoded))

    monkeypatch.setattr(proving, "open_engine", opened)
    monkeypatch.setattr(proving, "judge_pair", judge_pair)
    before, after = (Examples(encoded, ["good film"], ["positive"], [[]], 0) for encoded in ("before", "after"))  # type: ignore[arg-type]
    trial, reference, form = (
        SimpleNamespace(task=None, threads=1),
        SimpleNamespace(folder=Path("teacher")),
        replace(SHIPPED, name="shipped"),
    )
    shipped = Shipped(Path("engine"), replace(CHOICE, chosen=form), after, [])
    found = proving.on_other_data(trial, reference, shipped, Further("a/b.jsonl", before, after), after)  # type: ignore[arg-type]
    assert seen == [(after, ("shipped", "engine", "after"), before, ("torch eager", "teacher", "before"))]
    assert found == OtherData("b.jsonl", JUDGED, Overlap(1, 0, 1))
