"""Judging: intervals that hold the truth, flips by label, and scores that can be believed."""

from typing import Any

import numpy as np
import pytest
from conftest import tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penjing.maths.statistics import holm, mcnemar
from penjing.tasks.encoder import Encoder
from penjing.tasks.judging import flips, judge, judge_pair, scores_of, temperature_for
from penjing.tasks.metric import SumMetric, difference_interval
from penjing.tasks.metrics import BinaryF1, EntityF1, MacroF1, Mcc, WordAccuracy
from penjing.tasks.sequence import Classification
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples, Task

NAMES = ("a", "b", "c")


def texts(task: Task, gold: list[Any]) -> Examples:
    rows = [{"text": "good", "label": each} if isinstance(each, str) else {"tokens": ["good"] * len(each), "tags": each} for each in gold]
    return Encoder(task, tiny_tokenizer(), 64).examples(rows)


def answers(task: Task, examples: Examples, named: list[Any]) -> list[NDArray[np.float32]]:
    """Logits that answer so."""
    eye = np.eye(len(task.labels), dtype=np.float32)
    if task.head.name == "sequence":
        return [eye[task.labels.index(name)] for name in named]
    rows = [np.zeros((length, len(eye)), np.float32) for length in examples.encoded.lengths]
    for row, tags, first in zip(rows, named, examples.first_tokens, strict=True):
        row[first] = [eye[task.labels.index(tag)] for tag in tags]
    return rows


# -- intervals ---------------------------------------------------------------------------------------------------


def f1_cases(rate: float, lost: float) -> tuple[list[bool], list[bool], list[bool], NDArray[np.float64]]:
    """Teacher, student, gold and share of each kind of text: three of ten are positive, the teacher errs on one of ten."""
    cases = [(gold, right, flip) for gold in (False, True) for right in (False, True) for flip in (False, True)]
    flipped = {True: rate * lost / 0.9, False: rate * (1 - lost) / 0.1}
    shares = [(0.3 if g else 0.7) * (0.9 if r else 0.1) * (flipped[r] if f else 1 - flipped[r]) for g, r, f in cases]
    teacher = [g == r for g, r, _ in cases]
    return teacher, [t != f for t, (_, _, f) in zip(teacher, cases, strict=True)], [g for g, _, _ in cases], np.array(shares)


@pytest.mark.parametrize("lost", [1.0, 0.5])
@pytest.mark.parametrize("rate", [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("n", [50, 100, 200, 408, 872])
def test_93_of_100_intervals_of_a_drop_in_f1_hold_the_truth(n: int, rate: float, lost: float) -> None:
    teacher, student, gold, shares = f1_cases(rate, lost)
    metric = BinaryF1(True)
    a, b = metric.statistics(teacher, gold), metric.statistics(student, gold)
    truth = float(metric.value(1e6 * shares @ a) - metric.value(1e6 * shares @ b))
    random = np.random.default_rng(0)
    held = []
    for _ in range(400):
        counts = random.multinomial(n, shares)
        low, high = difference_interval(np.repeat(a, counts, 0), np.repeat(b, counts, 0), metric)
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.93


METRICS: list[SumMetric] = [BinaryF1("a"), MacroF1(NAMES), Mcc(NAMES)]


@given(st.sampled_from(METRICS), st.lists(st.tuples(*[st.sampled_from(NAMES)] * 3), min_size=2, max_size=40))
def test_the_interval_holds_the_drop_and_turns_with_it(metric: SumMetric, drawn: list[tuple[str, str, str]]) -> None:
    teacher, student, gold = (list(each) for each in zip(*drawn, strict=True))
    a, b = metric.statistics(teacher, gold), metric.statistics(student, gold)
    drop = float(metric.value(a.sum(0)) - metric.value(b.sum(0)))
    low, high = difference_interval(a, b, metric)
    assert low - 1e-6 <= drop <= high + 1e-6 and high - low > 0
    wide = difference_interval(a, b, metric, 0.99)
    assert wide[0] <= low + 1e-9 and high <= wide[1] + 1e-9


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_where_nothing_flips_the_interval_is_what_n_allows_and_narrows_as_n(metric: SumMetric) -> None:
    widths = []
    for n in (60, 600):
        gold = (["a", "b", "c"] * n)[:n]
        stats = metric.statistics(gold, gold)
        low, high = difference_interval(stats, stats, metric)
        assert low == pytest.approx(-high) and high > 100 * 3 / n * 0.5
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.05)


def test_the_interval_of_a_quality_holds_the_truth() -> None:
    """F1 of a label by a model that is wrong on one of ten or one of a hundred, on 60 and 400 texts."""
    metric, random = BinaryF1(True), np.random.default_rng(0)
    task = Classification(["yes", "no"], metric="f1")
    for wrong, n in ((0.1, 60), (0.01, 60), (0.1, 400), (0.01, 400)):
        truth = 200 * 0.3 * (1 - wrong) / (0.3 * (1 - wrong) + 0.7 * wrong + 0.3)
        held = []
        for _ in range(150):
            gold = random.random(n) < 0.3
            found = gold ^ (random.random(n) < wrong)
            stats, perfect = (metric.statistics(each.tolist(), gold.tolist()) for each in (found, gold))
            low, high = difference_interval(perfect, stats, metric)
            held.append(low <= 100 - truth <= high)
        assert np.mean(held) >= 0.91
    examples = texts(task, ["yes", "no"] * 20)
    perfect = judge(task, examples, answers(task, examples, examples.gold))
    assert perfect.quality == perfect.quality_ci95[1] == 100 and 75 < perfect.quality_ci95[0] < 95
    none = judge(task, examples, answers(task, examples, ["no"] * 40))
    assert none.quality == none.quality_ci95[0] == 0 and none.quality_ci95[1] > 5


@pytest.mark.parametrize("metric", [WordAccuracy(), EntityF1()], ids=lambda m: m.name)
def test_a_metric_of_words_has_an_interval_where_no_text_flips(metric: SumMetric) -> None:
    tags = [["B-x", "I-x", "O", "O"]] * 100
    stats = metric.statistics(tags, tags)
    low, high = difference_interval(stats, stats, metric)
    assert low == pytest.approx(-high) and 0.5 < high < 5


# -- a model and its teacher --------------------------------------------------------------------------------------


def test_an_accuracys_pair_is_judged_by_counts_of_flips() -> None:
    task = Classification(["no", "yes"])
    gold = ["yes", "no"] * 100
    examples = texts(task, gold)
    other = {"yes": "no", "no": "yes"}
    ours = [other[g] if i < 9 else g for i, g in enumerate(gold)]
    theirs = [other[g] if 9 <= i < 12 else g for i, g in enumerate(gold)]
    found = judge_pair(task, examples, answers(task, examples, ours), examples, answers(task, examples, theirs), confidence=0.8)
    assert (found.quality, found.teacher_quality, found.drop) == (95.5, 98.5, 3.0)
    assert found.p_value == mcnemar(9, 3)
    low, high = found.drop_ci95
    assert low < 0 < 3 < found.drop_at_most < high  # p is .15, so that 0 is inside
    same = judge_pair(task, examples, answers(task, examples, gold), examples, answers(task, examples, gold))
    assert same.drop == 0 and same.p_value == 1 and same.drop_at_most == same.drop_ci95[1] == pytest.approx(1.885, abs=1e-3)


def test_flips_by_label_are_tested_exactly_and_corrected() -> None:
    task = Classification(list(NAMES))
    gold = ["a"] * 30 + ["b"] * 30 + ["c"] * 30
    ours = ["b"] * 12 + gold[12:]  # twelve a's are lost
    theirs = gold[:30] + ["c"] * 2 + gold[32:]  # two b's are gained
    examples = texts(task, gold)
    found = flips(task, examples, answers(task, examples, ours), examples, answers(task, examples, theirs))
    rows = {row.label: row for row in found.by_label}
    assert (found.worse, found.better) == (12, 2)
    assert [(rows[n].examples, rows[n].worse, rows[n].better) for n in NAMES] == [(30, 12, 0), (30, 0, 2), (30, 0, 0)]
    assert [rows[n].p for n in NAMES] == [2 / 2**12, 0.5, 1.0]
    assert [rows[n].p_holm for n in NAMES] == holm([2 / 2**12, 0.5, 1.0]) == [6 / 2**12, 1.0, 1.0]
    assert found.by_label[0].label == "a"


def test_flips_of_tags_are_by_entity_or_by_word() -> None:
    task = Tagging(["O", "B-x", "L-x", "U-y"])
    examples = texts(task, [["B-x", "L-x", "O", "U-y"]] * 3)
    ours, theirs = [["B-x", "O", "O", "U-y"]] * 3, [["B-x", "L-x", "O", "O"]] * 3
    found = flips(task, examples, answers(task, examples, ours), examples, answers(task, examples, theirs)).by_label
    assert {(r.label, r.examples, r.worse, r.better) for r in found} == {("x", 3, 3, 0), ("y", 3, 0, 3)}
    task = Tagging(["NN", "VB"])
    examples = texts(task, [["NN", "VB", "NN"]])
    found = flips(task, examples, answers(task, examples, [["VB", "VB", "NN"]]), examples, answers(task, examples, examples.gold)).by_label
    assert {(r.label, r.examples, r.worse, r.better) for r in found} == {("NN", 2, 1, 0), ("VB", 1, 0, 0)}


# -- scores --------------------------------------------------------------------------------------------------------


def believable(n: int, seed: int = 0) -> tuple[Task, Examples, NDArray[np.float32]]:
    """Texts whose labels are drawn from the softmax of the logits."""
    random = np.random.default_rng(seed)
    task = Classification(list(NAMES))
    logits = random.normal(0, 2, (n, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gold = [NAMES[random.choice(3, p=row)] for row in p]
    return task, texts(task, gold), logits.astype(np.float32)


def test_a_temperature_mends_what_is_too_sure_and_leaves_the_rest() -> None:
    task, examples, logits = believable(1000)
    sure = list(3 * logits)
    temperature, said = temperature_for(task, examples, sure)
    assert temperature == pytest.approx(3, rel=0.15)
    assert said.taken and said.nll_after < said.nll_before and said.examples + said.judged_on == 1000
    before, after = (scores_of(task, examples, sure, t) for t in (1.0, temperature))
    assert before.ece > 0.1 > 0.05 > after.ece and after.brier < before.brier and after.nll < before.nll
    assert sum(row.examples for row in after.reliability) == 1000


def test_a_temperature_that_does_not_help_the_other_half_is_left() -> None:
    left = [temperature_for(*believable(40, seed)[:2], list(believable(40, seed)[2]))[0] == 1.0 for seed in range(20)]
    assert 3 <= sum(left) <= 17
    task = Classification(list(NAMES))
    examples = texts(task, ["a", "b"] * 10)
    assert temperature_for(task, examples, answers(task, examples, examples.gold))[0] == 1.0  # nothing is wrong: no maximum


def test_scores_of_tags_are_of_labelled_words() -> None:
    task = Tagging(["O", "B-x"])
    examples = texts(task, [["O", "B-x", "O"], ["O"]])
    found = scores_of(task, examples, answers(task, examples, [["O", "O", "O"], ["O"]]), 1.0)
    assert sum(row.examples for row in found.reliability) == 4
    confidence = np.e / (1 + np.e)
    assert found.ece == pytest.approx(abs(confidence - 0.75))
