"""Metrics as sums: each example gives a row of statistics, and the metric, in points, is a function of their sum."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import compress
from operator import eq
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from penjing.maths.statistics import Stats
from penjing.tasks.tags import Scheme, entities, strict_entities


class Metric(ABC):
    """`statistics(predicted, gold)` → (N, K); `value(sum)` → points, `least` … 100."""

    name: str
    least = 0.0

    @abstractmethod
    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        """One row per example."""

    @abstractmethod
    def value(self, total: Stats) -> NDArray[np.float64]:
        """Summed statistics (…, K) → points (…)."""

    @abstractmethod
    def slips(self, stats: Stats) -> Stats:
        """How each row (N, K) would change by one mistake more; zero where there is none to make. What an interval takes for the size of a
        flip where it has seen none."""


def counted(predicted: Sequence[Any], gold: Sequence[Any]) -> list[tuple[list[Any], list[Any]]]:
    """The tags of each sentence, predicted and gold, without those of words that do not count (gold None)."""
    kept = [[tag is not None for tag in tags] for tags in gold]
    return [(list(compress(p, keep)), list(compress(g, keep))) for p, g, keep in zip(predicted, gold, kept, strict=True)]


class _Share(Metric):
    """Statistics (right, all)."""

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / np.maximum(total[..., 1], 1))

    def slips(self, stats: Stats) -> Stats:
        return np.stack([-(stats[:, 0] > 0).astype(np.float64), np.zeros(len(stats))], 1)


@final
class Accuracy(_Share):
    """Share of examples that are right."""

    name = "accuracy"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[float(p == g), 1.0] for p, g in zip(predicted, gold, strict=True)])


@final
class WordAccuracy(_Share):
    """Share of words that are right (tags that mark no spans, such as parts of speech)."""

    name = "word_accuracy"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[sum(map(eq, p, g)), len(g)] for p, g in counted(predicted, gold)], np.float64)


class _F1(Metric):
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


class _ByLabel(Metric):
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
