"""Bad input: one clear line that says what, what is allowed and the fix; exit status 2; nothing left half-written."""

from pathlib import Path

import pytest
from commands import ended, refused, write_rows
from conftest import half, tiny, tiny_teacher, write_tiny_tokenizer

from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.surgery import cut
from penjing.model.writing import write

GOOD = [{"text": "good film", "label": "positive"}, {"text": "bad film", "label": "negative"}] * 6


def _file(path: Path, rows: list[dict[str, object]]) -> str:
    write_rows(path, rows)
    return str(path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_teacher(tmp_path / "teacher", "sequence")
    _file(tmp_path / "good.jsonl", GOOD)
    return tmp_path


CASES = {
    "a missing file": ({"train": "none.jsonl"}, "none.jsonl is no file"),
    "an empty file": ({"train": b""}, "is empty; give at least one row"),
    "a wrong column": ({"train": [{"words": "good", "label": "positive"}]}, "the columns are label, words; name it with --text-columns"),
    "an unknown label in eval": ({"eval": [{"text": "good", "label": "neutral"}]}, "the model's labels are negative, positive"),
    "another label set": ({"train": [{"text": "a", "label": "sport"}, {"text": "b", "label": "news"}]}, "the model's labels are negative, positive"),
    "invalid UTF-8": ({"train": b'{"text": "\xff", "label": "positive"}\n'}, "is not UTF-8"),
    "a row without a label": ({"train": [*GOOD, {"text": "x", "label": None}]}, ", line 13 has no label"),
    "a folder that is no model": ({"model": "folder"}, "has no config.json"),
    "a damaged safetensors file": ({"model": "damaged"}, "is damaged"),
    "an unsupported family": ({"model": "gpt2"}, "the family 'gpt2' is not supported; give one of bert, roberta, xlm-roberta, electra, distilbert"),
    "a model without a trained head": ({"model": "headless"}, "has no trained head for classification; make one with penjing train"),
    "a model whose layers differ": ({"model": "uneven"}, "the layers of"),
    "a name for a label that the model only numbers": ({"model": "unnamed"}, "the model's labels are LABEL_0, LABEL_1"),
    "an unknown task": ({"task": "summary"}, "allowed are classification, pair, tagging"),
    "an unknown engine": ({"engine": "tensorrt"}, "allowed are onnxruntime, openvino, torch"),
    "a speed-up of nothing": ({"speedup": 0}, "give a number above 0"),
    "a length beyond the positions": ({"max-length": 4096}, "the model has 64 positions"),
    "a confidence in nothing": ({"confidence": 0.95}, "--confidence: nothing asks for it; give --max-drop"),
    "a confidence out of range": ({"confidence": 1, "max-drop": 2}, "--confidence: 1.0 is out of range; give at least 0.5 and less than 1"),
    "an unknown setting in a recipe": ({"recipe": b"distill: {temprature: 2}"}, "'temprature'; allowed are schedule, losses, temperature"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_compress_refuses(case: str, place: Path) -> None:
    changes, said = CASES[case]
    (place / "folder").mkdir()
    tiny_teacher(place / "damaged", "sequence")
    weights = place / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    tiny_teacher(place / "gpt2", "sequence")
    (place / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    for name, model in (("headless", tiny("bert", "none")), ("unnamed", tiny("bert", "sequence", num_labels=2))):
        model.save_pretrained(place / name)
        write_tiny_tokenizer(place / name)
    whole = read(place / "teacher")
    write(cut(whole, half(blueprint_of(whole))), place / "uneven", tokenizer=place / "teacher")
    options: dict[str, object] = {
        "model": place / "teacher", "task": "classification", "train": place / "good.jsonl", "eval": place / "good.jsonl",
        "out": place / "out", "speedup": 2,
    }  # fmt: skip
    for name, value in changes.items():
        if isinstance(value, bytes):
            (place / f"case-{name}.jsonl").write_bytes(value)
            value = place / f"case-{name}.jsonl"
        elif isinstance(value, list):
            value = _file(place / f"case-{name}.jsonl", value)
        elif name == "model" or value == "none.jsonl":
            value = place / str(value)
        options[name] = value
    line = refused("compress", *[word for name, value in options.items() for word in (f"--{name}", value)])
    assert said in line
    assert not (place / "out").exists()


def test_eval_refuses(place: Path) -> None:
    unknown = _file(place / "unknown.jsonl", [{"text": "good", "label": "neutral"}])
    assert "the label 'neutral'" in refused("eval", place / "teacher", "--data", unknown)
    assert "is no folder" in refused("eval", place / "no where", "--data", place / "good.jsonl")
    assert "runs on torch" in refused("eval", place / "teacher", "--data", place / "good.jsonl", "--engine", "openvino")


def test_a_long_text_is_cut_and_said(place: Path) -> None:
    long = _file(place / "long.jsonl", [{"text": "good " * 500, "label": "positive"}])
    status, _, said = ended("eval", place / "teacher", "--data", long, "--threads", "1")
    assert status == 0 and "1 of 1 texts are longer than 64 tokens and were cut" in said.replace("\n", " ")
