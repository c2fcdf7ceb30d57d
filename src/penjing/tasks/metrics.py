"""The metrics of classes and tags: accuracy, F1 in several forms, Matthews' correlation; and Spearman's correlation of numbers."""

from collections.abc import Sequence
from itertools import compress
from operator import eq
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from penjing.maths.intervals import tango, wilson
from penjing.maths.resampling import average_ranks, correlation
from penjing.maths.statistics import Stats, mcnemar
from penjing.tasks.metric import Interval, ResampledMetric, SumMetric
from penjing.tasks.tags import Scheme, entities, strict_entities


def counted(predicted: Sequence[Any], gold: Sequence[Any]) -> list[tuple[list[Any], list[Any]]]:
    """The tags of each sentence, predicted and gold, without those of words that do not count (gold None)."""
    kept = [[tag is not None for tag in tags] for tags in gold]
    return [(list(compress(p, keep)), list(compress(g, keep))) for p, g, keep in zip(predicted, gold, kept, strict=True)]


class _Share(SumMetric):
    """Statistics (right, all)."""

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / np.maximum(total[..., 1], 1))

    def slips(self, stats: Stats) -> Stats:
        return np.stack([-(stats[:, 0] > 0).astype(np.float64), np.zeros(len(stats))], 1)


@final
class Accuracy(_Share):
    """Share of examples that are right: its intervals are those of proportions, and its test is of counts of flips."""

    name = "accuracy"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[float(p == g), 1.0] for p, g in zip(predicted, gold, strict=True)])

    def interval(self, stats: Stats, perfect: Stats) -> Interval:
        """Wilson's interval of a proportion."""
        low, high = (100 * float(end) for end in wilson(stats[:, 0].sum(), len(stats)))
        return low, high

    def drop_interval(self, a: Stats, b: Stats, confidence: float = 0.95) -> Interval:
        """Tango's score interval of a difference of paired proportions."""
        low, high = tango(*lost_and_gained(a, b), len(a), confidence)
        return 100 * float(low), 100 * float(high)

    def p_value(self, a: Stats, b: Stats, seed: int = 0) -> float:
        """The p of McNemar's exact test."""
        return mcnemar(*lost_and_gained(a, b))


def lost_and_gained(a: Stats, b: Stats) -> tuple[int, int]:
    """Of an accuracy's statistics: the examples that a alone gets right, and those that b alone does."""
    return int((a[:, 0] > b[:, 0]).sum()), int((a[:, 0] < b[:, 0]).sum())


@final
class WordAccuracy(_Share):
    """Share of words that are right (tags that mark no spans, such as parts of speech)."""

    name = "word_accuracy"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[sum(map(eq, p, g)), len(g)] for p, g in counted(predicted, gold)], np.float64)


class _F1(SumMetric):
    """Statistics (right, predicted, gold)."""

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(200 * total[..., 0] / np.maximum(total[..., 1] + total[..., 2], 1))

    def slips(self, stats: Stats) -> Stats:
        """One that was found is missed, or, where there was none to find, one is found."""
        missed = stats[:, :1] > 0
        invented = (stats[:, 2:] == 0) & (stats[:, 1:2] == 0)
        return np.asarray(np.where(missed, [-1.0, -1.0, 0.0], np.where(invented, [0.0, 1.0, 0.0], 0.0)))


@final
class BinaryF1(_F1):
    """F1 of one label."""

    name = "f1"

    def __init__(self, positive: Any) -> None:
        self.positive = positive

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        yes = self.positive
        return np.array([[p == g == yes, p == yes, g == yes] for p, g in zip(predicted, gold, strict=True)], np.float64)


@final
class EntityF1(_F1):
    """Micro F1 of whole entities: by seqeval's default definition, lenient on broken sequences, or by its strict one."""

    def __init__(self, scheme: Scheme | None = None, *, strict: bool = False) -> None:
        self.name = "entity_f1_strict" if strict else "entity_f1"
        self.scheme, self.strict = scheme or Scheme(), strict

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        spans = strict_entities if self.strict else entities
        rows = []
        for p, g in counted(predicted, gold):
            found, true = set(spans(p, self.scheme)), set(spans(g, self.scheme))
            rows.append([len(found & true), len(found), len(true)])
        return np.array(rows, np.float64)


class _ByLabel(SumMetric):
    """Statistics of each label: (right, predicted, gold), one label after the other."""

    def __init__(self, labels: Sequence[Any]) -> None:
        self.labels = list(labels)

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        place = {name: i for i, name in enumerate(self.labels)}
        p, g = (np.eye(len(place))[[place[name] for name in names]] for names in (predicted, gold))
        return np.stack([p * g, p, g], -1).reshape(len(p), -1)

    def _split(self, total: Stats) -> tuple[Stats, Stats, Stats]:
        parts = total.reshape(*total.shape[:-1], len(self.labels), 3)
        return parts[..., 0], parts[..., 1], parts[..., 2]

    def slips(self, stats: Stats) -> Stats:
        """One that was right is taken for another label that is there, whichever."""
        right, predicted, gold = self._split(stats)
        seen = (predicted + gold).any(0)
        others = right.any(-1, keepdims=True) * (1 - right) * seen / max(1, seen.sum() - 1)
        return np.stack([-right, others - right, np.zeros_like(right)], -1).reshape(stats.shape)


@final
class MacroF1(_ByLabel):
    """Mean of the F1 of every label that is in the gold answers or was predicted."""

    name = "macro_f1"

    def value(self, total: Stats) -> NDArray[np.float64]:
        right, predicted, gold = self._split(total)
        seen = predicted + gold > 0
        f1 = 200 * right / np.where(seen, predicted + gold, 1)
        return np.asarray(f1.sum(-1) / np.maximum(seen.sum(-1), 1))


@final
class Mcc(_ByLabel):
    """Matthews' correlation of predicted and gold labels, for any number of them (Gorodkin 2004, equation 8), in points; 0 where one of
    the two is constant."""

    name = "mcc"
    least = -100.0

    def value(self, total: Stats) -> NDArray[np.float64]:
        right, predicted, gold = self._split(total)
        correct, count = right.sum(-1), gold.sum(-1)
        covariance = correct * count - (predicted * gold).sum(-1)
        spread = (count**2 - (predicted**2).sum(-1)) * (count**2 - (gold**2).sum(-1))
        return np.asarray(np.where(spread > 0.5, 100 * covariance / np.sqrt(np.maximum(spread, 1)), 0.0))


@final
class Spearman(ResampledMetric):
    """Spearman's correlation of the ranks of predicted and gold numbers, times 100; 0 where one of the two is constant.

    Answers are numbers, or labels that are written as numbers. It is given as an object: `Classification(metric=Spearman())`.
    """

    name = "spearman"
    least = -100.0

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[float(p), float(g)] for p, g in zip(predicted, gold, strict=True)])

    def value(self, rows: Stats) -> NDArray[np.float64]:
        return 100 * correlation(average_ranks(rows[..., 0]), average_ranks(rows[..., 1]))
