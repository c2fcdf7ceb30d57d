"""A job whose texts leave early: thresholds from texts held out, the form chosen like the others, the figures, and serving without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import told
from conftest import tiny_teacher
from shop import Shop

from penjing.engines.clock.measure import Subject
from penjing.engines.clock.measurement import Measurement, Turn
from penjing.engines.clock.trial import Trial
from penjing.engines.exits import NEVER, Leaving, Trace
from penjing.errors import InputError
from penjing.files.records import from_json
from penjing.job import api
from penjing.job.by_hand import Leaving as LeavingOptions
from penjing.job.leaving import at, threshold_for
from penjing.job.reading import read_recipe
from penjing.job.recipe import Recipe
from penjing.maths.exits import RULES
from penjing.report.record import Report
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.bits.store import StoreSettings
from penjing.steps.cut.prune import PruneSettings
from penjing.steps.teach.distill import DistillSettings
from penjing.steps.teach.exits import ExitsSettings
from penjing.tasks.judging import quality_of
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.loop import Schedule

FAST = DistillSettings(Schedule(epochs=1), losses={"kl": 1.0})


def quick(self: Trial, subjects: Any, encoded: Encoded, inputs: Any = None, **more: Any) -> list[Measurement]:
    """In place of `Trial.measure`: whoever leaves early is ten times as fast."""
    found = told(self, subjects, encoded, inputs, **more)
    for subject, measurement in zip(subjects, found, strict=True):
        assert isinstance(subject, Subject)
        if subject.form.engine == "exits":
            measurement.turns = [Turn(turn.round, [ms / 10 for ms in turn.ms], turn.end_to_end_ms) for turn in measurement.turns]
    return found


@pytest.mark.parametrize("rule", RULES)
def test_thresholds_lose_no_more_than_is_allowed_and_more_is_faster(rule: str) -> None:
    random = np.random.default_rng(0)
    task, count = Classification(("no", "yes")), 300
    gold = random.integers(0, 2, count)
    signal = np.stack([gold * 2 - 1 + random.normal(size=count) * noise for noise in (2.0, 1.0, 0.3)], axis=1)
    logits = np.stack([-signal, signal], axis=-1).astype(np.float32)
    first = np.repeat(signal[:, :2, None], 4, axis=2).astype(np.float32)
    trace = Trace(logits, first)
    means = np.array([[[-1.0] * 4, [1.0] * 4]] * 2, np.float32)
    scores = trace.scores(Leaving((1, 2, 3), rule, NEVER, means))
    texts = Examples(Encoded.of([[1]] * count, [[0]] * count), [""] * count, [task.labels[i] for i in gold], [[]] * count, 0)
    whole = quality_of(task, texts, list(logits[:, -1]))
    thresholds = [threshold_for(task, texts, trace, scores, drop) for drop in (0.0, 1.0, 5.0, 100.0)]
    assert thresholds == sorted(thresholds) and thresholds[-1] == scores.max()
    for drop, threshold in zip((0.0, 1.0, 5.0, 100.0), thresholds, strict=True):
        assert whole - quality_of(task, texts, list(at(trace, scores, threshold))) <= drop + 1e-9
    wrong = replace_last(trace)
    assert threshold_for(task, texts, wrong, scores, 0.0) >= thresholds[0]


def replace_last(trace: Trace) -> Trace:
    """The same with a last head that is always wrong: then leaving loses nothing."""
    logits = trace.logits.copy()
    logits[:, -1] = -logits[:, -1]
    return Trace(logits, trace.first)


def test_the_form_that_leaves_early_is_measured_chosen_and_served_without_torch(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "measure", quick)
    report: Report = shop.compress(recipe=Recipe.of(FAST, ExitsSettings(drop=100.0), QuantizeSettings()), max_drop=100)
    result = report.result
    assert result.engine == "exits" and result.form.endswith("int8, exits") and report.met
    assert result.left is not None and result.left.layers == (1, 2) and sum(result.left.texts) == 24
    assert result.left.texts[0] == 24 and result.left.mean_layers == 1.0 and result.left.threshold >= 0
    assert result.figures.latency_mean_ms == pytest.approx(result.figures.latency_ms)
    assert from_json(Report, json.loads((shop.out / "report.json").read_text()), "report") == report
    page = (shop.out / "report.html").read_text()
    assert "Leaving early" in page and "entropy" in page
    model = json.loads((shop.out / "model" / "config.json").read_text())
    assert "Easy texts leave early: of the 24 evaluation texts 24 after layer 1" in (shop.out / "model" / "README.md").read_text()
    assert model["exits"] == [1] and (shop.out / "model" / "modeling_penjing.py").is_file()
    code = (
        "import json, sys, penjing\nanswers = penjing.load(sys.argv[1], threads=1)(['good film', 'bad'])\n"
        "assert not {'torch', 'transformers', 'onnx'} & set(sys.modules), 'too much is imported'\nprint(json.dumps(answers))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(shop.out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == shop.answers(["good film", "bad"])


def test_beside_packed_graphs_the_segments_are_written_out(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "measure", quick)
    report: Report = shop.compress(recipe=Recipe.of(FAST, ExitsSettings(drop=100.0), StoreSettings("linear", 8)), engine="onnxruntime")
    assert report.result.engine == "exits" and (shop.out / "model" / "packed.safetensors").is_file()
    assert {"weights.safetensors", "exits-float32.json"} & {file.name for file in (shop.out / "engine").iterdir()}
    assert len(shop.answers(["good film"])) == 1


def test_a_recipe_in_yaml_says_where_exits_stand(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("- distill\n- exits: {layers: '2,4', rule: patience, drop: 1, frozen: true}\n- quantize\n")
    exits = read_recipe(tmp_path / "recipe.yaml").get(ExitsSettings)
    assert exits == ExitsSettings("2,4", "patience", 1.0, frozen=True)


def test_a_model_that_is_taught_again_without_exits_loses_them(shop: Any) -> None:
    shop.compress(recipe=Recipe.of(FAST, ExitsSettings()))
    again = Shop(shop.folder / "again")
    taught = DistillSettings(Schedule(epochs=1), losses={"hard": 1.0})
    report = again.compress(teacher=shop.out / "model", recipe=Recipe.of(taught))
    assert report.teacher_blueprint.exits == (1,) and report.blueprint is not None and report.blueprint.exits == ()
    assert json.loads((again.out / "model" / "config.json").read_text())["model_type"] == "bert"


def test_where_leaving_is_no_faster_another_form_is_shipped(shop: Any) -> None:
    report: Report = shop.compress(recipe=Recipe.of(FAST, ExitsSettings()), max_drop=100)
    assert report.result.engine != "exits" and report.result.left is None
    assert any(row.engine == "exits" for row in report.forms)
    assert "Leaving early" not in (shop.out / "report.html").read_text()


def test_a_student_that_was_cut_leaves_early_in_float32_too(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "measure", quick)
    recipe = Recipe.of(PruneSettings(neurons=0.5, importance="magnitude"), FAST, ExitsSettings("1", "prototypes", 100.0))
    report: Report = shop.compress("pair", recipe=recipe, engine="onnxruntime")
    assert report.result.form.endswith("float32, exits") and report.blueprint is not None and report.blueprint.exits == (1,)
    assert [row.own for row in report.shapes] == [True]


def test_what_cannot_leave_early_is_refused(tmp_path: Path) -> None:
    given: dict[str, Any] = {"train": [{"tokens": ["a"], "tags": ["O"]}] * 40, "threads": 1, "wait": 0}
    with pytest.raises(InputError, match="a text leaves early as a whole"):
        api.exits(tiny_teacher(tmp_path / "tags", "tagging"), tmp_path / "out", task="tagging", **given)
    given["train"] = [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}] * 30
    with pytest.raises(InputError, match="from 1 to 1"):
        api.exits(tiny_teacher(tmp_path / "texts"), tmp_path / "out", task="classification", layers="2", **given)
    with pytest.raises(InputError, match="ONNX Runtime alone"):
        api.exits(tmp_path / "texts", tmp_path / "out", task="classification", engine="openvino", **given)


def test_by_hand_the_drop_that_is_asked_sets_the_threshold() -> None:
    assert [LeavingOptions().recipe(drop).get(ExitsSettings).drop for drop in (None, 0.0, 2.0)] == [0.5, 0.0, 2.0]  # type: ignore[union-attr]
    assert [step.name for step in LeavingOptions(float32=True).recipe().steps] == ["distill", "exits"]
