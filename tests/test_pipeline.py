"""The main job from the command line, on a tiny teacher: whole, killed at each step, resumed, reloaded, refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_teacher

WORDS = ("good", "bad", "film", "not", "a")
REPORT_KEYS = {
    "task", "metric", "workload", "machine", "versions", "seed", "teacher", "baselines", "result", "gates", "steps", "blueprint",
}  # fmt: skip
STEPS = ["baseline", "observe", "plan", "prune", "distill", "quantize", "export", "choose", "verify"]
# A drop alone is asked, so that the plan (half of the layers) does not hang on measured times.
OPTIONS = ["--threads", "1", "--max-drop", "100", "--epochs", "1", "--max-length", "32"]


def _rows(task: str, count: int, seed: int) -> list[dict[str, object]]:
    random = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        words = [str(word) for word in random.choice(WORDS, random.integers(2, 9))]
        label = "positive" if words.count("good") >= words.count("bad") else "negative"
        if task == "pair":
            rows.append({"text_a": " ".join(words), "text_b": "film", "label": label})
        elif task == "tagging":
            rows.append({"tokens": words, "tags": ["B-x" if word == "good" else "O" for word in words]})
        else:
            rows.append({"text": " ".join(words), "label": label})
    return rows


def _prepare(folder: Path, task: str) -> list[str]:
    tiny_teacher(folder / "teacher", task, ("O", "B-x") if task == "tagging" else ())
    for name, count in (("train", 60), ("dev", 24)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(task, count, count)))
    return ["--model", str(folder / "teacher"), "--task", task, "--train", str(folder / "train.jsonl"), "--eval", str(folder / "dev.jsonl")]


def _start(*arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "penjing.cli", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def _run(*arguments: str, status: int = 0) -> str:
    process = _start(*arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out if status == 0 else err


def _kill(step: str, out: Path, *arguments: str) -> None:
    """Start the command and kill it as soon as it works on this step."""
    process, steps = _start(*arguments, "--out", str(out)), out / "steps"
    deadline = time.monotonic() + 120
    while not [*steps.glob(f".{step}.*.tmp"), *steps.glob(step)]:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("task", ["pair", "tagging"])
def test_the_whole_job(tmp_path: Path, task: str) -> None:
    given = _prepare(tmp_path, task)
    out = tmp_path / "out"
    printed = json.loads(_run("compress", *given, "--out", str(out), *OPTIONS, "--test", str(tmp_path / "dev.jsonl"), "--json"))
    report = json.loads((out / "report.json").read_text())
    assert printed == report and report.keys() >= REPORT_KEYS
    assert set(report["baselines"]) >= {"torch_eager", "onnxruntime_int8", "openvino_int8"}
    assert report["result"].keys() >= {
        "quality",
        "drop",
        "drop_ci95",
        "latency_ms",
        "throughput_per_s",
        "bytes",
        "parameters",
        "speedup_vs_eager",
        "engine",
    }
    assert [step["name"] for step in report["steps"]] == STEPS
    assert (out / "report.html").read_text().startswith("<!doctype html>") or "<html" in (out / "report.html").read_text()
    assert (out / "engine" / "model.onnx").is_file() and not (out / "partial").exists()
    again = json.loads(_run("eval", str(out), "--data", str(tmp_path / "dev.jsonl"), "--teacher", str(tmp_path / "teacher"), "--json"))
    assert again["quality"] == pytest.approx(report["result"]["quality"])
    assert again["drop"] == pytest.approx(report["result"]["drop"])
    assert report["tests"][0]["quality"] == pytest.approx(report["result"]["quality"])


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_one_engine_alone(tmp_path: Path, engine: str) -> None:
    given = _prepare(tmp_path, "classification")
    report = json.loads(
        _run(
            "compress",
            *given,
            "--out",
            str(tmp_path / "out"),
            "--threads",
            "1",
            "--size-mb",
            "5",
            "--no-training",
            "--engine",
            engine,
            "--json",
        )
    )
    assert report["met"] and report["result"]["engine"] == engine
    assert {form["engine"] for form in report["forms"]} == {engine}
    assert report["blueprint"]["bits"] == (32 if engine == "torch" else 8)
    again = json.loads(_run("eval", str(tmp_path / "out"), "--data", str(tmp_path / "dev.jsonl"), "--engine", engine, "--json"))
    assert again["quality"] == pytest.approx(report["result"]["quality"])


def test_killed_at_each_step_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    # No speed is asked, so that the plan (half of the layers) does not hang on measured times.
    given = [*_prepare(tmp_path, "classification"), "--threads", "1", "--max-drop", "100", "--epochs", "2", "--max-length", "32", "--json"]
    whole = json.loads(_run("compress", *given, "--out", str(tmp_path / "whole")))
    out, steps = tmp_path / "killed", tmp_path / "killed" / "steps"
    for number, name in enumerate(STEPS, 1):
        _kill(f"{number:02d}-{name}", out, "compress", *given)
        done = sorted(path.name for path in steps.glob("[0-9]*"))
        assert done == [f"{i:02d}-{step}" for i, step in enumerate(STEPS, 1)][: len(done)] and len(done) >= number - 1
        assert not (out / "report.json").exists()
    resumed = json.loads(_run("compress", *given, "--out", str(out)))
    assert len(resumed["blueprint"]["layers"]) == 1
    for part in ("blueprint", "kept_layers"):
        assert resumed[part] == whole[part]
    assert resumed["result"]["float_quality"] == whole["result"]["float_quality"]
    for file in ("model/model.safetensors", "engine/model.onnx"):
        assert (out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert not list(out.rglob("*.tmp"))


def test_an_impossible_budget_is_said_and_the_best_is_kept(tmp_path: Path) -> None:
    given = _prepare(tmp_path, "classification")
    error = _run("compress", *given, "--out", str(tmp_path / "out"), "--threads", "1", "--speedup", "5000", "--epochs", "1", status=3)
    last = error.strip().splitlines()[-1]
    assert last.startswith("penjing: the budget was not met: speedup")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["met"] and (tmp_path / "out" / "model" / "config.json").is_file()


def test_another_question_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    given = _prepare(tmp_path, "classification")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text('{"seed": 9}')
    assert "was asked otherwise" in _run("compress", *given, "--out", str(tmp_path / "out"), *OPTIONS, status=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    assert "is not empty and holds no run" in _run("compress", *given, "--out", str(tmp_path / "full"), *OPTIONS, status=2)


def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        given = _prepare(tmp_path, "classification")
        error = _run("compress", *given, "--out", str(disk / "out"), *OPTIONS, status=2)
        assert error.strip().splitlines()[-1].startswith("penjing: the disk is full")
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
    given = _prepare(tmp_path, "classification")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("prune: false\ndistill: false\n")
    _run("compress", *given, "--out", str(tmp_path / "out"), "--threads", "1", "--max-drop", "100", "--recipe", str(recipe))
    done = subprocess.run([sys.executable, "-c", SERVE, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[::2] == ["onnxruntime", "openvino"]
