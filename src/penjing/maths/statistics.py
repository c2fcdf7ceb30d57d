"""Intervals and tests for a metric that is a function of a sum of per-example statistics.

`stats` is (N, K): one row per example; `value` maps a summed (…, K) array to the metric (…). So one resampling serves
accuracy, F1 and entity F1 alike.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Stats = NDArray[np.float64]
Value = Callable[[Stats], NDArray[np.float64]]


def _counts(n: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each of n examples is drawn, in each of `draws` resamples with replacement: (draws, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def bootstrap(stats: Stats, value: Value, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the metric (Efron & Tibshirani 1993, chapter 13)."""
    low, high = np.percentile(value(_counts(len(stats), draws, seed) @ stats), [2.5, 97.5])
    return float(low), float(high)


def paired_bootstrap(a: Stats, b: Stats, value: Value, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of metric(a) - metric(b), the same examples drawn for both (Koehn 2004, section 5)."""
    counts = _counts(len(a), draws, seed)
    low, high = np.percentile(value(counts @ a) - value(counts @ b), [2.5, 97.5])
    return float(low), float(high)


def randomization_test(a: Stats, b: Stats, value: Value, draws: int = 2000, seed: int = 0) -> float:
    """Two-sided p that a and b differ, by swapping them at random in each example (Yeh 2000, section 3)."""
    swap = np.random.default_rng(seed).integers(0, 2, (draws, len(a))).astype(np.float64)
    moved = swap @ (b - a)
    differences = value(a.sum(0) + moved) - value(b.sum(0) - moved)
    observed = abs(float(value(a.sum(0)) - value(b.sum(0))))
    return float((1 + np.sum(np.abs(differences) >= observed - 1e-9)) / (draws + 1))
