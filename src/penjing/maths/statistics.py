"""Intervals and tests for a metric that is a function of a sum of per-example statistics.

`stats` is (N, K): one row per example; `value` maps a summed (…, K) array to the metric (…). So one resampling serves
accuracy, F1 and entity F1 alike.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Stats = NDArray[np.float64]
Value = Callable[[Stats], NDArray[np.float64]]


def _patterns(rows: Stats) -> tuple[Stats, NDArray[np.int64]]:
    """The different rows (P, K), and how often each occurs (P,): examples of equal statistics are exchangeable."""
    patterns, counts = np.unique(rows, axis=0, return_counts=True)
    return patterns, counts


def _resampled(rows: Stats, draws: int, seed: int) -> Stats:
    """Sums of `draws` resamples of the rows with replacement: (draws, K)."""
    patterns, counts = _patterns(rows)
    drawn = np.random.default_rng(seed).multinomial(len(rows), counts / len(rows), size=draws)
    return np.asarray(drawn @ patterns)


def bootstrap(stats: Stats, value: Value, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the metric (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.percentile(value(_resampled(stats, draws, seed)), [2.5, 97.5])
    return float(low), float(high)


def paired_bootstrap(a: Stats, b: Stats, value: Value, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of metric(a) - metric(b), the same examples drawn for both (Koehn 2004, section 5)."""
    both = _resampled(np.hstack([a, b]), draws, seed)
    width = a.shape[1]
    low, high = np.percentile(value(both[:, :width]) - value(both[:, width:]), [2.5, 97.5])
    return float(low), float(high)


def randomization_test(a: Stats, b: Stats, value: Value, draws: int = 2000, seed: int = 0) -> float:
    """Two-sided p that a and b differ, by swapping them at random in each example (Yeh 2000, section 3)."""
    patterns, counts = _patterns(np.hstack([a, b]))
    width = a.shape[1]
    swapped = np.random.default_rng(seed).binomial(counts, 0.5, size=(draws, len(counts)))
    moved = swapped @ (patterns[:, width:] - patterns[:, :width])
    differences = value(a.sum(0) + moved) - value(b.sum(0) - moved)
    observed = abs(float(value(a.sum(0)) - value(b.sum(0))))
    return float((1 + np.sum(np.abs(differences) >= observed - 1e-9)) / (draws + 1))
