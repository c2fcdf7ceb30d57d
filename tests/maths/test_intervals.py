"""Laws of score intervals: they are what other code and brute force say, and hold the truth where few answers flip."""

from math import lgamma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from penjing.maths.intervals import effects_interval, tango, wilson, z_of
from penjing.maths.resampling import bootstrap_interval

Z = z_of(0.95)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilsons_interval_is_scipys(drawn: tuple[int, int], confidence: float) -> None:
    right, n = drawn
    expected = binomtest(right, n).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson(right, n, confidence), (expected.low, expected.high), atol=1e-12)


def score(lost: int, gained: int, n: int, difference: float) -> float:
    """Tango's statistic, its nuisance parameter found by maximising the likelihood."""

    def minus_log(q: float) -> float:
        cells = ((lost, q + difference), (gained, q), (n - lost - gained, 1 - 2 * q - difference))
        return -sum(count * np.log(max(p, 1e-300)) for count, p in cells if count)

    least = max(0.0, -difference)
    q = float(minimize_scalar(minus_log, bounds=(least, (1 - difference) / 2), method="bounded", options={"xatol": 1e-13}).x)
    return (lost - gained - n * difference) / np.sqrt(n * (2 * q + difference - difference**2))


@pytest.mark.parametrize(("lost", "gained", "n"), [(12, 2, 50), (3, 1, 200), (7, 7, 100), (5, 4, 30), (40, 3, 872)])
def test_the_ends_of_tangos_interval_are_where_the_score_is_z(lost: int, gained: int, n: int) -> None:
    low, high = (float(end) for end in tango(lost, gained, n))
    assert low < (lost - gained) / n < high
    assert score(lost, gained, n, low) == pytest.approx(Z, abs=1e-4)
    assert score(lost, gained, n, high) == pytest.approx(-Z, abs=1e-4)


@pytest.mark.parametrize("n", [10, 50, 872])
def test_where_nothing_flips_the_interval_is_what_n_allows(n: int) -> None:
    np.testing.assert_allclose(tango(0, 0, n), (-(Z**2) / (n + Z**2), Z**2 / (n + Z**2)), atol=1e-12)
    low, high = effects_interval(np.zeros(n), 1 / n, 0.0)
    np.testing.assert_allclose((low, high), (-(Z**2) / n, Z**2 / n))


@given(st.integers(0, 20), st.integers(0, 20), st.integers(40, 200))
def test_tangos_interval_is_antisymmetric_and_widens_with_confidence(lost: int, gained: int, n: int) -> None:
    low, high = tango(lost, gained, n)
    np.testing.assert_allclose(tango(gained, lost, n), (-high, -low), atol=1e-12)
    wider = tango(lost, gained, n, 0.99)
    assert wider[0] < low and high < wider[1]


def counts(n: int, rate: float, lost: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of lost and gained answers, and how likely they are where `rate` flip and of them the part `lost` is lost."""
    p, q, most = rate * lost, rate * (1 - lost), min(n, int(n * rate + 7 * np.sqrt(n * rate) + 8))
    b, c = (each.ravel() for each in np.meshgrid(np.arange(most + 1), np.arange((most if q else 0) + 1)))
    b, c = b[b + c <= n], c[b + c <= n]
    factorial = np.array([lgamma(i + 1) for i in range(n + 1)])
    log = (
        factorial[n]
        - factorial[b]
        - factorial[c]
        - factorial[n - b - c]
        + b * np.log(p)
        + c * np.log(q or 1)
        + (n - b - c) * np.log1p(-rate)
    )
    return b, c, np.exp(log)


@pytest.mark.parametrize("lost", [1.0, 2 / 3, 0.5])
@pytest.mark.parametrize("rate", [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("n", [50, 100, 200, 408, 872])
def test_93_of_100_intervals_of_a_drop_hold_the_truth(n: int, rate: float, lost: float) -> None:
    b, c, weight = counts(n, rate, lost)
    assert weight.sum() == pytest.approx(1, abs=1e-5)
    low, high = tango(b, c, n)
    truth = rate * (2 * lost - 1)
    assert weight[(low <= truth) & (truth <= high)].sum() >= 0.93


def test_a_bootstrap_of_the_same_answers_does_not_hold_it() -> None:
    b, c, weight = counts(100, 0.01, 1.0)
    ones = np.ones(100)
    held = 0.0
    for i, j, w in zip(b, c, weight, strict=True):
        stats = np.stack([(np.arange(100) < i).astype(float) - (np.arange(100) >= 100 - j), ones], 1)
        low, high = bootstrap_interval(stats, lambda rows: rows[..., 0].mean(-1), draws=500)
        held += w * (low <= 0.01 <= high)
    assert held < 0.7


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(0.01, 1))
def test_effects_have_an_interval_around_their_sum_that_turns_with_their_sign(drawn: list[float], size: float) -> None:
    effects = np.round(np.array(drawn), 3)
    variance = float((effects**2).sum())
    low, high = effects_interval(effects, size, variance)
    assert low < effects.sum() < high
    np.testing.assert_allclose(effects_interval(-effects, size, variance), (-high, -low))


def test_where_many_flip_the_interval_is_the_normal_one() -> None:
    effects = np.random.default_rng(0).normal(0.01, 1, 100_000)
    low, high = effects_interval(effects, 1.0, 0.7 * float((effects**2).sum()))
    half = Z * np.sqrt(0.7 * (effects**2).sum())
    np.testing.assert_allclose([low - effects.sum(), high - effects.sum()], [-half, half], rtol=0.02)
