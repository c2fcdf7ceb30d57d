"""Metrics as sums: each example gives a row of statistics, and the metric, in points, is a function of their sum."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import eq
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from penjing.maths.statistics import Stats


class Metric(ABC):
    """`statistics(predicted, gold)` → (N, K); `value(sum)` → points, 0 … 100."""

    name: str

    @abstractmethod
    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        """One row per example."""

    @abstractmethod
    def value(self, total: Stats) -> NDArray[np.float64]:
        """Summed statistics (…, K) → points (…)."""


@final
class Accuracy(Metric):
    """Share of examples that are right."""

    name = "accuracy"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[float(p == g), 1.0] for p, g in zip(predicted, gold, strict=True)])

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / np.maximum(total[..., 1], 1))


@final
class WordAccuracy(Metric):
    """Share of words that are right (tags that mark no spans, such as parts of speech)."""

    name = "word_accuracy"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        return np.array([[sum(map(eq, p, g)), len(g)] for p, g in zip(predicted, gold, strict=True)], np.float64)

    def value(self, total: Stats) -> NDArray[np.float64]:
        return np.asarray(100 * total[..., 0] / np.maximum(total[..., 1], 1))


def _f1(total: Stats) -> NDArray[np.float64]:
    """Of (right, predicted, gold): 2·right / (predicted + gold), in points."""
    return np.asarray(200 * total[..., 0] / np.maximum(total[..., 1] + total[..., 2], 1))


@final
class BinaryF1(Metric):
    """F1 of one label."""

    name = "f1"

    def __init__(self, positive: Any) -> None:
        self.positive = positive

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        yes = self.positive
        return np.array([[p == g == yes, p == yes, g == yes] for p, g in zip(predicted, gold, strict=True)], np.float64)

    def value(self, total: Stats) -> NDArray[np.float64]:
        return _f1(total)


@final
class EntityF1(Metric):
    """Micro F1 of whole entities, by seqeval's default definition (conlleval's, lenient on broken tag sequences)."""

    name = "entity_f1"

    def statistics(self, predicted: Sequence[Any], gold: Sequence[Any]) -> Stats:
        rows = []
        for p, g in zip(predicted, gold, strict=True):
            found, true = set(entities(p)), set(entities(g))
            rows.append([len(found & true), len(found), len(true)])
        return np.array(rows, np.float64)

    def value(self, total: Stats) -> NDArray[np.float64]:
        return _f1(total)


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, last word) of each entity in one sentence's tags (IOB1, IOB2, IOE, IOBES alike)."""
    found = []
    start, before, kind_before = 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        mark, kind = ("O", "") if tag == "O" else (tag[0], tag[2:] if tag[1:2] == "-" else "_")
        inside = before not in "O"
        differs = kind != kind_before
        if inside and (before in "ES" or mark in "BSO" or differs):
            found.append((kind_before, start, i - 1))
        if mark in "BS" or (mark in "IE" and (before in "OES" or differs)):
            start = i
        before, kind_before = mark, kind
    return found
