"""Labels and texts in rows: what is one, what is none, and one line that says where."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_tokenizer

from penjing.errors import InputError
from penjing.tasks.encoder import Encoder
from penjing.tasks.judging import flips, judge, scores_of
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import IGNORED, Task
from penjing.text.data import read_rows
from penjing.text.labels import label_text
from penjing.text.rows import Row

SHARED = Path(os.environ.get("PENJING_SHARED", Path(__file__).parents[3] / "shared")) / "data"


def rows(column: str, values: list[Any], **more: Any) -> list[Row]:
    """A row for each value."""
    return [{column: value} | more for value in values]


def refused(task: Task, given: list[Row]) -> str:
    """What a task says of rows that it cannot learn from."""
    with pytest.raises(InputError) as caught:
        learned = task.with_labels(task.learned_labels(given))
        Encoder(learned, tiny_tokenizer(), 16).examples(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- labels --------------------------------------------------------------------------------------------------------


def test_numbers_are_the_same_label_however_they_are_written() -> None:
    assert {label_text(value) for value in (1, 1.0, "1", " 1 ")} == {"1"}
    assert label_text(12345678901234567890) == "12345678901234567890" and label_text(-0.0) == "0"
    assert [label_text(value) for value in (True, 0.5, "1.0", "01", "①", "NA", "null")] == ["True", "0.5", "1.0", "01", "①", "NA", "null"]
    assert [label_text(value) for value in (None, float("nan"), "", " \t")] == [""] * 4
    assert [label_text(value) for value in ([1], {"a": 1}, b"a")] == [None] * 3
    assert label_text("\ud83d") == "\ufffd"


def test_labels_are_learnt_as_they_are_written() -> None:
    task = Classification()
    for values, labels in (
        (["0101", "0202", "101"], ["0101", "0202", "101"]),
        (["1.1", "1.10", "1.2"], ["1.1", "1.10", "1.2"]),
        (["①", "²", "--1", "9" * 5000], ["--1", "9" * 5000, "²", "①"]),
        (["b ", " b", "a"], ["a", "b"]),
        ([True, False], ["False", "True"]),
        ([1.0, 0, "2", -1], ["-1", "0", "1", "2"]),
    ):
        assert task.learned_labels(rows("label", values)) == labels
        assert set(task.with_labels(labels).gold_of(rows("label", values))) == set(labels)


def test_a_label_is_known_by_name_number_or_without_the_spaces_of_the_models_own() -> None:
    assert Classification([" bad", "good"]).gold_of(rows("label", ["bad", "good ", 1, 1.0, "0"])) == [
        " bad",
        "good",
        "good",
        "good",
        " bad",
    ]
    assert Classification(["false", "true"]).gold_of(rows("label", [True, False])) == ["true", "false"]
    assert Classification(["LABEL_0", "LABEL_1"]).gold_of(rows("label", ["LABEL_1", 1, "0"])) == ["LABEL_1", "LABEL_1", "LABEL_0"]
    for value in ("01", "+1", "1.5", 0.5, "²", True, 2, -1):
        with pytest.raises(InputError, match="has the label"):
            Classification(["bad", "good"]).gold_of(rows("label", [value]))


def test_the_map_of_labels_renames_what_the_data_call_otherwise() -> None:
    task = Classification(["negative", "positive"], label_map={"neg": "negative", "1": "positive", "gone": "negative"})
    given = rows("label", ["neg ", 1.0, "positive", 0])
    assert task.gold_of(given) == ["negative", "positive", "positive", "negative"]
    assert task.unmapped(given) == {"gone"} and task.unmapped(given[1:]) == {"gone", "neg"}
    assert task.unmapped(given[1:], rows("label", ["gone"])) == {"neg"} and Classification(["a", "b"]).unmapped(given) == set()
    learns = Classification(label_map={"a": "x", "b": "x"})
    assert learns.learned_labels(rows("label", ["a", "b", "c"])) == ["c", "x"]
    tags = Tagging(["O", "B-PER"], label_map={"B-PERSON": "B-PER"})
    assert tags.gold_of(rows("tags", [["B-PERSON", "O", -100]], tokens=["a", "b", "c"])) == [["B-PER", "O", None]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([5.0, 4.75, 0.0], "row 2: label is 4.75: these are scores, and regression is not supported; give classes"),
        ([f"{n / 8:.3f}" for n in range(40)] * 5, "label has 40 different numbers, as 0.000: these are scores"),
        ([f"id {n}" for n in range(30)], "label has 30 different labels in 30 rows, as 'id 0'"),
        (["a", None], "row 2 has no label; every row needs one"),
        (["a", float("nan")], "row 2 has no label"),
        (["a", " "], "row 2 has no label"),
        (["a", ["b", "c"]], "row 2: label is a list; a label is one text or number; several labels of one text are not supported"),
        (["a", {"b": 1}], "row 2: label is an object; a label is one text or number"),
        ([1, 0, -100], "row 3 has the label -100, which marks what is not labelled; remove the row"),
        (["a", "a"], "the only label is a; training needs at least two"),
    ],
)
def test_what_is_no_class_is_refused(values: list[Any], said: str) -> None:
    assert said in refused(Classification(), rows("label", values, text="good"))


def test_real_scores_are_refused() -> None:
    path = SHARED / "stsb" / "dev.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here: set PENJING_SHARED to the folder that holds data/")
    given = read_rows(path)
    assert "these are scores, and regression is not supported" in refused(Pair(), given)
    as_text = [row | {"label": str(row["label"])} for row in given]
    assert "different numbers" in refused(Pair(), as_text) and "these are scores" in refused(Pair(), as_text)


# -- tags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tags": ["O", None]}, "row 2: tag 2 of tags is missing; give O to a word of no span, and -100 to one that does not count"),
        ({"tags": ["O", ""]}, "row 2: tag 2 of tags is missing"),
        ({"tags": ["O", ["B-x"]]}, "row 2: tag 2 of tags is a list"),
        ({"tags": "O O"}, "row 2: tags is a text; tagging takes a list with a tag for each word"),
        ({"tags": None}, "row 2: tags is null"),
        ({"tags": ["O"]}, "row 2 has 2 words and 1 tags; give one tag per word"),
        ({"tags": [0.5, 0]}, "row 2: tags is 0.5: these are scores"),
        ({"tokens": "good film"}, "row 2: tokens is a text, and tagging takes a list of words; split it, in JSON Lines or Parquet"),
        ({"tokens": ["good", 7]}, "row 2: word 2 of tokens is a number, and a text is needed"),
        ({"tokens": None}, "row 2: tokens is null"),
    ],
)
def test_what_is_no_tag_or_word_is_refused(row: Row, said: str) -> None:
    whole = {"tokens": ["good", "film"], "tags": ["O", "B-x"]}
    assert said in refused(Tagging(), [whole, whole | row])


def test_a_word_that_does_not_count_is_neither_learnt_nor_judged() -> None:
    given = [{"tokens": ["good", "bad", "film"], "tags": ["B-x", -100, "O"]}, {"tokens": ["good", "film"], "tags": ["-100", "O"]}]
    task = Tagging(Tagging().learned_labels(given))
    assert task.labels == ["O", "B-x"]
    examples = Encoder(task, tiny_tokenizer(), 16).examples(given)
    assert examples.gold == [["B-x", None, "O"], [None, "O"]]
    first = examples.first_tokens
    targets = task.targets(examples)
    assert [targets[0][token] for token in first[0]] == [1, IGNORED, 0] and [targets[1][token] for token in first[1]] == [IGNORED, 0]
    right = [np.eye(2, dtype=np.float32)[np.where(target == IGNORED, 1, target)] for target in targets]  # B-x where nothing counts
    assert judge(task, examples, right).quality == 100
    wrong = [np.zeros_like(row) + np.float32([1, 0]) for row in right]
    found = flips(task, examples, wrong, examples, right)
    assert (found.worse, found.better, [row.examples for row in found.by_label]) == (1, 0, [1])
    assert found.examples[0].gold == "B-x O" and found.examples[0].text == "good bad film"
    assert scores_of(task, examples, right).nll < scores_of(task, examples, wrong).nll
    words = Tagging(["O", "B-x"], metric="word-accuracy")
    assert judge(words, examples, wrong).quality == pytest.approx(200 / 3)


# -- texts and columns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "row 1: text is a number, and a text is needed; write it in quotes"),
        (None, "row 1 has no text; every row needs one"),
        (["good", "film"], "row 1: text is a list, and a text is needed; words and their tags are for `task` tagging"),
        ({"a": 1}, "row 1: text is an object"),
        (True, "row 1: text is true or false"),
    ],
)
def test_what_is_no_text_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Classification().inputs_of([{"text": value}])
    assert said in str(caught.value)


def test_half_a_character_is_read_as_one_that_cannot_be_read() -> None:
    assert Classification().inputs_of(rows("text", [json.loads('"a\\ud83d"')])) == ["a\ufffd"]
    assert Tagging().inputs_of(rows("tokens", [[json.loads('"\\ud83d"'), "b"]])) == [["\ufffd", "b"]]


def test_columns_are_found_in_later_rows_and_without_the_spaces_around_them() -> None:
    given: list[Row] = [{"sentence": "a"}, {"sentence": "b", " label ": "x", "text": "no"}]
    task = Classification()
    assert task.columns_of(given) == ("sentence",) and task.label_column_of(given) == " label "
    assert task.has_labels(given) and not task.has_labels(given[:1])
    with pytest.raises(InputError, match="row 1 has no  label ; every row needs one"):
        task.learned_labels(given)


def test_a_missing_column_of_a_file_says_what_may_be_meant(tmp_path: Path) -> None:
    for content, said in (
        ("text;label\ngood;1\n", "a.csv: no column text or .* the columns are text;label; .* as `delimiter` ';'"),
        (
            "good film,positive\nbad,negative\n",
            "the columns are good film, positive; .* or, where the file has no line of names, all columns with `header`",
        ),
    ):
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(InputError, match=said):
            Classification().inputs_of(read_rows(tmp_path / "a.csv"))


def test_a_fault_names_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n\n{"text": 7, "label": "x"}\n{"text": "a", "label": "y"}\n')
    given = read_rows(path)
    with pytest.raises(InputError, match=r"a\.jsonl, line 3: text is a number"):
        Classification(["x", "z"]).inputs_of(given)
    with pytest.raises(InputError, match=r"a\.jsonl, line 4 has the label 'y'"):
        Classification(["x", "z"]).gold_of(given[1:])
