"""An engine folder that is opened again is judged as it was, and answers with softened scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import refused, rows_of, run, write_rows
from conftest import penjing_model, tiny_teacher, tiny_tokenizer

import penjing
from penjing.blueprint import Blueprint, Layer
from penjing.engines.description import DESCRIPTION
from penjing.engines.form import FLOAT_FORMS
from penjing.engines.onnx.export import export
from penjing.errors import InputError
from penjing.job.models import open_model
from penjing.model.checkpoint import open_checkpoint
from penjing.text.reading import Reading

SHAPE = Blueprint(56, 20, 2, 12, 12, 4, (Layer(3, 17), Layer(2, 6)), "sequence", 2)
UNSAID = ["sports", "politics"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    tokenizer = tiny_tokenizer()
    export(penjing_model(SHAPE), folder, [FLOAT_FORMS[0].file], segments=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def describe(folder: Path, **more: Any) -> None:
    about = {"task": "pair", "metric": "accuracy", "labels": ["no", "yes"], "max_length": 16, "weight_bits": 8}
    (folder / DESCRIPTION).write_text(json.dumps(about | {"forms": [FLOAT_FORMS[0].to_dict()]} | more))


@pytest.mark.parametrize(
    ("about", "reading", "metric", "positive"),
    [
        ({}, {}, "accuracy", ""),
        ({"metric": "f1", "positive": "no"}, {}, "f1", "no"),
        ({"metric": "f1"}, {}, "f1", "yes"),
        ({"metric": "f1", "labels": UNSAID}, {}, "f1", "politics"),  # as folders were judged that do not say it
        ({"metric": "mcc"}, {}, "mcc", ""),
        ({"metric": "of another version"}, {}, "accuracy", ""),
        ({"metric": "f1", "positive": "no"}, {"metric": "macro-f1"}, "macro_f1", ""),
        ({}, {"metric": "f1", "positive": "no"}, "f1", "no"),
        ({"task": "tagging", "metric": "entity_f1_strict", "labels": ["O", "B-x"]}, {}, "entity_f1_strict", ""),
    ],
)
def test_a_folders_metric_is_its_own_unless_another_is_asked_for(
    exported: Path, about: dict[str, Any], reading: dict[str, str], metric: str, positive: str
) -> None:
    describe(exported, **about)
    task = open_model(str(exported), None, "", Reading(**reading)).task
    assert (task.metric().name, task.positive) == (metric, positive)


def test_a_tokenizer_of_another_export_is_refused(exported: Path) -> None:
    describe(exported, crc32={"tokenizer.json": 1})
    with pytest.raises(InputError, match=r"tokenizer\.json is damaged, or of another export"):
        open_model(str(exported), None, "", Reading())


def test_a_metric_that_does_not_fit_is_refused_when_the_folder_is_opened(exported: Path) -> None:
    describe(exported, labels=UNSAID)
    with pytest.raises(InputError, match="sports / politics do not say which is; give `positive`"):
        open_model(str(exported), None, "", Reading(metric="f1"))


def test_a_temperature_softens_the_scores_and_leaves_the_answers(exported: Path) -> None:
    texts = [("good film", "bad"), ("bad", "good good"), ("film", "film")]
    describe(exported)
    plain = penjing.load(exported, threads=1)(texts)
    describe(exported, temperature=4.0)
    soft = penjing.load(exported, threads=1)(texts)
    assert [row["label"] for row in soft] == [row["label"] for row in plain]

    def margins(rows: list[dict[str, Any]]) -> list[float]:
        return [float(np.log(row["score"] / (1 - row["score"]))) for row in rows]

    np.testing.assert_allclose(4 * np.array(margins(soft)), margins(plain), rtol=1e-4)


def test_labels_without_names_are_called_as_transformers_calls_them(tmp_path: Path) -> None:
    """LABEL_0, LABEL_1 in model/ and engine/, and data may say either these or the numbers."""
    tiny_teacher(tmp_path / "m", "classification", ("LABEL_0", "LABEL_1"))
    rows = rows_of("classification", 40, 0)
    for name, labels in (("numbers", (0, 1)), ("names", ("LABEL_0", "LABEL_1")), ("texts", ("0", "1"))):
        write_rows(tmp_path / f"{name}.jsonl", [row | {"label": labels[row["label"] == "positive"]} for row in rows])
    data = [tmp_path / f"{name}.jsonl" for name in ("numbers", "names", "texts")]
    assert len({run("eval", tmp_path / "m", "--data", file, "--threads", 1) for file in data}) == 1
    given = ["--model", tmp_path / "m", "--task", "classification", "--train", data[0], "--eval", data[1]]
    run("quantize", *given, "--scheme", "dynamic-int8", "--engine", "onnxruntime", "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "engine" / DESCRIPTION).read_text())["labels"] == ["LABEL_0", "LABEL_1"]
    assert open_checkpoint(tmp_path / "out" / "model").label_names == [] and open_checkpoint(tmp_path / "out" / "model").labels == [
        "LABEL_0",
        "LABEL_1",
    ]


@pytest.mark.parametrize("command", ["eval", "quantize"])
def test_a_tagger_is_no_classifier(command: str, tmp_path: Path) -> None:
    tiny_teacher(tmp_path / "m", "tagging")
    write_rows(tmp_path / "data.jsonl", rows_of("classification", 12, 0))
    data = tmp_path / "data.jsonl"
    if command == "eval":
        assert "does not fit" in refused("eval", tmp_path / "m", "--data", data, "--task", "classification")
    else:
        given = ["--model", tmp_path / "m", "--task", "classification", "--train", data, "--eval", data, "--scheme", "dynamic-int8"]
        assert "labels words and has no trained head for classification" in refused(command, *given, "--out", tmp_path / "out")
