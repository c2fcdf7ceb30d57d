"""A task of one's own, defined here: its rows, metric and answers; judged, measured, described in engine.json, and served."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import penjing_model, tiny_teacher, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from samples import SHAPE

import penjing
from penjing.engines.clock.measure import RawInputs, Sampling, Subject, measure
from penjing.engines.description import Description
from penjing.engines.form import FLOAT_FORMS, TOKENIZER
from penjing.engines.onnx.export import export
from penjing.errors import InputError
from penjing.job.exporting import describe
from penjing.job.models import open_model
from penjing.maths.answers import Classes, Values
from penjing.maths.statistics import Stats
from penjing.tasks.data import Data
from penjing.tasks.encoder import Encoder
from penjing.tasks.judging import flips, judge, judge_pair, quality_of
from penjing.tasks.metric import SumMetric
from penjing.tasks.metrics import Accuracy, Spearman
from penjing.tasks.names import task_named, task_reference
from penjing.tasks.sequence import Classification, SequenceTask
from penjing.tasks.sources import make_task
from penjing.tasks.task import TaskSettings
from penjing.text.encoding import texts_of
from penjing.text.reading import Reading
from penjing.text.rows import Row

PLACES = ("first", "second", "third")


class Near(SumMetric):
    """Points for an answer by how near it is to the gold place: 1, 1/2 or 0."""

    name = "near"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[1 - abs(PLACES.index(p) - PLACES.index(g)) / 2, 1] for p, g in zip(predicted, gold, strict=True)])

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / np.maximum(total[..., 1], 1))

    def slips(self, stats: Stats) -> Stats:
        return np.stack([np.where(stats[:, 0] > 0, -0.5, 0.0), np.zeros(len(stats))], 1)


class Longest(SequenceTask):
    """Which of three texts is the longest; rows hold them as a list."""

    name = "longest"
    text_columns = (("three",),)
    label_columns = ("longest",)
    takes = "longest takes three texts (str) each"

    def input_of(self, value: Any, where: str) -> Any:
        return " [SEP] ".join(texts_of(value, where, self.takes, count=3))

    def inputs_of(self, rows: Sequence[Row]) -> list[Any]:
        (column,) = self.columns_of(rows)
        return [" [SEP] ".join(row[column]) for row in rows]


REFERENCE = f"{__name__}:Longest"
ROWS: list[Row] = [
    {"three": ["good film", "bad", "a"], "longest": "first"},
    {"three": ["good", "good film", "a"], "longest": "second"},
    {"three": ["good", "bad", "good bad film"], "longest": "third"},
    {"three": ["a a a", "bad", "film"], "longest": "first"},
] * 5


def task() -> Longest:
    return Longest(PLACES, metric=Near())


def answers(*names: str) -> list[NDArray[np.float32]]:
    return [np.eye(3, dtype=np.float32)[PLACES.index(name)] for name in names]


# -- rows, metric and judging --------------------------------------------------------------------------------------


def test_it_reads_its_own_columns_and_learns_its_labels() -> None:
    own = Longest(metric=Near)
    labels = own.learned_labels(ROWS)
    assert labels == ["first", "second", "third"] and own.labels == []
    examples = Encoder(own.with_labels(labels), tiny_tokenizer(), 24).examples(ROWS)
    assert examples.inputs[0] == "good film [SEP] bad [SEP] a" and examples.gold[:3] == list(PLACES)
    assert [int(target[0]) for target in task().targets(examples)[:4]] == [0, 1, 2, 0]
    with pytest.raises(InputError, match="no column three for the text"):
        own.inputs_of([{"text": "good"}])


def test_it_is_judged_by_its_own_metric() -> None:
    own = task()
    assert own.metric().name == "near" and own.metric_said() == "near: it is given as an object" and own.positive == ""
    examples = Encoder(own, tiny_tokenizer(), 24).examples(ROWS)
    teacher = answers(*examples.gold)
    logits = answers("second", "third", *examples.gold[2:])  # two near misses
    assert quality_of(own, examples, logits) == 95 == judge(own, examples, logits).quality
    paired = judge_pair(own, examples, logits, examples, teacher)
    assert (paired.quality, paired.teacher_quality, paired.drop) == (95, 100, 5) and 0.2 < paired.p_value < 1
    assert paired.drop_ci95[0] < 5 < paired.drop_ci95[1] == paired.drop_at_most
    found = flips(own, examples, logits, examples, teacher)
    assert (found.worse, found.better) == (2, 0) and found.examples[0].text == "good film [SEP] bad [SEP] a"
    assert {row.label: (row.examples, row.worse) for row in found.by_label} == {"first": (10, 1), "second": (5, 1), "third": (5, 0)}


def test_a_metric_of_all_rows_judges_a_pair_as_well() -> None:
    own = Classification(["0", "1", "2"], metric=Spearman())
    rows: list[Row] = [{"text": "good", "label": i % 3} for i in range(60)]
    examples = Encoder(own, tiny_tokenizer(), 8).examples(rows)
    eye = np.eye(3, dtype=np.float32)
    teacher, logits = [eye[i % 3] for i in range(60)], [eye[0 if i < 12 else i % 3] for i in range(60)]
    paired = judge_pair(own, examples, logits, examples, teacher, confidence=0.8)
    assert paired.teacher_quality == pytest.approx(100) and paired.p_value < 0.05
    assert paired.quality_ci95[0] < paired.quality < paired.quality_ci95[1] < 100
    assert 0 < paired.drop_ci95[0] < paired.drop < paired.drop_at_most < paired.drop_ci95[1]


@given(st.sampled_from(["near", "Near", "x"]))
def test_a_metric_that_is_none_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"metric: '{name}' does not fit longest; allowed are accuracy, macro-f1, f1, mcc"):
        Longest(metric=name)


# -- by reference --------------------------------------------------------------------------------------------------


def test_it_is_named_by_its_module_where_it_stands_in_no_table() -> None:
    assert task_reference(task()) == task_reference(Longest) == REFERENCE and task_named(REFERENCE) is Longest
    assert task_reference(Classification()) == "classification" and task_named("ner").name == "tagging"
    with pytest.raises(InputError, match=r"^task: 'penjing\.errors:InputError' is no subclass of penjing\.tasks\.task\.Task; give one$"):
        task_named("penjing.errors:InputError")
    with pytest.raises(InputError, match=r"^task: 'nowhere:Task' is somebody's own, in a module that is not imported"):
        task_named("nowhere:Task")


def test_options_of_reading_come_before_an_objects_own_settings() -> None:
    own = make_task(task(), Reading(metric="accuracy", label_map="1=first"))
    assert isinstance(own.metric(), Accuracy) and own.labels == list(PLACES)
    assert own.settings == TaskSettings(metric="accuracy", label_map={"1": "first"})
    for kind in (REFERENCE, Longest, Longest(metric=Near())):
        assert isinstance(make_task(kind, Reading()), Longest)
    assert isinstance(make_task(task(), Reading()).metric(), Near)
    assert isinstance(make_task(REFERENCE, Reading(metric=f"{__name__}:Near")).metric(), Near)


def test_it_says_how_its_answers_are_compared() -> None:
    class Number(Longest):
        answers = Values

    assert isinstance(task().answer_losses(), Classes) and isinstance(Number().answer_losses(), Values)


# -- served --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An engine folder of a random model for the task, described as a job does."""
    encoder = Encoder(task(), tiny_tokenizer(), SHAPE.positions)
    examples = encoder.examples(ROWS)
    form = next(form for form in FLOAT_FORMS if form.engine == "onnxruntime")
    export(penjing_model(replace(SHAPE, outputs=3)), tmp_path, [form.file], segments=False)
    encoder.tokenizer.save(str(tmp_path / TOKENIZER))
    describe(tmp_path, Data(encoder, examples, examples, Reading()), [form], temperature=2.0)
    return tmp_path


def test_a_folder_names_it_and_its_metric_by_reference_and_is_served_and_judged(folder: Path) -> None:
    about = json.loads((folder / "engine.json").read_text())
    assert (about["task"], about["metric"], about["positive"]) == (REFERENCE, f"{__name__}:Near", "")
    assert Description.read(folder).task == REFERENCE
    model = penjing.load(folder, threads=1)
    assert type(model.task) is Longest
    three = [row["three"] for row in ROWS[:4]]
    shown = model(three)
    assert [sorted(each) for each in shown] == [["label", "score"]] * 4 and {each["label"] for each in shown} <= set(PLACES)
    with pytest.raises(InputError, match=r"inputs\[1\] is a list, .*; longest takes three texts"):
        model([three[0], ["good", "bad"]])
    opened = open_model(str(folder), None, "", Reading())
    assert type(opened.task) is Longest and isinstance(opened.task.metric(), Near)
    encoded, first, _ = opened.encoder(opened.task.inputs_of(ROWS[:4]))
    assert opened.task.decode(model.engine.logits(encoded), first) == [each["label"] for each in shown]


def test_it_is_evaluated_against_a_plain_teacher(folder: Path, tmp_path: Path) -> None:
    teacher = tiny_teacher(tmp_path / "teacher", labels=PLACES)
    found = penjing.evaluate(folder, ROWS, teacher=teacher, task=REFERENCE, threads=1)
    assert found.metric == "near" and found.flipped is not None


def test_its_answers_are_timed_end_to_end_in_a_process_of_their_own(folder: Path) -> None:
    encoder = Encoder(task(), tiny_tokenizer(), SHAPE.positions)
    inputs = encoder.task.inputs_of(ROWS[:4])
    subject = Subject(Description.read(folder).forms[0], folder)
    sampling = Sampling(rounds=1, throughput_texts=0)
    (measured,) = measure([subject], encoder(inputs)[0], threads=1, sampling=sampling, raw=RawInputs(task(), inputs, SHAPE.positions))
    assert measured.end_to_end_ms is not None and measured.end_to_end_ms > measured.latency_ms > 0
