"""`penjing distill` from the command line on a tiny teacher: BERTs and other students, more teachers, more texts, and a kill."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import answers, fresh, kill, prepare, refused, run
from conftest import tiny_teacher

from penjing.engines.description import Description
from penjing.job.by_hand import Distilling
from penjing.job.presets import PRESETS
from penjing.model.checkpoint import open_checkpoint, read
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import Selection
from penjing.steps.bits.quantize import QuantizeSettings
from penjing.steps.teach.distillation import Distillation

QUIET = ["--threads", "1", "--max-length", "32", "--json"]
ONE_ENGINE = ["--engine", "onnxruntime"]


def distil(given: list[str], out: Path, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run("distill", *given, "--out", str(out), *options, *QUIET))
    return report


def named(report: dict[str, Any]) -> list[str]:
    return [step["name"] for step in report["steps"]]


def test_two_stages_on_plain_text_and_on_the_task(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "classification"), tmp_path / "out"
    with gzip.open(tmp_path / "plain.txt.gz", "wt") as file:
        file.write("\n\n".join(f"the {a} was {b} and {c} ." for a in ("film", "song", "room", "plot") for b in ("good", "bad", "dull", "fine")
                               for c in ("great", "poor", "never", "very", "always")))  # fmt: skip
    report = distil(given, out, "--preset", "tinybert", "--layers", "1", "--epochs", "2", "--general", str(tmp_path / "plain.txt.gz"),
                    "--cache", str(tmp_path / "cache"), "--test", str(tmp_path / "dev.jsonl"), *ONE_ENGINE)  # fmt: skip
    assert named(report) == ["baseline", "observe", "plan", "prune", "distill", "export", "choose", "verify"]
    assert report["kept_layers"] == [1] and report["tests"][0]["quality"] == pytest.approx(report["result"]["quality"])
    kept = {file.name for file in (tmp_path / "cache").rglob("*.npy")}
    assert kept == {"logits.npy", "states-0.npy", "states-2.npy", "queries-2.npy", "keys-2.npy"}
    alone = fresh(out / "model")
    for logits, answer in zip(alone["logits"], answers(out), strict=True):
        assert answer["score"] == pytest.approx(float(torch.tensor(logits).softmax(0).max()), abs=1e-4)


def test_a_student_of_another_width_of_several_teachers_on_more_texts(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "tagging"), tmp_path / "out"
    other = tiny_teacher(tmp_path / "other", "tagging", ("B-x", "O"), seed=3)  # its labels in another order
    small = tmp_path / "small"
    narrow = Selection(Selection.all(open_checkpoint(tmp_path / "teacher").blueprint).layers[:1], tuple(range(16)))
    write(cut(read(tmp_path / "teacher"), narrow), small, tokenizer=tmp_path / "teacher")
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({"tokens": ["the", word, "was", "good"]}) + "\n" for word in ("room", "song")))
    report = distil(
        given, out, "--student", str(small), "--teacher", str(other), "--preset", "minilm", "--relation-heads", "4", "--losses",
        "kl=1,relations=1,hidden=1,levels=0.5,hard=0.5", "--noise", "0.1", "--unlabelled", str(tmp_path / "more.jsonl"), "--augment",
        "neighbours", "--copies", "2", "--part", "0.5", "--sample", "uncertain", "--epochs", "1", *ONE_ENGINE,
    )  # fmt: skip
    assert named(report) == ["baseline", "distill", "export", "choose", "verify"]
    assert report["blueprint"]["hidden"] == 16 and report["kept_layers"] == []
    assert fresh_labels(out) <= {"O", "B-x"}


def test_two_tasks_share_an_encoder(tmp_path: Path) -> None:
    given, out = prepare(tmp_path / "one", "classification"), tmp_path / "out"
    other = prepare(tmp_path / "two", "tagging")
    also = ",".join(["tagging", other[1], other[5], other[7]])
    report = distil(
        given, out, "--layers", "1", "--with", also, "--losses", "kl=1,hidden=1,hard=1", "--anneal", "--epochs", "1", *ONE_ENGINE
    )
    assert "tagging" in next(step["note"] for step in report["steps"] if step["name"] == "distill")
    one, two = read(out / "model"), read(out / "also" / "1-tagging")
    for name, value in one.encoder.state_dict().items():
        assert torch.equal(value, two.encoder.state_dict()[name]), name
    assert two.config.num_labels == 2 and len(two.config.layers) == 1
    assert not torch.equal(one.encoder.state_dict()["layers.0.feed_forward.up.weight"],
                           read(tmp_path / "one" / "teacher").encoder.state_dict()["layers.1.feed_forward.up.weight"])  # fmt: skip


def fresh_labels(out: Path) -> set[str]:
    import penjing

    answered = penjing.load(out, threads=1)([["the", "room", "was", "good"], ["bad"]])
    assert [len(each["labels"]) for each in answered] == [4, 1]
    return {label for each in answered for label in each["labels"]}


def test_a_student_of_arrays(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "pair"), tmp_path / "out"
    report = distil(given, out, "--preset", "static")
    assert named(report) == ["baseline", "distill", "export", "choose", "verify"] and report["student"]["kind"] == "static"
    assert report["result"]["engine"] == "numpy" and report["result"]["parameters"] > 0
    assert {file.name for file in (out / "engine").iterdir()} == {"engine.json", "student.safetensors", "tokenizer.json"}
    again = json.loads(run("eval", str(out), "--data", str(tmp_path / "dev.jsonl"), "--json"))
    assert again["quality"] == pytest.approx(report["result"]["quality"])
    assert "trust_remote_code" not in (out / "model" / "README.md").read_text()
    assert "Blueprint" not in (out / "report.html").read_text() or report["blueprint"] == {}


def test_a_bilstm_tags_and_is_loaded_by_transformers(tmp_path: Path) -> None:
    given, out = prepare(tmp_path, "tagging"), tmp_path / "out"
    report = distil(given, out, "--preset", "bilstm", "--epochs", "1")
    assert {form["engine"] for form in report["forms"]} == {"onnxruntime", "openvino"}
    assert fresh_labels(out) <= {"O", "B-x"}
    assert Description.read(out / "engine").labels == ("O", "B-x")
    assert "AutoModelForTokenClassification" in (out / "model" / "README.md").read_text()


def test_distillation_is_killed_and_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    given = [*prepare(tmp_path, "classification"), "--layers", "1", "--preset", "levels", "--epochs", "3", *ONE_ENGINE, *QUIET]
    run("distill", *given, "--out", str(tmp_path / "whole"))
    out = tmp_path / "killed"
    kill("05-distill", out, "distill", *given)
    run("distill", *given, "--out", str(out))
    same = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed")]
    assert same[0].read_bytes() == same[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "fast"], "'fast' is none; allowed are states"),
        ([], "the student would be the teacher itself"),
        (["--layers", "1", "--losses", "kl"], "names and weights as kl=1"),
        (["--layers", "1", "--losses", "kd=1"], "'kd' is none; allowed are kl"),
        (["--layers", "1", "--keep", "middle"], "allowed are measured"),
        (["--preset", "static", "--layers", "1"], "static is no BERT"),
        (["--preset", "static", "--losses", "hidden=1"], "compare encoders"),
        (["--layers", "1", "--part", "0.5", "--sample", "best"], "allowed are random"),
        (["--layers", "1", "--masked-lm", "x"], "--augment masked-lm"),
        (["--layers", "1", "--augment", "masked-lm"], "takes a masked language model"),
        (["--layers", "9"], "more than the model has"),
        (["--layers", "1", "--levels", "2"], "--levels: it goes with levels"),
        (["--layers", "1", "--preset", "levels", "--levels", "9"], "9 are more than the 2 that are matched"),
        (["--layers", "1", "--preset", "hinton", "--layer-map", "last"], "--layer-map: it goes with states"),
        (["--layers", "1", "--losses", "mse=1", "--temperature", "3"], "--temperature: it goes with kl"),
        (["--layers", "1", "--augment", "rules", "--copies", "0"], "--augment: nothing asks for it"),
        (["--layers", "1", "--preset", "labels", "--copies", "2"], "nothing but labels is taught"),
        (["--layers", "1", "--losses", "kl=nan"], "has the weight nan"),
        (["--preset", "static", "--epochs", "9"], "fitted, not trained"),
        (["--preset", "logistic", "--losses", "mse=1"], "learns probabilities"),
        (["--preset", "bilstm", "--noise", "0.1"], "nothing to do with it"),
        (["--preset", "tree", "--peers", "1"], "--peers: a tree student has nothing to do with it"),
        (["--layers", "1", "--peers", "1", "--self-distill", "all"], "leave --self-distill out"),
        (["--layers", "1", "--peers", "1", "--general", "plain.txt"], "leave out --with and --general"),
        (["--layers", "1", "--adversarial", "1", "--losses", "hidden=1"], "--adversarial: it changes the texts"),
        (["--layers", "1", "--general", "none.txt"], "--general: none.txt cannot be read"),
        (["--layers", "1", "--hidden", "0.5", "--losses", "attention=1,kl=1", "--heads", "0.5"], "compares head with head"),
    ],
)
def test_bad_input(tmp_path: Path, options: list[str], said: str) -> None:
    given = prepare(tmp_path, "classification")
    assert said in refused("distill", *given, "--out", tmp_path / "out", "--threads", "1", *options)


@pytest.mark.parametrize(
    ("option", "more"), [("--masked-lm", ["--layers", "1", "--augment", "masked-lm"]), ("--teacher", ["--layers", "1"]), ("--student", [])]
)
def test_a_model_of_another_vocabulary_is_refused_by_its_option(tmp_path: Path, option: str, more: list[str]) -> None:
    given = prepare(tmp_path, "classification")
    other = tiny_teacher(tmp_path / "other")
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"good"', '"was here"').replace('"bad"', '"good"').replace('"was here"', '"bad"'))
    said = refused("distill", *given, "--out", tmp_path / "out", "--threads", "1", *more, option, other)
    assert f"{option}: the tokenizer of {other} makes other tokens than the model's" in said


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_recipe(preset: str) -> None:
    recipe = Distilling(preset, layers=None if PRESETS[preset].student else 3).recipe()
    assert recipe.distillation and recipe.get(QuantizeSettings) is None and np.isfinite(list(recipe.distillation.losses.values())).all()
    told = {name: settings for step in json.loads(json.dumps(recipe.to_json())) for name, settings in step.items()}
    assert told["distill"]["how"]["losses"] == dict(PRESETS[preset].losses)


@pytest.mark.parametrize(("losses", "copies", "expected"), [(None, None, 2), ("hard=1", None, 0), (None, 0, 0), (None, 1, 1)])
def test_copies_are_the_presets_where_the_teacher_answers_them(losses: str | None, copies: int | None, expected: int) -> None:
    taught = Distilling("static", losses=losses, copies=copies).recipe().get(Distillation)
    assert taught and taught.texts.copies == expected
