"""The interface of a metric: its value in points, its interval, and a paired test of two models' answers.

There are two kinds. The value of a `SumMetric` is a function of the sum of one row of statistics per example (accuracy, F1): its intervals
come from the effect that each example has, and cover also where few answers differ. The value of a `ResampledMetric` is a function of
all examples' rows together (a correlation of ranks): its intervals and tests compute it anew on resampled rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from penjing.maths.intervals import effects_interval
from penjing.maths.resampling import RESAMPLES, bootstrap_interval, paired_interval, paired_randomization
from penjing.maths.statistics import Stats, randomization_test

Interval = tuple[float, float]
"""The lower and the upper end, in points."""


class Metric(ABC):
    """A metric of predicted and gold answers, in points; one of one's own is a subclass of `SumMetric` or `ResampledMetric`."""

    name: str
    least: float = 0.0
    greatest: float = 100.0

    @abstractmethod
    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        """What the metric reads of each example: one row (N, K) of numbers."""

    @abstractmethod
    def points(self, stats: Stats) -> float:
        """The metric of examples with these statistics (N, K)."""

    @abstractmethod
    def interval(self, stats: Stats, perfect: Stats) -> Interval:
        """95 % interval of the metric; `perfect` are the statistics (N, K) of the gold answers themselves."""

    @abstractmethod
    def drop_interval(self, a: Stats, b: Stats, confidence: float = 0.95) -> Interval:
        """Interval of metric(a) - metric(b), statistics (N, K) of the same examples."""

    @abstractmethod
    def p_value(self, a: Stats, b: Stats, seed: int = 0) -> float:
        """Two-sided p of no difference between a and b, statistics (N, K) of the same examples."""

    def quality(self, predicted: Sequence[Any], gold: Sequence[Any]) -> float:
        """The metric of these answers."""
        return self.points(self.statistics(predicted, gold))


class SumMetric(Metric):
    """A metric that is a function of a sum: `statistics(predicted, gold)` → (N, K), and `value(sum)` → points."""

    @abstractmethod
    def value(self, total: Stats) -> NDArray[np.float64]:
        """Summed statistics (…, K) → points (…)."""

    @abstractmethod
    def slips(self, stats: Stats) -> Stats:
        """How each row (N, K) would change by one mistake more; zero where there is none to make. What an interval takes for the size of a
        flip where it has seen none."""

    def points(self, stats: Stats) -> float:
        """The value of the sum of the rows."""
        return float(self.value(stats.sum(0)))

    def interval(self, stats: Stats, perfect: Stats) -> Interval:
        """The interval of what is lost against perfect answers."""
        quality = self.points(stats)
        top = self.points(perfect)
        lost = difference_interval(perfect, stats, self)
        return max(self.least, min(quality, top - lost[1])), min(self.greatest, max(quality, top - lost[0]))

    def drop_interval(self, a: Stats, b: Stats, confidence: float = 0.95) -> Interval:
        """The interval of the difference by the effect of each example's change (`difference_interval`)."""
        return difference_interval(a, b, self, confidence)

    def p_value(self, a: Stats, b: Stats, seed: int = 0) -> float:
        """The p of a randomization test over sums."""
        return randomization_test(a, b, self.value, seed=seed)


class ResampledMetric(Metric):
    """A metric of all examples' rows together: `statistics(predicted, gold)` → (N, K), and `value(rows)` → points.

    Its bootstrap intervals are too narrow where few answers of two models differ.
    """

    resamples: ClassVar[int] = RESAMPLES

    @abstractmethod
    def value(self, rows: Stats) -> NDArray[np.float64]:
        """Rows (…, N, K) of sets of examples → points (…)."""

    def points(self, stats: Stats) -> float:
        """The value of all rows."""
        return float(self.value(stats))

    def interval(self, stats: Stats, perfect: Stats) -> Interval:
        """The percentile interval over resampled rows, widened to hold the metric itself."""
        quality = self.points(stats)
        low, high = bootstrap_interval(stats, self.value, draws=self.resamples)
        return max(self.least, min(quality, low)), min(self.greatest, max(quality, high))

    def drop_interval(self, a: Stats, b: Stats, confidence: float = 0.95) -> Interval:
        """The percentile interval of the difference over resampled examples, widened to hold the difference itself."""
        drop = self.points(a) - self.points(b)
        low, high = paired_interval(a, b, self.value, confidence, self.resamples)
        return min(drop, low), max(drop, high)

    def p_value(self, a: Stats, b: Stats, seed: int = 0) -> float:
        """The p of a randomization test over all rows."""
        return paired_randomization(a, b, self.value, self.resamples, seed)


def difference_interval(a: Stats, b: Stats, metric: SumMetric, confidence: float = 0.95) -> Interval:
    """Interval of metric(a) - metric(b) for any metric of sums, by the effect that each example's change has on it.

    The effects are the changes times the metric's mean gradient between the two sums, so that they add up to the
    difference; its variance for large N is that of the delta method.
    """
    first, second = a.sum(0), b.sum(0)  # (K,)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    gradient = sum(w / 2 * _gradient(metric, second + (1 + t) / 2 * (first - second)) for t, w in zip(nodes, weights, strict=True))
    effects = (a - b) @ gradient  # (N,)
    variance = float(((a @ _gradient(metric, first) - b @ _gradient(metric, second)) ** 2).sum())
    slips = metric.slips(a)
    sizes = metric.value(first + slips[slips.any(-1)]) - metric.value(first)
    size = float(np.sqrt((sizes**2).mean())) if sizes.any() else 100 / len(a)
    low, high = effects_interval(effects, size, variance, confidence)
    rest = float(metric.value(first) - metric.value(second) - effects.sum())
    return low + rest, high + rest


def _gradient(metric: SumMetric, total: Stats) -> NDArray[np.float64]:
    """The metric's derivatives (K,) by central differences."""
    step = 1e-4 * np.eye(len(total))
    return np.asarray((metric.value(total + step) - metric.value(total - step)) / 2e-4)
