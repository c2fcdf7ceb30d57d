"""What a command works on: read as the options say, and said as it was read."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import ended, prepare, refused, write_rows
from conftest import tiny_teacher

from penjing.errors import InputError
from penjing.tasks.data import Data
from penjing.tasks.sources import load_data, load_examples, load_plain
from penjing.text.reading import Reading

ROWS = [{"text": "good film", "label": "positive"}, {"text": "bad film", "label": "negative"}, {"text": "a film", "label": "positive"}] * 4


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_teacher(tmp_path / "teacher", "sequence")
    write_rows(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def load(place: Path, train: str, told: list[str], reading: Reading = Reading(), **more: Any) -> Data:
    return load_data(str(place / "teacher"), "classification", str(place / train), str(place / "rows.jsonl"), reading, told.append, **more)


def test_what_was_read_is_said(place: Path) -> None:
    told: list[str] = []
    load(place, "rows.jsonl", told)
    file = place / "rows.jsonl"
    assert told.count(f"{file}: 12 rows; text 'text', label 'label': positive 8, negative 4") == 2
    assert "  the first: 'good film' -> [CLS] good film [SEP]" in told


def test_a_long_text_and_many_labels_are_said_shortly(place: Path) -> None:
    (place / "long.jsonl").write_text("".join(json.dumps({"sentence": "good " * 99, "class": f"c{n % 9}"}) + "\n" for n in range(27)))
    told: list[str] = []
    load_data(str(place / "teacher"), "classification", str(place / "long.jsonl"), "", Reading(), told.append, new_labels=True)
    (said,) = [line for line in told if "long.jsonl: 24 rows" in line]
    assert said.count("c") > 5 and said.endswith(" and 4 more labels") and "text 'sentence', label 'class'" in said
    assert all(len(line) < 220 for line in told if line.startswith("  the first: "))


def test_tags_and_pairs_are_said_too(tmp_path: Path) -> None:
    for task, first, label in (
        ("pair", " | film' -> [CLS] ", "'text_a' and 'text_b', label 'label'"),
        ("tagging", " | ", "'tokens', label 'tags'"),
    ):
        given = prepare(tmp_path / task, task)
        told: list[str] = []
        load_data(given[1], task, given[5], given[7], Reading(), told.append)
        assert any(label in line for line in told) and any(line.startswith("  the first: ") and first in line for line in told)


def test_every_option_on_reading_reaches_every_file(place: Path) -> None:
    lines = [("很好", "good"), ("不好", "bad")] * 6
    for name in ("train", "eval", "test"):
        (place / f"{name}.csv").write_bytes("".join(f"{text};x;{label}\n" for text, label in lines).encode("gbk"))
    reading = Reading(encoding="gbk", delimiter=";", header="text,,label", label_map="good=positive,bad=negative")
    told: list[str] = []
    files = [str(place / f"{name}.csv") for name in ("train", "eval", "test")]
    data = load_data(str(place / "teacher"), "classification", files[0], files[1], reading, told.append)
    assert data.train.inputs[:2] == ["很好", "不好"] and data.eval.gold[:2] == ["positive", "negative"]
    assert load_examples(data, files[2], told.append).gold == data.eval.gold
    other = load_data(
        str(place / "teacher"),
        "classification",
        files[0],
        files[1],
        Reading(**vars(reading) | {"label_map": "good=negative,bad=positive"}),
        str,
    )
    assert other.train.fingerprint() != data.train.fingerprint()  # what a run was asked holds the fingerprint


def test_a_map_of_a_label_that_no_row_has_is_refused(place: Path) -> None:
    with pytest.raises(InputError, match="label_map: no row has the label positiv; name labels as the data do"):
        load(place, "rows.jsonl", [], Reading(label_map="positiv=positive"))


def test_new_labels_are_the_models_where_they_are_named_or_numbered_alike(place: Path) -> None:
    for labels, found in ((("0", "1"), ["negative", "positive"]), (("01", "02"), ["01", "02"]), (("①", "²"), ["²", "①"])):
        rows = [{"text": "good", "label": label} for label in labels] * 6
        write_rows(place / "train.jsonl", rows)
        write_rows(place / "rows.jsonl", rows)
        assert load(place, "train.jsonl", [], new_labels=True).task.labels == found


def test_plain_text_is_read_in_its_encoding(place: Path) -> None:
    text = "good\n\n bad \n"
    (place / "a.txt.gz").write_bytes(gzip.compress(text.encode("utf-16")))
    data = load(place, "rows.jsonl", [])
    with pytest.raises(InputError, match=r"general: .*a\.txt\.gz is not UTF-8 .* give its own with `encoding`"):
        load_plain(data, place / "a.txt.gz", 9, 0)
    (place / "b.txt").write_text("\ufeff" + text)
    assert load_plain(data, place / "b.txt", 9, 0).inputs == ["good", "bad"]
    assert load_plain(replace(data, reading=Reading(encoding="utf-16")), place / "a.txt.gz", 9, 0).inputs == ["good", "bad"]


# -- the commands --------------------------------------------------------------------------------------------------


def test_eval_reads_as_the_options_say(place: Path) -> None:
    (place / "a.csv").write_bytes("很好;gut\n不好;schlecht\n".encode("gbk"))
    given = ("eval", place / "teacher", "--data", place / "a.csv", "--threads", 1, "--encoding", "gbk", "--delimiter", ";")
    status, out, err = ended(*given, "--header", "text,label", "--label-map", "gut=positive,schlecht=negative", "--json")
    assert status == 0 and json.loads(out)["examples"] == 2
    assert "a.csv: 2 rows; text 'text', label 'label': positive 1, negative 1" in err.replace("\n", " ")
    assert "the columns are gut, 很好" in refused(*given)
    assert "has the label 'gut'" in refused(*given, "--header", "text,label")
    assert "no row has the label x" in refused(*given, "--header", "text,label", "--label-map", "gut=positive,schlecht=negative,x=positive")


def test_commands_that_read_labels_have_the_options_on_labels_and_bench_has_not(place: Path) -> None:
    shown = {name: ended(name, "--help")[1] for name in ("train", "compress", "prune", "quantize", "distill", "eval", "bench")}
    for name, text in shown.items():
        assert all(option in text for option in ("--text-columns", "--max-length", "--encoding", "--delimiter", "--header"))
        assert all((option in text) == (name != "bench") for option in ("--label-column", "--label-map", "--metric", "--positive"))


def test_train_refuses_what_is_no_class_before_anything_is_written(place: Path) -> None:
    write_rows(place / "scores.jsonl", [{"text": "good", "label": n / 4} for n in range(12)])
    given = ("train", "--model", place / "teacher", "--task", "classification", "--train", place / "scores.jsonl", "--out", place / "out")
    assert "scores.jsonl, line 2: label is 0.25: these are scores, and regression is not supported" in refused(*given)
    assert "--encoding: 'utf-88' is none" in refused(*given, "--encoding", "utf-88")
    assert not (place / "out").exists()
