"""The metrics are those of seqeval and scikit-learn."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from penjing.tasks.metric import SumMetric
from penjing.tasks.metrics import Accuracy, BinaryF1, EntityF1, MacroF1, Mcc, Spearman, WordAccuracy
from penjing.tasks.tags import entities

IOB = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
IOBES = (*IOB, "E-PER", "S-PER", "E-LOC", "S-LOC")
BARE = ("O", "B", "I", "B-PER", "I-PER")
DASHED = ("O", "B-geo-loc", "I-geo-loc", "B-geo", "I-geo")


def points(metric: SumMetric, predicted: list[Any], gold: list[Any]) -> float:
    return float(metric.value(metric.statistics(predicted, gold).sum(0)))


def sentences(tags: tuple[str, ...]) -> st.SearchStrategy[list[tuple[list[str], list[str]]]]:
    """Sentences with predicted and gold tags, drawn freely, so that most sequences are broken; some predictions are right."""
    pair = st.integers(1, 9).flatmap(
        lambda n: st.tuples(*[st.lists(st.sampled_from(tags), min_size=n, max_size=n)] * 2, st.booleans()).map(
            lambda drawn: (drawn[1] if drawn[2] else drawn[0], drawn[1])
        )
    )
    return st.lists(pair, min_size=1, max_size=4)


@settings(max_examples=200)
@given(st.sampled_from([IOB, IOBES, BARE, DASHED]).flatmap(sentences))
def test_entity_f1_is_seqevals(drawn: list[tuple[list[str], list[str]]]) -> None:
    predicted, gold = [p for p, _ in drawn], [g for _, g in drawn]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = 100 * seqeval_f1(gold, predicted)
    assert points(EntityF1(), predicted, gold) == pytest.approx(expected)


@settings(max_examples=200)
@given(st.sampled_from([IOB, IOBES, BARE, DASHED]).flatmap(lambda tags: st.lists(st.sampled_from(tags), max_size=12)))
def test_entities_are_seqevals(tags: list[str]) -> None:
    assert entities(tags) == [tuple(found) for found in get_entities(tags)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_accuracy_and_f1_are_scikit_learns(drawn: list[tuple[str, str]]) -> None:
    predicted, gold = [p for p, _ in drawn], [g for _, g in drawn]
    assert points(Accuracy(), predicted, gold) == pytest.approx(100 * accuracy_score(gold, predicted))
    yes = [p == "b" for p in predicted], [g == "b" for g in gold]
    assert points(BinaryF1("b"), predicted, gold) == pytest.approx(100 * f1_score(yes[1], yes[0], zero_division=0))


@given(st.sampled_from([IOB, IOBES]).flatmap(sentences))
def test_a_metric_is_a_function_of_sums_over_any_split(drawn: list[tuple[list[str], list[str]]]) -> None:
    predicted, gold = [p for p, _ in drawn], [g for _, g in drawn]
    metric = EntityF1()
    stats = metric.statistics(predicted, gold)
    assert stats.shape == (len(drawn), 3)
    parts = [metric.statistics([p], [g])[0] for p, g in drawn]
    np.testing.assert_array_equal(stats, parts)
    np.testing.assert_array_equal(metric.value(np.stack([stats.sum(0)] * 2)), [points(metric, predicted, gold)] * 2)


@given(st.sampled_from([IOB, IOBES]).flatmap(sentences))
def test_the_gold_itself_is_perfect(drawn: list[tuple[list[str], list[str]]]) -> None:
    gold = [g for _, g in drawn]
    assert points(EntityF1(), gold, gold) == (100 if any(entities(g) for g in gold) else 0)
    assert points(Accuracy(), gold, gold) == 100


@pytest.mark.parametrize(
    "tags,expected",
    [
        ("O B-LOC I-LOC O B-PER", [("LOC", 1, 2), ("PER", 4, 4)]),
        ("B-LOC B-LOC I-LOC", [("LOC", 0, 0), ("LOC", 1, 2)]),
        ("B-LOC I-PER", [("LOC", 0, 0), ("PER", 1, 1)]),
        ("O I-LOC I-LOC", [("LOC", 1, 2)]),
        ("S-LOC B-PER I-PER E-PER", [("LOC", 0, 0), ("PER", 1, 3)]),
        ("S-LOC I-LOC", [("LOC", 0, 0), ("LOC", 1, 1)]),
        ("B-LOC E-LOC E-LOC", [("LOC", 0, 1), ("LOC", 2, 2)]),
        ("B I O B", [("_", 0, 1), ("_", 3, 3)]),
        ("B-geo-loc I-geo-loc", [("geo-loc", 0, 1)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == expected


def test_nothing_found_and_nothing_to_find_is_zero() -> None:
    assert points(EntityF1(), [["O"]], [["O"]]) == 0
    assert points(BinaryF1("yes"), ["no"], ["no"]) == 0


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=1, max_size=40))
def test_macro_f1_and_mcc_are_scikit_learns(drawn: list[tuple[str, str]]) -> None:
    predicted, gold = [p for p, _ in drawn], [g for _, g in drawn]
    assert points(MacroF1("abcde"), predicted, gold) == pytest.approx(100 * f1_score(gold, predicted, average="macro", zero_division=0))
    assert points(Mcc("abcde"), predicted, gold) == pytest.approx(100 * matthews_corrcoef(gold, predicted))


@given(
    st.sampled_from([Accuracy(), BinaryF1("a"), MacroF1("abc"), Mcc("abc")]),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=2, max_size=30),
)
def test_a_slip_is_the_change_by_a_wrong_answer(metric: SumMetric, drawn: list[tuple[str, str]]) -> None:
    """Over the answers that were right: the mean over the other labels that are there."""
    predicted, gold = [p for p, _ in drawn], [g for _, g in drawn]
    stats = metric.statistics(predicted, gold)
    for row, slip, p, g in zip(stats, metric.slips(stats), predicted, gold, strict=True):
        if p != g:
            continue
        others = [other for other in sorted({*predicted, *gold}) if other != g]
        if metric.name == "f1":
            others = ["a" if g != "a" else "b"]
        changed = [metric.statistics([other], [g])[0] - row for other in others]
        np.testing.assert_allclose(slip, np.mean(changed, 0) if changed else slip)


def test_a_slip_of_words_is_one_word_or_entity() -> None:
    gold = [["B-x", "O"], ["O", "O"]]
    np.testing.assert_array_equal(WordAccuracy().slips(WordAccuracy().statistics(gold, gold)), [[-1, 0], [-1, 0]])
    np.testing.assert_array_equal(EntityF1().slips(EntityF1().statistics(gold, gold)), [[-1, -1, 0], [0, 1, 0]])


# -- Spearman's correlation ------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40))
def test_spearman_is_scipys_of_numbers_and_of_labels_written_as_numbers(drawn: list[tuple[int, int]]) -> None:
    predicted, gold = [p for p, _ in drawn], [g for _, g in drawn]
    value = Spearman().quality(predicted, gold)
    constant = len(set(predicted)) == 1 or len(set(gold)) == 1
    assert value == pytest.approx(0 if constant else 100 * spearmanr(predicted, gold).statistic)
    assert value == Spearman().quality([str(p) for p in predicted], [str(g) for g in gold])


def correlated(random: np.random.Generator, n: int, *correlations: float) -> list[np.ndarray]:
    """Gold numbers, and predictions of such correlations with them."""
    gold = random.normal(size=n)
    return [gold, *(rho * gold + np.sqrt(1 - rho**2) * random.normal(size=n) for rho in correlations)]


@pytest.mark.parametrize("n,rho", [(40, 0.5), (100, 0.9)])
def test_the_interval_of_spearman_covers(n: int, rho: float) -> None:
    metric, random = Spearman(), np.random.default_rng(0)
    gold, predicted = correlated(random, 200_000, rho)
    truth = metric.quality(predicted, gold)
    covered = []
    for _ in range(120):
        gold, predicted = correlated(random, n, rho)
        low, high = metric.interval(metric.statistics(predicted, gold), metric.statistics(gold, gold))
        assert low <= metric.quality(predicted, gold) <= high <= 100
        covered.append(low <= truth <= high)
    assert np.mean(covered) >= 0.89


def test_the_interval_of_a_drop_in_spearman_covers_and_its_test_sees_it() -> None:
    metric, random = Spearman(), np.random.default_rng(0)
    gold, better, worse = correlated(random, 200_000, 0.9, 0.8)
    truth = metric.quality(better, gold) - metric.quality(worse, gold)
    covered, seen = [], []
    for _ in range(60):
        gold, better, worse = correlated(random, 100, 0.9, 0.8)
        a, b = metric.statistics(better, gold), metric.statistics(worse, gold)
        low, high = metric.drop_interval(a, b)
        wide = metric.drop_interval(a, b, 0.99)
        assert wide[0] <= low <= metric.points(a) - metric.points(b) <= high <= wide[1]
        covered.append(low <= truth <= high)
        seen.append(metric.p_value(a, b) < 0.05)
    assert np.mean(covered) >= 0.88 and np.mean(seen) > 0.5
    assert metric.p_value(a, a) == 1 and metric.drop_interval(a, a) == (0, 0)
