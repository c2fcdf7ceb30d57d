"""Laws of calibration: histograms add up, ranges hold zero or lie within what was seen, and the losses are the least."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penjing.maths.calibration import Histogram, Range, entropy, min_max, moving_average, percentile, squared_error
from penjing.maths.rounding import affine, affine_round

METHODS: list[Callable[[Histogram], Range]] = [percentile, squared_error, entropy]


def histogram(*pieces: np.ndarray) -> Histogram:
    seen = Histogram()
    for piece in pieces:
        seen.add(piece.astype(np.float32))
    return seen


def normal(n: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 700.0])), min_size=1, max_size=5), st.integers(0, 99))
def test_a_histogram_of_pieces_is_that_of_the_whole(pieces: list[tuple[int, float]], seed: int) -> None:
    parts = [normal(n, seed + i, scale) for i, (n, scale) in enumerate(pieces)]
    for order in (parts, parts[::-1], [np.concatenate(parts)]):
        seen = histogram(*order)
        whole = histogram(np.concatenate(parts))
        assert seen.exponent == whole.exponent and (seen.low, seen.high) == (whole.low, whole.high)
        np.testing.assert_array_equal(seen.counts, whole.counts)
    assert seen.counts.sum() == sum(n for n, _ in pieces)


@given(st.integers(1, 200), st.integers(0, 99), st.sampled_from([1e-9, 1.0, 1e6]))
def test_every_value_is_in_its_bin_and_bins_are_narrow(n: int, seed: int, scale: float) -> None:
    x = normal(n, seed, scale)
    seen = histogram(x)
    expected, _ = np.histogram(x.astype(np.float64), seen.edges)
    np.testing.assert_array_equal(seen.counts, expected)
    assert seen.width <= np.abs(x).max() / 2047
    assert (seen.low, seen.high) == (x.min(), x.max())


def test_an_end_that_is_a_power_of_two_is_inside() -> None:
    seen = histogram(np.array([-4.0, 4.0]), np.array([8.0, -8.0]))
    assert seen.counts.sum() == 4 and set(seen.counts) == {0, 1}


@settings(max_examples=10)
@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 99), st.sampled_from(["both", "positive", "negative", "zeros", "constant"]))
def test_a_range_lies_within_what_was_seen(method: Callable[[Histogram], Range], seed: int, side: str) -> None:
    x = {"both": normal, "positive": lambda n, s: np.abs(normal(n, s)), "negative": lambda n, s: -np.abs(normal(n, s)),
         "zeros": lambda n, s: np.zeros(n), "constant": lambda n, s: np.full(n, 0.7)}[side](300, seed)  # fmt: skip
    low, high = method(histogram(x))
    assert min(x.min(), 0) - 1e-6 <= low <= high <= max(x.max(), 0) + 1e-6
    assert side == "zeros" or low < high or method is percentile


def test_min_max_clips_nothing_and_one_batch_is_its_own_average() -> None:
    assert min_max([(-1.0, 2.0), (-3.0, 1.0)]) == (-3.0, 2.0)
    assert moving_average([(-1.0, 2.0)]) == pytest.approx((-1.0, 2.0))


@given(st.lists(st.tuples(st.floats(-5, 0), st.floats(0, 5)), min_size=1, max_size=30), st.floats(0.1, 0.99))
def test_the_moving_average_is_the_weighted_mean(ends: list[Range], beta: float) -> None:
    weights = beta ** np.arange(len(ends))[::-1]
    expected = weights @ np.array(ends) / weights.sum()
    np.testing.assert_allclose(moving_average(ends, beta), expected, atol=1e-9)


@given(st.integers(0, 99), st.sampled_from([0.9, 0.99, 0.999]))
def test_the_percentile_is_the_quantile_to_within_a_bin(seed: int, part: float) -> None:
    x = normal(5000, seed)
    seen = histogram(x)
    found = percentile(seen, part)
    between = [np.sort(x)[[round(q * len(x)) - 1, round(q * len(x))]] for q in (1 - part, part)]
    for value, (below, above) in zip(found, between, strict=True):
        assert below - seen.width <= value <= above + seen.width


@pytest.mark.parametrize("outliers", [0, 1, 20])
def test_the_squared_error_is_no_more_than_that_of_other_ranges(outliers: int) -> None:
    x = np.concatenate([normal(20000), np.full(outliers, 60.0, np.float32)])
    low, high = squared_error(histogram(x))

    def error(ends: Range) -> float:
        return float(np.square(x - affine_round(x, *affine(*ends))).sum())

    others = [(low * a, high * b) for a in (0.7, 0.9, 1.1, 1.5) for b in (0.7, 0.9, 1.1, 1.5)]
    assert error((low, high)) <= 1.02 * min(error(ends) for ends in others)
    assert error((low, high)) <= 1.001 * min(error(percentile(histogram(x))), error((float(x.min()), float(x.max()))))
    assert outliers or high > 0.6 * x.max()


@pytest.mark.parametrize("method", [entropy, percentile])
def test_one_far_outlier_is_clipped(method: Callable[[Histogram], Range]) -> None:
    low, high = method(histogram(normal(200_000), np.array([1000.0])))
    assert 2 < high < 100 and low < -2


def test_entropy_takes_no_range_that_holds_fewer_bins_than_levels() -> None:
    """Nearly all values in a few bins: a range of those alone has a level for each, and would cost nothing but its clipping."""
    x = np.concatenate([normal(100_000, scale=1e-3), np.linspace(-1, 1, 2000)])
    seen = histogram(x)
    low, high = entropy(seen)
    assert (high - low) / seen.width >= 255


def test_entropy_keeps_what_256_levels_can_tell_apart() -> None:
    x = np.random.default_rng(0).integers(-100, 100, 5000) / 128.0  # exact in bins, 200 values
    low, high = entropy(histogram(x))
    assert low == x.min() and high == x.max()
