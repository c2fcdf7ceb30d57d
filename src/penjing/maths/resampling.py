"""Bootstrap intervals and randomization tests of a metric that is no function of a sum, such as a correlation of ranks.

`rows` is (N, K): what the metric reads of each example; `value` maps sets of rows (…, N, K) to the metric (…) and is computed anew for
each resample. Where few of two models' rows differ, the interval of their difference is too narrow (`intervals` has the ones that are not).
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RowsValue = Callable[[Floats], Floats]
"""A metric of sets of rows: (…, N, K) → (…)."""

RESAMPLES = 1000
CHUNK = 50
"""Resamples that are computed at once: memory is some CHUNK × N × K numbers."""


def _chunks(draws: int) -> Iterator[int]:
    for done in range(0, draws, CHUNK):
        yield min(CHUNK, draws - done)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_interval(
    rows: Floats, value: RowsValue, confidence: float = 0.95, draws: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the metric over resamples of the rows with replacement (Efron & Tibshirani 1993, chapter 13)."""
    random = np.random.default_rng(seed)
    drawn = [value(rows[random.integers(0, len(rows), (count, len(rows)))]) for count in _chunks(draws)]  # value of (count, N, K)
    return _percentiles(np.concatenate(drawn), confidence)


def paired_interval(
    a: Floats, b: Floats, value: RowsValue, confidence: float = 0.95, draws: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of value(a) - value(b): the same examples, rows (N, K) of two models, are drawn for both."""
    random = np.random.default_rng(seed)
    drawn = []
    for count in _chunks(draws):
        picked = random.integers(0, len(a), (count, len(a)))
        drawn.append(value(a[picked]) - value(b[picked]))
    return _percentiles(np.concatenate(drawn), confidence)


def paired_randomization(a: Floats, b: Floats, value: RowsValue, draws: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p that a and b, rows (N, K) of the same examples, differ: swapped at random in each example (Yeh 2000, section 3)."""
    random = np.random.default_rng(seed)
    observed = abs(float(value(a) - value(b)))
    extreme = 0
    for count in _chunks(draws):
        swap = random.integers(0, 2, (count, len(a), 1)).astype(bool)
        first = np.where(swap, b, a)  # (count, N, K)
        second = np.where(swap, a, b)
        extreme += int((np.abs(value(first) - value(second)) >= observed - 1e-9).sum())
    return (1 + extreme) / (draws + 1)


def average_ranks(values: Floats) -> Floats:
    """The rank of each number over the last axis, from 1; equal numbers share the mean of their ranks."""
    order = values.argsort(-1)
    in_order = np.take_along_axis(values, order, -1)
    places = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    begins = np.ones(values.shape, bool)
    begins[..., 1:] = in_order[..., 1:] != in_order[..., :-1]
    ends = np.ones(values.shape, bool)
    ends[..., :-1] = begins[..., 1:]
    first = np.maximum.accumulate(np.where(begins, places, 0), -1)  # of the group of equal numbers
    last = np.minimum.accumulate(np.where(ends, places, values.shape[-1])[..., ::-1], -1)[..., ::-1]
    ranks = np.empty(values.shape, np.float64)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    return ranks


def correlation(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation over the last axis; 0 where one of the two is constant."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    return np.asarray(np.where(spread > 0, (x * y).sum(-1) / np.where(spread > 0, spread, 1), 0.0))
