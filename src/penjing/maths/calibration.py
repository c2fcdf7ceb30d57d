"""The range [low, high] over which activations are rounded to 8 bits, from what they were on real texts.

The wider the range, the coarser its 256 steps; the narrower, the more is clipped. The methods weigh the two differently.
Sources: Jacob et al. 2018, section 3.1 (moving average); Wu et al. 2020, "Integer Quantization for Deep Learning Inference",
section 3.3 (percentile); Banner et al. 2019, section 2 (squared error); Migacz 2017, "8-bit Inference with TensorRT" (entropy).
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import NDArray

from penjing.maths.rounding import affine, affine_round

Range = tuple[float, float]
LEVELS = 256
"""Of 8 bits."""
AT_ONCE = 1 << 14
"""Numbers that are rounded at once: what stays in a processor's cache."""
BITS = 12
"""A histogram has 2^BITS bins on either side of zero."""
SMALLEST = -60
"""The narrowest bins are 2^SMALLEST wide."""


@final
class Histogram:
    """Counts of values in bins that are 2^exponent wide, their edges at its multiples, and the exact extremes.

    Bins double in width when a value falls outside; as their width is a power of two, two become one exactly, and the
    counts are those of one pass over everything, whatever the pieces they came in. Memory does not grow.
    """

    def __init__(self) -> None:
        self.exponent = SMALLEST
        self.counts: NDArray[np.int64] = np.zeros(2 << BITS, np.int64)
        self.low, self.high = np.inf, -np.inf

    def add(self, values: Float[np.ndarray, "..."]) -> None:
        """Count values of any shape; they must be finite."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if largest := max(-low, high):
            self._widen(int(np.frexp(largest)[1]) - BITS)
        index = np.floor(np.ldexp(values.reshape(-1), -self.exponent)).astype(np.int64) + (1 << BITS)
        self.counts += np.bincount(index, minlength=len(self.counts))

    def _widen(self, exponent: int) -> None:
        if exponent <= self.exponent:
            return
        merged = (np.arange(len(self.counts)) - (1 << BITS) >> exponent - self.exponent) + (1 << BITS)
        counts = np.zeros_like(self.counts)
        np.add.at(counts, merged, self.counts)
        self.counts, self.exponent = counts, exponent

    @property
    def width(self) -> float:
        """Of a bin."""
        return float(np.ldexp(1.0, self.exponent))

    @property
    def edges(self) -> Float64[np.ndarray, " _"]:
        """The edges of the bins (bins + 1,)."""
        edges: NDArray[np.float64] = self.width * (np.arange(len(self.counts) + 1) - (1 << BITS)).astype(np.float64)
        return edges

    @property
    def centres(self) -> Float64[np.ndarray, " _"]:
        """The centres of the bins (bins,)."""
        return self.edges[:-1] + self.width / 2


def min_max(ends: Sequence[Range]) -> Range:
    """The lowest and the highest: nothing seen is clipped."""
    return min(low for low, _ in ends), max(high for _, high in ends)


def moving_average(ends: Sequence[Range], beta: float = 0.99) -> Range:
    """m_t = β·m_{t-1} + (1 - β)·x_t of the ends of each batch in turn, over 1 - β^T, so that it does not start at zero."""
    m = np.zeros(2)
    for x in ends:
        m = beta * m + (1 - beta) * np.array(x)
    low, high = m / (1 - beta ** len(ends))
    return float(low), float(high)


def percentile(seen: Histogram, part: float = 0.9999) -> Range:
    """All but 1 - `part` of the values on either side; within a bin they are taken to be spread evenly."""
    edges = np.clip(seen.edges, seen.low, seen.high)
    below = np.concatenate([[0.0], np.cumsum(seen.counts)]) / seen.counts.sum()
    low, high = np.interp([1 - part, part], below, edges)
    return float(low), float(high)


Ends = Float64[np.ndarray, " n"]
"""The lower or the upper ends of n ranges that are tried at once."""
Rounding = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""(values, lows, highs), broadcast against each other → what the levels of a range give for them."""


def affine_levels(bits: int = 8) -> Rounding:
    """The rounding of static integers: so many bits, and a zero that is exact."""
    return lambda x, low, high: affine_round(x, *affine(low, high, bits), bits)


def squared_error(seen: Histogram, rounding: Rounding | None = None) -> Range:
    """The range with the least Σ c·(x - r(x))², r(x) what the levels of the range give for x; by default those of 8 bits."""
    used = seen.counts.nonzero()[0]
    c, x = seen.counts[used].astype(np.float64), seen.centres[used]
    values = rounding or affine_levels()
    at_once = max(1, AT_ONCE // max(1, len(x)))

    def losses(lows: Ends, highs: Ends) -> Ends:
        ends = ((lows[i : i + at_once, None], highs[i : i + at_once, None]) for i in range(0, len(lows), at_once))
        return np.concatenate([np.square(x - values(x, *each)) @ c for each in ends])

    return _narrowed(losses, seen.low, seen.high)


def entropy(seen: Histogram) -> Range:
    """The range with the least KL(P ‖ Q): P the histogram with what is outside moved into its end bins, Q the same bins
    without that, merged into `LEVELS`, each spread evenly over its bins that hold anything.

    A range of fewer bins than levels would round nothing, and clip for free: it is not tried (as in TensorRT, Migacz 2017)."""
    counts = seen.counts.astype(np.float64)
    middle = 1 << BITS

    def loss(low: float, high: float) -> float:
        first, last = middle + int(np.floor(low / seen.width)), middle + int(np.ceil(high / seen.width))
        if last - first < LEVELS:
            return math.inf
        inside = counts[first:last]
        p = inside.copy()
        p[0] += counts[:first].sum()
        p[-1] += counts[last:].sum()
        level = np.arange(len(inside)) * LEVELS // len(inside)
        held = inside > 0
        share = np.bincount(level, inside) / np.maximum(np.bincount(level, held), 1)
        q = np.where(held, share[level], 0.0)
        p, q = p / p.sum(), q / max(q.sum(), 1.0)
        some = p > 0
        return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))))

    def losses(lows: Ends, highs: Ends) -> Ends:
        return np.array([loss(low, high) for low, high in zip(lows, highs, strict=True)])

    return _narrowed(losses, seen.low, seen.high)


def _narrowed(losses: Callable[[Ends, Ends], Ends], low: float, high: float) -> Range:
    """The range within [low, high], zero included, with the least loss: each end in turn is tried from whole down to 1/64."""
    whole = np.array([min(low, 0.0), max(high, 0.0)])
    parts = np.geomspace(1, 1 / 64, 97)
    best = np.ones(2)
    least = losses(whole[:1], whole[1:])[0] if whole[0] < whole[1] else 0.0
    for _ in range(3):
        before = best.copy()
        for end in (1, 0):
            if whole[end]:
                trials = np.tile(whole * best, (len(parts), 1))  # (parts, 2)
                trials[:, end] = whole[end] * parts
                error = losses(trials[:, 0], trials[:, 1])
                if error.min() < least:
                    best[end], least = parts[error.argmin()], error.min()
        if (best == before).all():
            break
    low, high = whole * best
    return float(low), float(high)
