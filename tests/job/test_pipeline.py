"""The main job from the command line, on a tiny teacher: whole, killed at each step, resumed, reloaded, refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import Clock, ended, kill, prepare, refused, rows_of, run, start, write_rows
from hypothesis import given
from hypothesis import strategies as st
from reports import CHOICE

import penjing
from penjing.engines.clock.machine import Machine
from penjing.engines.description import Description
from penjing.job import pipeline, proving
from penjing.job.asked import Budget
from penjing.job.gates import APART
from penjing.job.pipeline import DEPTHS, Attempt
from penjing.job.planning import Undecided
from penjing.job.product import EncoderProduct
from penjing.job.recipe import Recipe
from penjing.model.checkpoint import open_checkpoint
from penjing.report.record import ChosenQuality
from penjing.steps.stage import Context
from penjing.steps.teach.teaching import Material

REPORT_KEYS = {
    "task", "metric", "workload", "machine", "versions", "seed", "teacher", "baselines", "result", "gates", "steps", "blueprint",
}  # fmt: skip
STEPS = ["baseline", "observe", "plan", "prune", "distill", "quantize", "export", "choose", "verify"]
# A drop alone is asked, so that the plan (half of the layers) does not hang on times.
OPTIONS = ["--threads", "1", "--max-drop", "100", "--epochs", "1", "--max-length", "32"]


def compressed(given: list[str], out: Path, *options: str, engine: Sequence[str] = ("--engine", "onnxruntime")) -> dict[str, Any]:
    """The report."""
    report: dict[str, Any] = json.loads(run("compress", *given, "--out", out, "--threads", "1", *options, *engine, "--json"))
    return report


def named(report: dict[str, Any]) -> list[str]:
    return [step["name"] for step in report["steps"]]


@pytest.mark.parametrize(("task", "clock"), [("pair", "real"), ("tagging", "told")])
def test_the_whole_job(tmp_path: Path, task: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proving, "PROCESSES", 1)
    given = prepare(tmp_path, task)
    out, dev = tmp_path / "out", tmp_path / "dev.jsonl"
    given += ["--engine", "onnxruntime"] if clock == "real" else []  # fewer processes to time
    printed = json.loads(run("compress", *given, "--out", out, *OPTIONS, "--test", dev, "--json", clock=clock))
    report = json.loads((out / "report.json").read_text())
    assert printed == report and report.keys() >= REPORT_KEYS
    assert set(report["baselines"]) >= {"torch_eager", "onnxruntime_int8", "openvino_int8"}
    result = report["result"]
    assert result.keys() >= {
        "quality", "drop", "drop_ci95", "latency_ms", "throughput_per_s", "bytes", "parameters", "speedup_vs_eager", "engine",
    }  # fmt: skip
    assert (result["speedup_vs_eager"] is None) == (not result["steady"])
    assert named(report) == STEPS and report["met"] == all(gate["passed"] for gate in report["gates"] if gate["decides"])
    # What the forms are chosen by is of texts held out; on the evaluation data, quality is said of the chosen one alone.
    assert all(form.keys() >= {"held_out_quality", "loss", "fit", "latency_ms"} for form in report["forms"])
    assert [form["name"] for form in report["forms"] if "quality" in form] == [result["form"]]
    assert report["held_out"]["examples"] + report["overlap"]["examples"] < 60 + 24 and report["overlap"]["examples"] == 24
    assert "<html" in (out / "report.html").read_text()
    assert (out / "engine" / "model.onnx").is_file() and not (out / "partial").exists()
    again = json.loads(run("eval", out, "--data", dev, "--teacher", tmp_path / "teacher", "--json"))
    assert again["quality"] == pytest.approx(result["quality"]) == pytest.approx(report["tests"][0]["quality"])
    assert again["drop"] == pytest.approx(result["drop"])


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_one_engine_alone(tmp_path: Path, engine: str) -> None:
    report = compressed(
        prepare(tmp_path, "classification"), tmp_path / "out", "--size-mb", "5", "--no-training", engine=("--engine", engine)
    )
    assert report["met"] and report["result"]["engine"] == engine
    assert {form["engine"] for form in report["forms"]} == {engine}
    assert report["blueprint"]["bits"] == (32 if engine == "torch" else 8)
    shipped = {form.engine for form in Description.read(tmp_path / "out" / "engine").forms}
    parity = {gate["name"].split(", ")[1] for gate in report["gates"] if gate["name"].startswith("float32 parity")}
    assert shipped <= parity  # nothing is there to be loaded that was not held against the model
    again = json.loads(run("eval", tmp_path / "out", "--data", tmp_path / "dev.jsonl", "--engine", engine, "--json"))
    assert again["quality"] == pytest.approx(report["result"]["quality"])


def test_killed_at_each_step_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    given = [*prepare(tmp_path, "classification"), *OPTIONS, "--epochs", "2", "--engine", "onnxruntime", "--json"]
    whole = json.loads(run("compress", *given, "--out", tmp_path / "whole"))
    out, steps = tmp_path / "killed", tmp_path / "killed" / "steps"
    for number, name in enumerate(STEPS, 1):
        kill(f"{number:02d}-{name}", out, "compress", *given)
        done = sorted(path.name for path in steps.glob("[0-9]*"))
        assert done == [f"{i:02d}-{step}" for i, step in enumerate(STEPS, 1)][: len(done)] and len(done) >= number - 1
        assert not (out / "report.json").exists()
    resumed = json.loads(run("compress", *given, "--out", out))
    assert len(resumed["blueprint"]["layers"]) == 1
    for part in ("blueprint", "kept_layers", "held_out"):
        assert resumed[part] == whole[part]
    assert resumed["result"]["float_quality"] == whole["result"]["float_quality"]
    for file in ("model/model.safetensors", "engine/model.onnx", "engine/engine.json"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list(out.rglob("*.tmp"))


# -- what is asked -------------------------------------------------------------------------------------------------


def test_where_nothing_is_asked_nothing_is_cut_or_trained(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    status, said, _ = ended("compress", *given, "--out", tmp_path / "out", "--threads", "1")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert status == 0 and report["met"] is None and said.startswith("nothing was asked, so nothing was cut")
    assert named(report) == ["baseline", "quantize", "export", "choose", "verify"] and report["kept_layers"] == [0, 1]
    assert open_checkpoint(tmp_path / "out" / "model").blueprint == open_checkpoint(tmp_path / "teacher").blueprint


def test_a_plan_that_keeps_everything_is_not_taught_by_itself(tmp_path: Path) -> None:
    report = compressed(prepare(tmp_path, "classification"), tmp_path / "out", "--size-mb", "5", "--epochs", "1")
    assert report["met"] is True
    assert named(report) == ["baseline", "observe", "plan", "quantize", "export", "choose", "verify"]


def test_a_speed_up_is_planned_for_and_met(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    whole = compressed(given, tmp_path / "whole", "--max-drop", "100", "--recipe", str(untouched(tmp_path)))["result"]["speedup_vs_eager"]
    report = compressed(given, tmp_path / "out", "--speedup", str(1.2 * whole), "--epochs", "1")
    assert report["met"] is True and report["result"]["speedup_vs_eager"] >= 1.2 * whole
    assert named(report) == STEPS and report["blueprint"]["layers"] != report["teacher_blueprint"]["layers"]


def untouched(folder: Path) -> Path:
    """A recipe that neither cuts nor trains."""
    recipe = folder / "recipe.yaml"
    recipe.write_text("prune: false\ndistill: false\n")
    return recipe


def test_an_impossible_budget_is_said_and_the_best_is_kept(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    last = refused("compress", *given, "--out", tmp_path / "out", "--threads", "1", "--speedup", "5000", "--epochs", "1", status=3)
    assert last.startswith("penjing: the budget was not met: speedup")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["met"] is False and (tmp_path / "out" / "model" / "config.json").is_file()


def test_another_question_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text('{"seed": 9}')
    assert "was asked otherwise" in refused("compress", *given, "--out", tmp_path / "out", *OPTIONS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    assert "is not empty and holds no run" in refused("compress", *given, "--out", tmp_path / "full", *OPTIONS)


def test_what_another_version_or_processor_left_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*prepare(tmp_path, "classification"), "--threads", "1", "--recipe", str(untouched(tmp_path))]
    run("compress", *given, "--out", tmp_path / "out")
    run("compress", *given, "--out", tmp_path / "out")
    for name, value in (("versions", dict), ("machine", lambda: Machine("another", 1, 1.0, "another", ()))):
        with monkeypatch.context() as patch:
            patch.setattr(f"penjing.job.starting.{name}", value)
            said = refused("compress", *given, "--out", tmp_path / "out")
        assert f"was asked otherwise ({'processor' if name == 'machine' else name})" in said


def test_training_texts_need_no_labels(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    write_rows(tmp_path / "train.jsonl", [{"text": row["text"]} for row in rows_of("classification", 60, 60)])
    report = compressed(given, tmp_path / "out", *OPTIONS[2:])
    assert named(report) == STEPS and report["met"] is True
    # The teacher's answers stand for labels: against them it loses nothing on texts held out, and the result what it loses.
    assert report["held_out"]["drop"] == pytest.approx(100 - next(f for f in report["forms"] if f["chosen"])["held_out_quality"])
    assert report["scores"]["temperature"] == 1.0  # how often the teacher is agreed with is not how often an answer is right


# -- what may be shipped -------------------------------------------------------------------------------------------


def test_where_no_form_computes_what_the_model_does_none_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncoderProduct, "differences", lambda *given: {"onnxruntime": 0.5, "openvino": 2.0})
    given, out = [*prepare(tmp_path, "classification"), "--recipe", str(untouched(tmp_path))], tmp_path / "out"
    last = refused("compress", *given, "--out", out, "--threads", "1", "--max-drop", "100", status=3)
    assert "parity: no form computes what the model does (its logits differ by onnxruntime 0.5, openvino 2; allowed is 0.001)" in last
    assert open_checkpoint(out / "model").blueprint == open_checkpoint(tmp_path / "teacher").blueprint and "--engine" in last
    assert not (out / "engine").exists() and not (out / "report.json").exists()


@pytest.mark.parametrize("by_hand", [False, True])
def test_where_the_integers_are_not_those_that_were_meant_floats_are_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    measured = EncoderProduct.apart
    monkeypatch.setattr(EncoderProduct, "apart", lambda *given: dict.fromkeys(measured(*given), 10 * APART))
    recipe = untouched(tmp_path)
    if by_hand:
        recipe.write_text("prune: {layers: 1}\ndistill: false\n")
    given, out = [*prepare(tmp_path, "classification"), "--recipe", str(recipe)], tmp_path / "out"
    report = compressed(given, out, "--max-drop", "100", engine=())
    assert len(report["blueprint"]["layers"]) == (1 if by_hand else 2) and bool(report["shapes"]) == by_hand
    assert report["met"] is True and report["result"]["form"].endswith("float32") and report["blueprint"]["bits"] == 32
    assert report["result"]["kernels"] is None and report["result"]["quality"] == pytest.approx(report["result"]["float_quality"])
    shipped = Description.read(out / "engine").forms
    assert {form.file for form in shipped} <= {"float32.onnx", "fused-float32.onnx"}
    assert (out / "engine" / "float32.onnx").is_file() and not (out / "engine" / "model.onnx").exists()
    for engine in ("onnxruntime", "openvino"):
        assert penjing.load(out, engine=engine, threads=1)(["good film"])[0]["label"] in ("negative", "positive")
    failed = [gate for gate in report["gates"] if not gate["passed"]]
    assert failed and not any(gate["decides"] for gate in failed)


# -- the depth -----------------------------------------------------------------------------------------------------


def best_of(drops: list[float | None], budget: Budget, lost: str) -> tuple[int, int]:
    """Which attempt is taken where they lose so much (None: no form may be shipped), and how many were made."""
    made: list[Attempt] = []
    nothing: Any = None  # what no attempt is made of here

    def attempt(job: Any, stages: Any, work: Any, context: Context, reference: Any, trial: Any) -> Attempt:
        assert context.depth == DEPTHS[len(made)] and context.suffix == (f"-{len(made) + 1}" if made else "")
        assert [stage.name for stage in stages] == ["plan", "prune", "distill", "quantize"]
        drop = drops[len(made)]
        quality = None if drop is None else replace(ChosenQuality(95.0, -1.0, 1e3, 1.0), **{lost: drop})
        made.append(Attempt(work, nothing, Path(), replace(CHOICE, chosen=CHOICE.chosen if quality else None, held_out=quality)))
        return made[-1]

    def shared(stages: Any, work: Any, context: Context) -> None:
        assert [stage.name for stage in stages] == ["observe"] and not made  # once for all of them

    job: Any = SimpleNamespace(budget=budget, recipe=Recipe())
    context = Context(nothing, nothing, Path(), nothing, [], Recipe().steps, Material(), 0, True, Undecided(), to_budget=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "attempt", attempt)
        patch.setattr(pipeline, "carried_out", shared)
        taken = pipeline.best_attempt(job, context, nothing, nothing, nothing)
    return next(i for i, each in enumerate(made) if each is taken), len(made)


LOST = st.lists(st.none() | st.floats(-5, 20), min_size=len(DEPTHS), max_size=len(DEPTHS))


@given(LOST, st.sampled_from([None, 0.95]))
def test_the_first_depth_that_keeps_the_quality_is_taken_else_the_one_that_lost_least(
    drops: list[float | None], confidence: float | None
) -> None:
    """With a confidence, by what may have been lost, else by what was; a depth of which nothing may be shipped is the last resort."""
    taken, tried = best_of(drops, Budget(max_drop=2.0, confidence=confidence), "drop_at_most" if confidence else "drop")
    enough = [i for i, drop in enumerate(drops) if drop is not None and drop <= 2]
    shipped = [drop for drop in drops if drop is not None]
    if enough:
        assert (taken, tried) == (enough[0], enough[0] + 1)
    else:
        assert tried == len(DEPTHS) and (not shipped or drops[taken] == min(shipped))


# -- where it is written, and served -------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        given = prepare(tmp_path, "classification")
        process = start("compress", *given, "--out", str(disk / "out"), *OPTIONS)
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 2 and error.strip().splitlines()[-1].startswith("penjing: the disk is full")
        assert not list(disk.rglob("*.tmp")) and not list(disk.rglob("report*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SERVE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "datasets", "accelerate"):
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
import penjing
for engine in ("onnxruntime", "openvino"):
    model = penjing.load(sys.argv[1], engine=engine, threads=1)
    answers = model(["good film", "a bad bad film"])
    assert [sorted(answer) for answer in answers] == [["label", "score"]] * 2, answers
    print(engine, answers[0]["label"])
"""


def test_serving_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    given = prepare(tmp_path, "classification")
    run("compress", *given, "--out", tmp_path / "out", "--threads", "1", "--recipe", untouched(tmp_path))
    done = subprocess.run([sys.executable, "-c", SERVE, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[::2] == ["onnxruntime", "openvino"]
