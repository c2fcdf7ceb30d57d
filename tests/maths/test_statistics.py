"""Laws of intervals and tests: they hold the value, narrow as they should, and are fair under the null."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from penjing.maths.resampling import bootstrap_interval
from penjing.maths.statistics import Stats, Value, holm, mcnemar, randomization_test


def mean(total: Stats) -> NDArray[np.float64]:
    return np.asarray(total[..., 0] / total[..., 1])


def f1(total: Stats) -> NDArray[np.float64]:
    return np.asarray(2 * total[..., 0] / np.maximum(total[..., 1] + total[..., 2], 1))


def shares(n: int, share: float, seed: int = 0) -> Stats:
    """n examples, of which about `share` are right."""
    return np.stack([np.random.default_rng(seed).random(n) < share, np.ones(n)], 1).astype(np.float64)


def bootstrap(stats: Stats, value: Value, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The interval of a metric of sums."""
    return bootstrap_interval(stats, lambda rows: value(rows.sum(-2)), draws=draws, seed=seed)


def normals(n: int, seed: int, at: float = 0.0) -> Stats:
    return np.stack([at + np.random.default_rng(seed).standard_normal(n), np.ones(n)], 1)


@given(st.lists(st.booleans(), min_size=2, max_size=60), st.integers(0, 9))
def test_the_interval_holds_the_value(right: list[bool], seed: int) -> None:
    stats = np.stack([right, np.ones(len(right))], 1).astype(np.float64)
    low, high = bootstrap(stats, mean, draws=400, seed=seed)
    assert 0 <= low <= mean(stats.sum(0)) <= high <= 1


def test_the_interval_of_f1_holds_the_value() -> None:
    counts = np.random.default_rng(0).poisson(1.5, (80, 3)).astype(np.float64)
    stats = np.stack([counts[:, 0], counts[:, 0] + counts[:, 1], counts[:, 0] + counts[:, 2]], 1)
    low, high = bootstrap(stats, f1)
    assert low < f1(stats.sum(0)) < high


def test_the_interval_narrows_with_the_root_of_n() -> None:
    widths = [np.subtract(*bootstrap(shares(n, 0.8), mean)[::-1]) for n in (100, 400, 1600)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    stats = normals(500, seed=3)
    x = stats[:, 0]
    half = 1.96 * x.std() / np.sqrt(len(x))
    np.testing.assert_allclose(bootstrap(stats, mean, draws=8000), [x.mean() - half, x.mean() + half], atol=0.1 * half)


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    held = [low <= 0 <= high for low, high in (bootstrap(normals(60, seed), mean, draws=300, seed=seed) for seed in range(200))]
    assert 0.88 <= np.mean(held) <= 0.99


@given(st.integers(1, 50), st.integers(0, 99))
def test_identical_models_have_a_p_of_one(n: int, seed: int) -> None:
    stats = shares(n, 0.7, seed)
    assert randomization_test(stats, stats.copy(), mean, draws=100, seed=seed) == 1.0


def test_clearly_different_models_have_a_small_p_and_the_order_does_not_matter() -> None:
    a, b = shares(300, 0.9), shares(300, 0.6, seed=1)
    assert randomization_test(a, b, mean) < 0.005
    assert randomization_test(a, b, mean) == randomization_test(b, a, mean)


def test_p_is_that_of_all_swaps() -> None:
    a, b = normals(8, seed=1), normals(8, seed=2, at=0.8)
    observed = abs(mean(a.sum(0)) - mean(b.sum(0)))
    found = [
        abs(mean(np.where(swap, b, a).sum(0)) - mean(np.where(swap, a, b).sum(0)))
        for swap in (np.array(bits)[:, None] for bits in product([False, True], repeat=8))
    ]
    exact = np.mean(np.array(found) >= observed - 1e-9)
    assert 0.02 < exact < 0.9
    assert randomization_test(a, b, mean, draws=20_000) == pytest.approx(exact, abs=0.015)


def test_p_is_uniform_where_there_is_no_difference() -> None:
    p = np.array([randomization_test(normals(40, seed), normals(40, seed + 5000), mean, draws=200, seed=seed) for seed in range(400)])
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / len(p)))


def test_a_seed_says_all() -> None:
    a, b = shares(50, 0.8), shares(50, 0.7, seed=1)
    for call in (lambda s: bootstrap(a, mean, seed=s), lambda s: randomization_test(a, b, mean, seed=s)):
        assert call(1) == call(1)
        assert len({call(s) for s in range(5)}) > 1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemars_p_is_the_binomial_one(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected)


def test_holm_steps_down_and_never_back() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.3]) == [0.3] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_p_and_bonferroni_in_the_same_order(p: list[float]) -> None:
    found = holm(p)
    assert all(a <= b <= min(1, len(p) * a) for a, b in zip(p, found, strict=True))
    assert all(found[i] <= found[j] for i in range(len(p)) for j in range(len(p)) if p[i] <= p[j])


def test_holm_rejects_no_true_null_in_95_of_100_tables() -> None:
    p = np.random.default_rng(0).random((4000, 8))
    assert np.mean([min(holm(row)) < 0.05 for row in p]) == pytest.approx(0.05, abs=0.012)
