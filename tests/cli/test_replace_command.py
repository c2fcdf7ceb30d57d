"""`penjing replace` from the command line on a tiny teacher: each task, texts without labels, and what does not go."""

import json
from pathlib import Path

import pytest
import torch
from commands import answers, fresh, prepare, refused, rows_of, run, write_rows

from penjing.model.checkpoint import open_checkpoint

QUIET = ["--threads", "1", "--max-length", "32", "--json", "--engine", "onnxruntime", "--epochs", "2"]


def test_a_successor_of_one_layer(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "classification"), tmp_path / "out"
    report = json.loads(run("replace", *given, "--out", str(out), "--layers", "1", *QUIET))
    assert [step["name"] for step in report["steps"]] == ["baseline", "observe", "plan", "prune", "replace", "export", "choose", "verify"]
    assert report["kept_layers"] == [1] and len(open_checkpoint(out / "model").blueprint.layers) == 1
    for logits, answer in zip(fresh(out / "model")["logits"], answers(out), strict=True):
        assert answer["score"] == pytest.approx(float(torch.tensor(logits).softmax(0).max()), abs=1e-4)


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_the_teacher_s_answers_stand_in_for_labels(task: str, tmp_path: Path) -> None:
    given, out = prepare(tmp_path, task), tmp_path / "out"
    rows = [{name: value for name, value in row.items() if name in ("text", "tokens")} for row in rows_of(task, 60, 60)]
    write_rows(tmp_path / "train.jsonl", rows)
    report = json.loads(run("replace", *given, "--out", str(out), "--layers", "1", "--schedule", "constant", *QUIET))
    assert "replace" in [step["name"] for step in report["steps"]]


def test_a_recipe_with_thinner_layers(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "pair"), tmp_path / "out"
    (tmp_path / "recipe.yaml").write_text(
        "- prune: {neurons: 0.5, texts: 20}\n- distill: {losses: {hard: 1}}\n- replace: {rate: 0.5}\n- quantize\n"
    )
    report = json.loads(run("compress", *given, "--out", str(out), "--recipe", str(tmp_path / "recipe.yaml"), *QUIET))
    assert [step["name"] for step in report["steps"]][3:5] == ["prune", "replace"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --layers"),
        (["--layers", "2"], "replace: no layer is cut"),
        (["--layers", "9"], "--layers: 9 is more than the model has"),
        (["--layers", "1", "--schedule", "cosine"], "--schedule: 'cosine' is none; allowed are linear, constant"),
        (["--layers", "1", "--rate", "2"], "--rate: 2 is not allowed"),
        (["--layers", "1", "--losses", "attention=1,hard=1"], "--losses: keys, queries of a layer are read"),
        (["--layers", "1", "--losses", "hard"], "names and weights as kl=1"),
    ],
)
def test_what_replace_refuses(tmp_path: Path, options: list[str], said: str) -> None:
    given = prepare(tmp_path, "classification")
    assert said in refused("replace", *given, "--out", tmp_path / "out", "--threads", "1", *options)
