"""The randomization test of a metric that is a function of a sum of per-example statistics, and tests of flips.

`stats` is (N, K): one row per example; `value` maps a summed (…, K) array to the metric (…). So one test serves accuracy, F1 and
entity F1 alike.
"""

from collections.abc import Callable, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

Stats = NDArray[np.float64]
Value = Callable[[Stats], NDArray[np.float64]]


CHUNK = 100
"""Random swaps that are drawn at once: memory is CHUNK × N numbers."""


def randomization_test(a: Stats, b: Stats, value: Value, draws: int = 2000, seed: int = 0) -> float:
    """Two-sided p that a and b differ, by swapping them at random in each example (Yeh 2000, section 3)."""
    random = np.random.default_rng(seed)
    swaps = (random.integers(0, 2, (min(CHUNK, draws - done), len(a))) for done in range(0, draws, CHUNK))
    moved = np.concatenate([swap @ (b - a) for swap in swaps])
    differences = value(a.sum(0) + moved) - value(b.sum(0) - moved)
    observed = abs(float(value(a.sum(0)) - value(b.sum(0))))
    return float((1 + np.sum(np.abs(differences) >= observed - 1e-9)) / (draws + 1))


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided p that as many flips are lost as gained, exact (McNemar 1947; Edwards 1948): binomial of lost + gained at 1/2."""
    n = lost + gained
    tail = sum(comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p of each of several tests, so that no true null is rejected at .05 in 95 of 100 tables (Holm 1979)."""
    count = len(p_values)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(count), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Over the last axis, in double precision."""
    z = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(z / z.sum(-1, keepdims=True))
