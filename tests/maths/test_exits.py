"""Scores of answers: between 0 and 1, at their ends where they should be, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penjing.maths.exits import agreeing, class_means, distance_and_entropy, distance_ratio, entropy, places

LOGITS = arrays(np.float32, (5, 3), elements=st.floats(-30, 30, width=32))


@given(LOGITS)
def test_entropy_is_from_none_to_one_and_falls_where_the_answer_is_surer(z: np.ndarray) -> None:
    h = entropy(z)
    assert ((h >= 0) & (h <= 1)).all()
    assert (entropy(2 * z) <= h + 1e-6).all()
    np.testing.assert_allclose(entropy(np.zeros((1, 3))), 1)
    np.testing.assert_allclose(entropy(np.array([[0.0, 1000.0, 0.0]])), 0, atol=1e-12)


def test_agreeing_counts_equal_answers_in_a_row() -> None:
    found = agreeing(np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [2, 2, 2, 2, 2]]))
    assert found.tolist() == [[1, 2, 3, 1, 2], [1, 1, 1, 1, 2], [1, 2, 3, 4, 5]]


def test_distances_by_hand() -> None:
    means = class_means(np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]]), np.array([0, 0, 1]), 2)
    assert means.tolist() == [[1.0, 0.0], [10.0, 0.0]]
    h = np.array([[1.0, 0.0], [5.5, 0.0], [10.0, 0.0], [4.0, 0.0]])
    # on its own prototype; between both; on the other's; a third of the way
    np.testing.assert_allclose(distance_ratio(h, means, np.zeros(4, int)), [0, 0.5, 1, 0.25])
    np.testing.assert_allclose(distance_ratio(h, means, np.ones(4, int)), [1, 0.5, 0, 0.75])


def test_a_class_that_no_text_has_takes_the_mean_of_all() -> None:
    assert class_means(np.array([[0.0], [4.0]]), np.array([0, 0]), 2).tolist() == [[2.0], [2.0]]


@given(arrays(np.float64, (2, 6), elements=st.floats(0, 1)), st.floats(0.1, 10))
def test_the_harmonic_mean_is_between_the_two(both: np.ndarray, blend: float) -> None:
    mean = distance_and_entropy(*both, blend)
    assert (mean >= both.min(0) - 1e-6).all() and (mean <= both.max(0) + 1e-6).all()


def test_both_count_alike_by_default() -> None:
    np.testing.assert_allclose(distance_and_entropy(np.array([0.5]), np.array([0.25])), 1 / 3)


@given(arrays(np.float64, (6, 3), elements=st.floats(0, 1)), st.floats(0, 1))
def test_a_text_leaves_by_the_first_exit_that_is_sure(scores: np.ndarray, threshold: float) -> None:
    found = places(scores, threshold)
    for row, place in zip(scores, found, strict=True):
        assert (row[:place] > threshold).all() and (place == 3 or row[place] <= threshold)
    assert (places(scores, 1.0) == 0).all() and (places(scores, -1.0) == 3).all()
    assert (places(scores, min(1.0, threshold + 0.1)) <= found).all()


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_of_sure_answers_are_no_number_nowhere(classes: int) -> None:
    z = np.full((1, classes), -1e4, np.float32)
    z[0, 0] = 1e4
    score = distance_and_entropy(distance_ratio(np.zeros((1, 4)), np.zeros((classes, 4)), z.argmax(1)), entropy(z))
    assert np.isfinite(score).all() and 0 <= score[0] <= 1
