"""Choosing texts: so many rows, each once, ascending; and they are what the strategy says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penjing.errors import InputError
from penjing.maths.statistics import softmax
from penjing.training.sample import BY_LOGITS, STRATEGIES, certain, choose, margin, per_text, uncertain

RATHER = {"uncertain": uncertain, "margin": margin, "certain": certain}


def drawn(seed: int, texts: int, classes: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return (3 * random.standard_normal((texts, classes))).astype(np.float32), random.integers(1, 9, texts)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(seed=st.integers(0, 99), texts=st.integers(1, 40), count=st.integers(0, 60), per_token=st.booleans())
def test_rows_are_unique_ascending_and_as_many_as_asked(strategy: str, seed: int, texts: int, count: int, per_token: bool) -> None:
    logits, lengths = drawn(seed, texts)
    if per_token:
        logits, _ = drawn(seed, int(lengths.sum()))
    rows = choose(strategy, count, logits, lengths, seed)
    assert len(rows) == min(count, texts) and set(rows) <= set(range(texts)) and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, choose(strategy, count, logits, lengths, seed))


@given(st.integers(0, 99), st.integers(1, 30), st.sampled_from(sorted(RATHER)))
def test_none_that_is_left_out_scores_lower(seed: int, count: int, strategy: str) -> None:
    logits, lengths = drawn(seed, 30)
    score = RATHER[strategy](logits)
    left = np.delete(score, choose(strategy, count, logits, lengths, 0))
    assert score[choose(strategy, count, logits, lengths, 0)].max() <= left.min(initial=np.inf)


def test_the_most_uncertain_are_those_between_classes() -> None:
    logits = np.array([[9, 0, 0], [0, 0, 0], [5, 5, -9], [0, 1, 0]], np.float32)
    assert uncertain(logits)[1] == pytest.approx(-np.log(3)) and margin(logits)[2] == pytest.approx(0)
    assert uncertain(logits)[2] == pytest.approx(-np.log(2), abs=1e-4)
    lengths = np.ones(4, np.int64)
    assert choose("uncertain", 2, logits, lengths, 0).tolist() == [1, 3]
    assert choose("margin", 2, logits, lengths, 0).tolist() == [1, 2]
    assert choose("certain", 1, logits, lengths, 0).tolist() == [0]


@given(st.integers(0, 99), st.floats(-200, 200))
def test_probabilities_do_not_depend_on_what_all_logits_share(seed: int, shift: float) -> None:
    logits, _ = drawn(seed, 20)
    np.testing.assert_allclose(softmax(logits + np.float32(shift)).sum(1), 1)
    np.testing.assert_allclose(uncertain(logits + np.float32(shift)), uncertain(logits), atol=1e-3)


def test_tokens_count_as_the_mean_of_their_text() -> None:
    lengths = np.array([2, 1, 3])
    assert per_text(np.array([1.0, 3, 7, 1, 1, 4]), lengths).tolist() == [2, 7, 2]
    flat, sharp = [0.0, 0.0], [9.0, 0.0]
    logits = np.array([flat, sharp, sharp, flat, flat, sharp], np.float32)
    assert choose("uncertain", 1, logits, lengths, 0).tolist() == [2]
    assert choose("certain", 1, logits, lengths, 0).tolist() == [1]


@given(st.integers(0, 99), st.integers(1, 40))
def test_short_takes_the_fewest_tokens(seed: int, count: int) -> None:
    _, lengths = drawn(seed, 40)
    assert lengths[choose("short", count, None, lengths, seed)].sum() == np.sort(lengths)[:count].sum()


@given(st.integers(0, 99), st.integers(1, 60))
def test_balanced_lengths_are_even_as_far_as_there_are_texts(seed: int, count: int) -> None:
    _, lengths = drawn(seed, 60)
    found = lengths[choose("balanced-length", count, None, lengths, seed)]
    chosen, there = np.bincount(found, minlength=9), np.bincount(lengths, minlength=9)
    open_still = chosen < there
    assert (chosen[there > 0].max() - chosen[open_still].min(initial=60)) <= 1


def test_mixed_is_half_uncertain_and_the_rest_differs_by_seed() -> None:
    logits, lengths = drawn(0, 200)
    top = set(choose("uncertain", 20, logits, lengths, 0))
    first, other = (set(choose("mixed", 40, logits, lengths, seed)) for seed in (0, 1))
    assert top < first and top < other and first != other
    assert len((first & other) - top) < 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ties_are_broken_by_the_seed(strategy: str) -> None:
    logits, lengths = np.zeros((50, 2), np.float32), np.full(50, 7)
    a, b = (choose(strategy, 10, logits, lengths, seed) for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_what_cannot_be_is_refused_with_what_can() -> None:
    lengths = np.ones(3, np.int64)
    with pytest.raises(InputError, match=r"sample: 'best' .* random, uncertain"):
        choose("best", 1, None, lengths, 0)
    for strategy in BY_LOGITS:
        with pytest.raises(InputError, match="needs the teacher's answers"):
            choose(strategy, 1, None, lengths, 0)
