"""Score intervals: of a proportion, of a difference of paired proportions, and of a sum of effects that few examples have.

A bootstrap of n examples among which few are wrong, or few flip, is too narrow, and of width 0 where none does. These are not.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def z_of(confidence: float) -> float:
    """The standard normal quantile of a two-sided interval."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(right: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Interval of a proportion, `right` of `n` (Wilson 1927; Newcombe 1998a, method 3)."""
    x, n = np.asarray(right, np.float64), np.asarray(n, np.float64)
    z2 = z_of(confidence) ** 2
    middle, half = (x + z2 / 2) / (n + z2), np.sqrt(z2 * (x * (n - x) / n + z2 / 4)) / (n + z2)
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def tango(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Score interval of (lost - gained) / n, the difference of two paired proportions (Tango 1998, equations 3 to 6), by bisection.

    lost, gained: pairs of n that only the first, and only the second, gets right; arrays broadcast.
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(each, np.float64) for each in (lost, gained, n)))
    estimate = (b - c) / n
    z = z_of(confidence)

    def score(difference: Floats) -> Floats:
        linear = -b - c + (2 * n - b + c) * difference
        q = (np.sqrt(np.maximum(linear**2 + 8 * n * c * difference * (1 - difference), 0)) - linear) / (4 * n)
        variance = n * (2 * q + difference * (1 - difference))
        return np.asarray((b - c - n * difference) / np.sqrt(np.maximum(variance, 1e-300)))

    ends = []
    for sign in (-1.0, 1.0):
        inside, outside = estimate.copy(), np.full_like(estimate, sign)
        for _ in range(60):
            middle = (inside + outside) / 2
            held = sign * score(middle) > -z
            inside, outside = np.where(held, middle, inside), np.where(held, outside, middle)
        ends.append((inside + outside) / 2)
    return ends[0], ends[1]


def effects_interval(effects: Floats, size: float, variance: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the sum of what examples lose (above 0) and gain (below 0), most of them neither.

    Losses and gains are each a count of flips times an effect: a scaled Poisson interval (Dobson et al. 1991), here the score
    interval of as many flips as have the same mean and variance. The two are put together by squaring and adding (Zou & Donner 2008, equation 3).
    Large effects are rare and may not have been seen: the ends away from 0 take the effect that matches the skewness
    of all flips, and with no flip at all it is taken to be `size`.

    Args:
        effects: (N,), adding up to the difference.
        size: the effect that a flip has.
        variance: of the difference, for large N; where flips are many the interval is that of the normal distribution with it.
    """
    z = z_of(confidence)
    squares = float((effects**2).sum())
    scale = np.sqrt(variance / squares) if squares else 1.0
    skewed = float((np.abs(effects) ** 3).sum()) / squares if squares else 0.0
    below, above = [], []
    for part in (np.maximum(effects, 0), np.maximum(-effects, 0)):
        total, second = float(part.sum()), float((part**2).sum())
        usual, scaled = (second / total, scale) if total else (size, 1.0)
        large = max(usual, skewed)
        below.append(min(total, scaled * z * (np.sqrt(second + (z * usual / 2) ** 2) - z * usual / 2)))
        above.append(scaled * z * (np.sqrt(second + (z * large / 2) ** 2) + z * large / 2))
    middle = float(effects.sum())
    return middle - float(np.hypot(below[0], above[1])), middle + float(np.hypot(above[0], below[1]))
