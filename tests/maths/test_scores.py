"""Laws of calibration: the figures are those of a loop and of scikit-learn, and a temperature is the likeliest there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from penjing.maths.scores import ReliabilityBin, brier, expected_calibration_error, fit_temperature, log_softmax, nll, reliability


def drawn(seed: int, n: int = 400, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and targets that are drawn from their softmax."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (n, classes))
    return logits, (np.exp(log_softmax(logits)).cumsum(1) > random.random((n, 1))).argmax(1)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_ece_is_that_of_a_loop_over_half_open_bins(rows: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    expected = 0.0
    for i in range(bins):
        inside = [(c, r) for c, r in rows if (i / bins < c <= (i + 1) / bins or (i == 0 and c == 0))]
        if inside:
            expected += abs(sum(c for c, _ in inside) - sum(r for _, r in inside)) / len(rows)
    close = np.isclose(confidence * bins, np.round(confidence * bins)) & (confidence > 0)
    if not close.any():  # whether an edge is below or above itself is rounding
        assert expected_calibration_error(confidence, right, bins) == pytest.approx(expected)
    assert sum(row.examples for row in reliability(confidence, right, bins)) == len(rows)


def test_ece_of_sure_answers_is_the_share_that_is_wrong() -> None:
    right = np.array([True] * 7 + [False] * 3)
    assert expected_calibration_error(np.ones(10), right) == pytest.approx(0.3)
    assert expected_calibration_error(np.full(10, 0.7), right) == pytest.approx(0)
    assert reliability(np.ones(10), right, 4) == [ReliabilityBin(0.75, 1.0, 10, 1.0, 0.7)]


def test_brier_and_likelihood_are_scikit_learns() -> None:
    logits, targets = drawn(0, classes=2)
    p = np.exp(log_softmax(logits))
    assert brier(p, targets) == pytest.approx(2 * brier_score_loss(targets, p[:, 1]))
    logits, targets = drawn(1)
    assert nll(logits, targets) == pytest.approx(log_loss(targets, np.exp(log_softmax(logits))))


@settings(max_examples=25)
@given(st.integers(0, 99), st.floats(0.2, 5))
def test_the_temperature_is_the_likeliest_and_scales_with_the_logits(seed: int, scale: float) -> None:
    logits, targets = drawn(seed)
    found = fit_temperature(logits, targets)
    for other in (0.97, 1.03):
        assert nll(logits / found, targets) < nll(logits / (found * other), targets)
    assert fit_temperature(scale * logits, targets) == pytest.approx(scale * found, rel=1e-6)


def test_the_temperature_of_honest_logits_is_about_1() -> None:
    assert fit_temperature(*drawn(3, 20_000)) == pytest.approx(1, abs=0.05)
