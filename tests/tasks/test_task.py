"""Tasks: columns by convention, labels by name or number, truncation said, Chinese text, words over sub-words."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_tokenizer
from tokenizers import BertWordPieceTokenizer

from penjing.errors import InputError
from penjing.tasks.encoder import Encoder
from penjing.tasks.metrics import Accuracy, BinaryF1, EntityF1, MacroF1, Spearman
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.tasks.tags import Scheme
from penjing.tasks.task import IGNORED, LabelNames, Task, TaskSettings

SHARED = Path(os.environ.get("PENJING_SHARED", Path(__file__).parents[3] / "shared")) / "data"


def test_labels_are_learnt_in_order() -> None:
    assert Classification().learned_labels([{"label": n} for n in (10, 2, 1)]) == ["1", "2", "10"]
    assert Tagging().learned_labels([{"tags": ["B-b", "O", "I-a", "B-a", "I-b"]}]) == ["O", "B-a", "I-a", "B-b", "I-b"]


def test_a_label_may_be_a_name_or_a_number_and_an_unknown_one_is_named() -> None:
    task = Classification(["negative", "positive"])
    assert task.gold_of([{"label": "positive"}, {"label": 0}]) == ["positive", "negative"]
    with pytest.raises(InputError, match=r"row 1 has the label 'neutral'; the model's labels are negative, positive; .* `label_map`"):
        task.gold_of([{"label": "neutral"}])
    with pytest.raises(InputError, match="has the label '2'"):
        task.gold_of([{"label": 2}])


def test_a_wrong_column_is_said_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no column .*the columns are a, b; name it with `text_columns`"):
        Classification().inputs_of([{"a": "x", "b": 1}])
    assert Classification(columns=["a"]).inputs_of([{"a": "x", "b": 1}]) == ["x"]
    assert Pair().inputs_of([{"sentence1": "x", "sentence2": "y"}]) == [("x", "y")]


def test_a_long_text_is_cut_and_counted() -> None:
    rows = [{"text": "good " * 50, "label": 0}, {"text": "bad", "label": 1}]
    examples = Encoder(Classification(["a", "b"]), tiny_tokenizer(), 16).examples(rows)
    assert examples.truncated == 1
    assert examples.encoded.lengths.tolist()[0] == 16


def test_a_pair_has_two_token_types() -> None:
    encoded, _, _ = Encoder(Pair(["0", "1"]), tiny_tokenizer(), 32)([("good", "bad film")])
    assert set(encoded.types.tolist()) == {0, 1}


def test_a_word_is_answered_by_its_first_token_and_what_is_cut_off_is_outside() -> None:
    task = Tagging(["O", "B-x", "I-x"])
    rows = [{"tokens": ["good", "goodbad", "film"], "tags": ["B-x", "I-x", "O"]}]
    examples = Encoder(task, tiny_tokenizer(), 32).examples(rows)
    first = examples.first_tokens[0]
    assert first == sorted(first) and first[0] == 1
    targets = task.targets(examples)[0]
    assert [targets[t] for t in first] == [1, 2, 0] and (targets == IGNORED).sum() == len(targets) - 3
    logits = np.eye(3, dtype=np.float32)[np.where(targets == IGNORED, 0, targets)]
    assert task.decode([logits], [first]) == [["B-x", "I-x", "O"]]
    assert task.decode([logits], [[first[0], -1, first[2]]]) == [["B-x", "O", "O"]]
    with pytest.raises(InputError, match="row 1 has 2 words and 1 tags"):
        task.gold_of([{"tokens": ["a", "b"], "tags": ["O"]}])


def test_a_tag_of_a_known_type_counts_as_missed_and_another_is_refused() -> None:
    task = Tagging(["O", "B-x"])
    gold = task.gold_of([{"tokens": ["good", "film"], "tags": ["B-x", "I-x"]}])
    assert gold == [["B-x", "I-x"]]
    assert task.metric().value(task.metric().statistics([["B-x", "O"]], gold).sum(0)) == 0
    with pytest.raises(InputError, match="the label 'B-y'"):
        task.gold_of([{"tokens": ["good"], "tags": ["B-y"]}])


def test_tags_that_mark_no_spans_are_judged_by_words() -> None:
    metric = Tagging(["NOUN", "VERB"]).metric()
    assert metric.name == "word_accuracy"
    assert metric.value(metric.statistics([["NOUN", "VERB", "NOUN"]], [["NOUN", "NOUN", "VERB"]]).sum(0)) == pytest.approx(100 / 3)
    assert Tagging(["O", "B-x", "I-x"]).metric().name == "entity_f1"


def test_chinese_text_with_the_vocabulary_of_bert_base_chinese() -> None:
    vocabulary = SHARED / "bert_base_chinese_vocab" / "vocab.txt"
    if not vocabulary.is_file():
        pytest.skip(f"{vocabulary} is not here: set PENJING_SHARED to the folder that holds data/")
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)._tokenizer
    encoded, _, _ = Encoder(Classification(["0", "1"]), tokenizer, 32)(["酒店很好，服务不错"])
    assert len(encoded.row(0)) == 11 and tokenizer.token_to_id("[UNK]") not in encoded.row(0)
    words = list("高勇：男")
    task = Tagging(["O", "B-NAME", "I-NAME"])
    _, first, _ = Encoder(task, tokenizer, 32)([words])
    assert first == [[1, 2, 3, 4]]


# -- metrics by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "labels", "options", "name", "said"),
    [
        (Classification, ["a", "b"], {}, "accuracy", "accuracy: the convention"),
        (Classification, ["a", "b", "c"], {"metric": "macro-f1"}, "macro_f1", "macro F1: as was asked"),
        (Pair, ["a", "b"], {"metric": "MCC"}, "mcc", "Matthews"),
        (
            Pair,
            ["duplicate", "not_duplicate"],
            {"metric": "f1"},
            "f1",
            "F1 of 'duplicate': it is the positive of duplicate / not_duplicate",
        ),
        (Pair, ["a", "b", "c"], {"metric": "f1", "positive": "b"}, "f1", "F1 of 'b': as was asked"),
        (Tagging, ["O", "B-X", "M-X", "E-X", "S-X"], {}, "entity_f1", "entity F1: the tags mark spans by BMES"),
        (Tagging, ["VB", "NN", "JJ"], {}, "word_accuracy", "word accuracy: the tags mark no spans (VB, NN, ...)"),
        (Tagging, ["O", "B-X"], {"metric": "entity_f1_strict"}, "entity_f1_strict", "entity F1, strict: the tags mark spans by IOB"),
        (Tagging, ["O", "B-X"], {"metric": "word-accuracy"}, "word_accuracy", "word accuracy: as was asked"),
    ],
)
def test_the_metric_is_taken_by_name_or_convention_and_says_why(
    kind: type[Task], labels: list[str], options: dict[str, str], name: str, said: str
) -> None:
    task = kind(labels, **options)
    assert task.metric().name == name
    assert task.metric_said().startswith(said)


@pytest.mark.parametrize(
    ("kind", "labels", "options", "said"),
    [
        (
            Classification,
            ["a", "b"],
            {"metric": "entity-f1"},
            "metric: 'entity-f1' does not fit classification; allowed are accuracy, macro-f1",
        ),
        (Tagging, ["O", "B-x"], {"metric": "accuracy"}, "does not fit tagging; allowed are entity-f1, entity-f1-strict, word-accuracy"),
        (Tagging, ["NN", "VB"], {"metric": "entity-f1"}, "entity-f1 does not fit tags that mark no spans"),
        (Pair, ["a", "b"], {"metric": "f1"}, "a / b do not say which is; give `positive`"),
        (Pair, ["a", "b", "c"], {"metric": "f1"}, "give `positive`, or `metric` macro-f1"),
        (Pair, ["a", "b"], {"metric": "f1", "positive": "d"}, "positive: 'd' is no label; the labels are a, b"),
        (Pair, ["a", "b"], {"positive": "a"}, "positive: nothing asks for it"),
    ],
)
def test_a_metric_that_cannot_be_taken_is_refused(kind: type[Task], labels: list[str], options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(labels, **options).metric()
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [["equivalent", "not_equivalent"], ["not_equivalent", "equivalent"], ["match", "no_match"], ["0", "1"]])
def test_f1_is_of_the_positive_label_and_not_of_the_last(labels: list[str]) -> None:
    task = Pair(labels, metric="f1")
    yes, no = task.positive, next(name for name in labels if name != task.positive)
    assert yes in ("equivalent", "match", "1")
    metric = task.metric()
    assert metric.value(metric.statistics([yes, no, no], [yes, yes, no]).sum(0)) == pytest.approx(200 / 3)
    assert Pair(labels).positive == ""


@pytest.mark.parametrize(
    ("task", "name", "positive"),
    [
        (Tagging(["O", "B-x", "I-x"], metric=EntityF1(Scheme("IOB"), strict=True)), "entity_f1_strict", ""),
        (Tagging(["O", "B-x", "I-x"], metric=EntityF1(Scheme("IOB"))), "entity_f1", ""),
        (Classification(["no", "yes"], metric=BinaryF1("no")), "f1", "no"),
        (Classification(["0", "1"], metric=Accuracy()), "accuracy", ""),
        (Classification(["0", "1"], metric=Spearman()), "penjing.tasks.metrics:Spearman", ""),
    ],
)
def test_a_metric_that_is_an_object_is_named_so_that_it_is_the_same_again(task: Task, name: str, positive: str) -> None:
    assert (task.metric_reference(), task.positive) == (name, positive)
    again = type(task)(task.labels, metric=name, positive=positive).metric()
    assert type(again) is type(task.metric()) and vars(again) == vars(task.metric())


@pytest.mark.parametrize(
    "task",
    [
        Tagging(["O", "B-x", "I-x"], metric=EntityF1(Scheme("IOBES"), strict=True)),
        Tagging(["NN", "VB"], metric=EntityF1(Scheme("IO"))),
        Classification(["a", "b"], metric=MacroF1(["a"])),
    ],
)
def test_a_metric_that_no_file_can_name_is_refused(task: Task) -> None:
    with pytest.raises(InputError, match=r"^metric: .* was made with settings of its own, which no file holds; give one of "):
        task.metric_reference()


def test_a_metric_that_takes_arguments_is_given_as_an_object() -> None:
    with pytest.raises(InputError, match=r"^metric: BinaryF1 cannot be made without arguments \(.*'positive'\); give an object of it$"):
        Classification(["a", "b"], metric="penjing.tasks.metrics:BinaryF1")


def test_labels_that_are_set_anew_have_a_new_index() -> None:
    task = Classification(["no", "yes"])
    examples = Encoder(task, tiny_tokenizer(), 16).examples([{"text": "good", "label": "yes"}])
    assert task.targets(examples)[0].tolist() == [1]
    turned = task.with_labels(["yes", "no"])
    assert turned.targets(examples)[0].tolist() == [0] and task.targets(examples)[0].tolist() == [1]
    turned.labels.reverse()  # a copy
    assert turned.targets(examples)[0].tolist() == [0] and turned.labels == ["yes", "no"]


def test_a_task_never_changes() -> None:
    task = Pair(["no", "yes"], metric="f1", columns=("a", "b"), label_map={"0": "no"})
    for name, value in (("labels", ["a", "b"]), ("label_names", LabelNames(("a",))), ("settings", TaskSettings())):
        with pytest.raises(AttributeError):
            setattr(task, name, value)
    other = task.with_labels(["a", "b"])
    assert other.settings == task.settings and type(other) is Pair and task.labels == ["no", "yes"]
    other = task.with_settings(TaskSettings(metric="mcc"))
    assert (other.labels, other.metric().name, task.metric().name) == (task.labels, "mcc", "f1")
    with pytest.raises(InputError, match="positive: nothing asks for it"):
        task.with_settings(TaskSettings(positive="yes"))


def test_targets_of_texts_without_a_label_are_ignored() -> None:
    task, tagging = Classification(["no", "yes"]), Tagging(["O", "B-x"])
    none = replace(Encoder(task, tiny_tokenizer(), 16).examples([{"text": "good", "label": "yes"}] * 2), gold=["yes", None])
    assert [each.tolist() for each in task.targets(none)] == [[1], [IGNORED]]
    words = Encoder(tagging, tiny_tokenizer(), 16).examples([{"tokens": ["good"]}], labelled=False)
    assert [each.tolist() for each in tagging.targets(words)] == [[IGNORED] * 3]


def test_digits_that_are_no_numbers_are_names() -> None:
    assert Classification().learned_labels([{"label": name} for name in ("②", "①", "--1")]) == ["--1", "①", "②"]


def test_an_unknown_tag_of_a_known_type_counts_as_missed_in_every_scheme() -> None:
    task = Tagging(["O", "x_B", "x_I"])
    assert task.gold_of([{"tokens": ["good"], "tags": ["x_E"]}]) == [["x_E"]]
    with pytest.raises(InputError, match="the label 'y_B'"):
        task.gold_of([{"tokens": ["good"], "tags": ["y_B"]}])
