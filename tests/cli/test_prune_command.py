"""`penjing prune` from the command line on a tiny teacher: what is cut is gone from the file, and the file lives on without Penjing."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import answers, fresh, kill, prepare, refused, run

from penjing.model.checkpoint import read
from penjing.steps.cut.sparsify import sparsity_of

EVERY_ENGINE = ["--threads", "1", "--max-length", "32", "--texts", "40", "--json"]
QUIET = ["--engine", "onnxruntime", *EVERY_ENGINE]


def test_a_mixture_without_training(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "classification"), tmp_path / "out"
    report = json.loads(
        run("prune", *given, "--out", str(out), "--layers", "1", "--heads", "0.5", "--neurons", "0.25", "--hidden", "0.5", "--vocab", "0",
             "--head-weights", "--no-training", "--test", str(tmp_path / "dev.jsonl"), *EVERY_ENGINE)
    )  # fmt: skip
    assert [step["name"] for step in report["steps"]] == [
        "baseline",
        "vocabulary",
        "observe",
        "plan",
        "prune",
        "export",
        "choose",
        "verify",
    ]
    blueprint = report["blueprint"]
    assert blueprint["layers"] == [[1, 16]] and (blueprint["hidden"], blueprint["embedding"], blueprint["pooled"]) == (16, 16, 32)
    assert blueprint["vocabulary"] < report["teacher_blueprint"]["vocabulary"]
    assert [row["own"] for row in report["shapes"]] == [True, False, False] and all(row["macs"] < 0.3 for row in report["shapes"])
    assert report["tests"][0]["quality"] == pytest.approx(report["result"]["quality"])
    alone = fresh(out / "model")
    assert alone["same"] and alone["vocabulary"] == alone["tokens"] == blueprint["vocabulary"]
    labels = ["negative", "positive"]
    for logits, answer in zip(alone["logits"], answers(out), strict=True):
        assert labels[logits.index(max(logits))] == answer["label"]
    parity = [gate for gate in report["gates"] if gate["name"].startswith("float32 parity")]
    assert len(parity) == 2 and all(gate["passed"] for gate in parity)
    text = run("inspect", str(out))
    assert "16" in text


def test_single_weights_in_training_are_killed_and_go_on_and_end_the_same(tmp_path: Path) -> None:
    given = [*prepare(tmp_path, "classification"), "--neurons", "0.5", "--vocab", "0", "--sparsity", "0.8", "--epochs", "2", *QUIET]
    given += ["--importance", "magnitude"]
    report = json.loads(run("prune", *given, "--out", str(tmp_path / "whole")))
    assert report["stored"]["packed_bytes"] < report["stored"]["dense_bytes"]
    assert {gate["name"]: gate["passed"] for gate in report["gates"]}["sparsity"]
    model = tmp_path / "whole" / "model"
    assert (model / "packed.safetensors").is_file() and not (model / "model.safetensors").exists()
    assert sparsity_of(read(model)) == pytest.approx(0.8, abs=1e-3)
    alone = fresh(model)
    assert alone["same"] and alone["zeros"] >= 0.79 * 2 * 4 * 32 * 32

    out = tmp_path / "killed"
    for step in ("02-vocabulary", "05-prune", "06-sparsify"):
        kill(step, out, "prune", *given)
    run("prune", *given, "--out", str(out))
    assert (out / "model" / "packed.safetensors").read_bytes() == (model / "packed.safetensors").read_bytes()


def test_words_that_lose_their_tokens_are_judged_each_in_its_own_encoding_and_training_needs_no_labels(tmp_path: Path) -> None:
    given, dev = prepare(tmp_path, "tagging"), tmp_path / "dev.jsonl"
    bare = [{"tokens": json.loads(line)["tokens"]} for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    rows = [json.loads(line) for line in dev.read_text().splitlines()]  # "dulled" is dull ##ed, and one unknown token without them
    dev.write_text("".join(json.dumps({"tokens": ["dulled", *r["tokens"]], "tags": ["O", *r["tags"]]}) + "\n" for r in rows))
    out, cut = tmp_path / "out", ["--vocab", "0", "--heads", "0.5", "--no-training"]
    report = json.loads(run("prune", *given, "--out", str(out), *cut, "--test", str(dev), *QUIET))
    test, teacher = report["tests"][0], report["teacher"]["quality"]
    assert test["teacher_quality"] == pytest.approx(teacher) and report["result"]["drop"] == pytest.approx(test["drop"])
    assert report["workload"]["lengths_p50"] == np.median([len(row["tokens"]) + 3 for row in rows])  # the teacher's: one more
    compared = ["eval", str(out), "--data", str(dev), "--teacher", str(tmp_path / "teacher"), "--json"]
    assert json.loads(run(*compared))["teacher_quality"] == pytest.approx(teacher)
    both = json.loads(run("bench", str(tmp_path / "teacher"), str(out), "--data", str(dev), "--threads", "1", "--rounds", "1", "--json"))
    assert len({row["folder"] for row in both["results"]}) == 2


def test_gates_learned_while_distilling_keep_the_part_asked(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "pair"), tmp_path / "out"
    report = json.loads(run("prune", *given, "--out", str(out), "--macs", "0.5", "--schedule", "gradual", "--epochs", "3", *QUIET))
    assert report["met"] and report["result"]["macs"] <= 0.5
    assert [step["name"] for step in report["steps"]] == ["baseline", "gradual", "export", "choose", "verify"]
    assert fresh(out / "model")["same"]


REFUSED = {
    "nothing": ([], "nothing is asked"),
    "a part above one": (["--macs", "1.5"], "--macs: 1.5 is out of range"),
    "no layer": (["--layers", "0"], "--layers: 0 is out of range"),
    "too many layers": (["--layers", "3", "--no-training"], "--layers: 3 is more than the model has; give 1 to 2"),
    "an unknown importance": (["--heads", "0.5", "--importance", "luck"], "--importance: 'luck' is none; allowed are fisher"),
    "two limits": (["--macs", "0.5", "--latency", "0.5"], "give one"),
    "a limit and a part": (["--macs", "0.5", "--heads", "0.5"], "--macs or --latency says how much"),
    "a corpus alone": (["--macs", "0.5", "--corpus", "x.txt"], "nothing asks for it; give --vocab"),
    "no corpus": (["--vocab", "0", "--corpus", "x.txt"], "--corpus: x.txt is no file"),
    "rows of structure": (["--macs", "0.5", "--scope", "row"], "--scope: 'row' is not allowed; give global or layer"),
    "a latency and a width": (["--latency", "0.5", "--hidden", "0.5"], "cut the hidden units in a run before"),
    "a size and a share": (["--stored-mb", "1", "--sparsity", "0.5"], "--stored-mb: it says how many single weights go"),
    "too small a size": (["--stored-mb", "0.001"], "--stored-mb: 0.001 is below what stays dense"),
    "gradual heads": (["--heads", "0.5", "--schedule", "gradual"], "takes --macs alone"),
    "gradual untrained": (["--macs", "0.5", "--schedule", "gradual", "--no-training"], "--schedule: gradual structured pruning trains"),
    "all weights": (["--sparsity", "1"], "--sparsity: 1.0 is out of range"),
    "movement untrained": (["--sparsity", "0.5", "--importance", "movement", "--no-training"], "single weights then go with --schedule one-shot"),
    "two rankings": (["--sparsity", "0.5", "--heads", "0.5", "--importance", "fisher"], "does not rank both"),
    "an unknown repair": (["--heads", "0.5", "--repair", "glue"], "--repair: 'glue' is none; allowed are none, scales, weights"),
    "too small a vocabulary": (["--vocab", "0.01", "--no-training"], "vocab"),
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("refused")
    return folder, prepare(folder, "classification")


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case: str, prepared: tuple[Path, list[str]], tmp_path: Path) -> None:
    options, message = REFUSED[case]
    out = tmp_path / "out"
    assert message in refused("prune", *prepared[1], "--out", out, *options, *QUIET[:-1])
    assert not (out / "model").exists() and not list(tmp_path.rglob("*.tmp"))
