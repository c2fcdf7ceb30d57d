"""`penjing inspect` says what a folder is."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from commands import prepare, refused, run
from conftest import half, tiny, tiny_teacher, write_tiny_tokenizer
from safetensors.torch import load_file, save_file
from spelling import configure, wordpiece

from penjing.cli.view import inspect
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.surgery import cut
from penjing.model.writing import write


def test_a_plain_model_says_what_it_is(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m", labels=["bad", "fair", "good"])
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"bert.embeddings.position_ids": torch.arange(64)[None]}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "training_args.bin").write_bytes(b"")
    found = json.loads(run("inspect", folder, "--json"))
    assert (found["format"], found["family"], found["head"], found["outputs"]) == ("transformers", "bert", "sequence", 3)
    assert found["labels"] == ["bad", "fair", "good"] and found["answers"] == "one label of several, of each text"
    assert found["unused"] == {"weights": ["bert.embeddings.position_ids"], "files": ["training_args.bin"]}
    tokenizer = found["tokenizer"]
    assert (tokenizer["kind"], tokenizer["lower_case"], tokenizer["longest_text"], tokenizer["cut"]) == ("WordPiece", True, 64, "right")
    assert found["blueprint"]["layers"] == [[2, 64], [2, 64]] and found["engine"] is None
    said = run("inspect", folder)
    for part in (
        "bert",
        "sequence, 3 outputs: one label of several",
        "bad, fair, good",
        "WordPiece",
        "lower case",
        "position_ids",
        "training_args.bin",
    ):
        assert part in said


def test_labels_beyond_the_output_s_encoding_leave_json_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, raw = tiny_teacher(tmp_path / "m", labels=["bad", "电影😀"]), io.BytesIO()
    output = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        inspect(str(folder), as_json=True)
    output.flush()
    assert json.loads(raw.getvalue())["labels"] == ["bad", "电影😀"]


def test_what_penjing_wrote_says_where_it_came_from(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    model = read(folder)
    write(cut(model, half(blueprint_of(model))), tmp_path / "pruned", tokenizer=folder)
    found = json.loads(run("inspect", tmp_path / "pruned", "--json"))
    assert (found["format"], found["family"], found["head"]) == ("penjing", "bert", "sequence")
    assert found["labels"] == ["negative", "positive"] and found["tokenizer"]["as_stored"]
    assert "penjing, from bert" in run("inspect", tmp_path / "pruned")


def test_a_folder_of_compress_says_what_its_engine_is(tmp_path: Path) -> None:
    run("quantize", *prepare(tmp_path, "classification"), "--scheme", "dynamic-int8", "--engine", "onnxruntime", "--out", tmp_path / "out")
    found = json.loads(run("inspect", tmp_path / "out", "--json"))
    assert found["folder"] == str(tmp_path / "out" / "model") and found["engine"]["task"] == "classification" and found["engine"]["forms"]
    assert "onnxruntime" in run("inspect", tmp_path / "out")


def test_a_tokenizer_that_cannot_be_read_is_said_and_the_model_is_shown(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in json.loads(run("inspect", folder, "--json"))["tokenizer"]["error"]
    assert "none: model: " in run("inspect", folder)


def test_settings_over_the_file_are_said(tmp_path: Path) -> None:
    folder = configure(wordpiece(tmp_path / "m"), do_lower_case=False, truncation_side="left", model_max_length=20)
    tiny("bert", vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"]).save_pretrained(folder)
    tokenizer = json.loads(run("inspect", folder, "--json"))["tokenizer"]
    assert (tokenizer["lower_case"], tokenizer["cut"], tokenizer["longest_text"], tokenizer["as_stored"]) == (False, "left", 20, False)


def test_heads_that_no_task_takes_are_said(tmp_path: Path) -> None:
    for name, changes, said in (
        ("one", {"num_labels": 1}, "numbers (regression), which no task takes"),
        ("several", {"problem_type": "multi_label_classification"}, "several labels at once, which no task takes"),
    ):
        tiny("bert", **changes).save_pretrained(tmp_path / name)
        write_tiny_tokenizer(tmp_path / name)
        assert json.loads(run("inspect", tmp_path / name, "--json"))["answers"] == said
        data = tmp_path / "data.jsonl"
        data.write_text('{"text": "good", "label": 0}\n' * 4)
        given = ["--data", data]
        for command in (
            ["eval", tmp_path / name, *given],
            ["bench", tmp_path / name, *given],
            ["eval", tiny_teacher(tmp_path / "fine"), "--teacher", tmp_path / name, *given],
        ):
            assert "takes one label of at least two" in refused(*command)
        options = ["--model", tmp_path / name, "--task", "classification", "--train", data, "--eval", data, "--out", tmp_path / "out"]
        assert "takes one label of at least two" in refused("quantize", *options, "--scheme", "dynamic-int8")


def test_a_model_that_is_not_whole_is_one_line(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused("inspect", folder)
