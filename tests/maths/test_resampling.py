"""Laws of resampling rows: ranks are scipy's, intervals and tests are deterministic and behave at their extremes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import pearsonr, rankdata

from penjing.maths.resampling import (
    CHUNK,
    average_ranks,
    bootstrap_interval,
    correlation,
    paired_interval,
    paired_randomization,
)


@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 8))
def test_ranks_of_every_set_are_scipys_with_ties(seed: int, n: int, different: int) -> None:
    values = np.random.default_rng(seed).integers(0, different, (2, 3, n)).astype(np.float64)
    np.testing.assert_array_equal(average_ranks(values), rankdata(values, axis=-1))


@given(st.integers(0, 999))
def test_the_correlation_is_pearsons_and_0_of_a_constant(seed: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, 9))
    assert float(correlation(x, y)) == pytest.approx(pearsonr(x, y).statistic)
    assert float(correlation(np.ones(9), y)) == 0


def mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the first column of each set."""
    return rows[..., 0].mean(-1)


def test_the_interval_of_a_mean_is_the_normal_one_and_narrows_with_the_confidence() -> None:
    rows = np.random.default_rng(0).normal(size=(400, 1))
    low, high = bootstrap_interval(rows, mean, draws=2 * CHUNK + 900)
    half = 1.96 * rows.std() / 20
    assert (low, high) == pytest.approx((rows.mean() - half, rows.mean() + half), abs=0.02)
    inner = bootstrap_interval(rows, mean, 0.5, draws=2 * CHUNK + 900)
    assert low < inner[0] < inner[1] < high
    assert bootstrap_interval(rows, mean, seed=1) != bootstrap_interval(rows, mean) == bootstrap_interval(rows, mean)


def test_the_same_examples_are_drawn_for_both_of_a_pair() -> None:
    a = np.random.default_rng(0).normal(size=(50, 1))
    assert paired_interval(a, a - 2, mean) == pytest.approx((2, 2))


def test_the_randomization_p_is_1_of_equal_rows_small_of_far_ones_and_uniform_between() -> None:
    random = np.random.default_rng(0)
    a = random.normal(size=(60, 1))
    assert paired_randomization(a, a, mean) == 1
    assert paired_randomization(a, a - 1, mean, draws=999) == pytest.approx(1 / 1000, abs=1e-12)
    p = [paired_randomization(random.normal(size=(40, 1)), random.normal(size=(40, 1)), mean, draws=199) for _ in range(200)]
    assert 0.4 < np.mean(p) < 0.6 and 0.02 < np.mean(np.array(p) <= 0.1) < 0.18
