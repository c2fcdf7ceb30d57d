"""How far scores can be believed: calibration of probabilities against what was right."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_softmax(logits: Floats) -> Floats:
    """log softmax(logits) over the last axis, in the shape of the logits."""
    z = logits - logits.max(-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def nll(logits: Floats, targets: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of targets (N,) under logits (N, C), in nats."""
    return float(-np.take_along_axis(log_softmax(logits), targets[:, None], 1).mean())


def brier(probabilities: Floats, targets: NDArray[np.int64]) -> float:
    """Mean squared distance of probabilities (N, C) from the targets (N,) as 0 and 1, summed over classes (Brier 1950): 0 … 2."""
    return float(((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(1).mean())


@final
@dataclass(frozen=True)
class ReliabilityBin:
    """A bin of a reliability diagram: its edges, how many examples it holds, their mean confidence, and the share that is right."""

    low: float
    high: float
    examples: int
    confidence: float
    accuracy: float


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> list[ReliabilityBin]:
    """The bins of equal width that hold examples.

    confidence: (N,), in 0 … 1; an edge belongs to the bin below it (Guo et al. 2017, section 2).
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows = [(i, place == i) for i in range(bins)]
    return [
        ReliabilityBin(i / bins, (i + 1) / bins, int(of.sum()), float(confidence[of].mean()), float(right[of].mean()))
        for i, of in rows
        if of.any()
    ]


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance of confidence from accuracy over the bins, weighted by their examples (Guo et al. 2017, equation 3): 0 … 1."""
    rows = reliability(confidence, right, bins)
    return sum(row.examples * abs(row.confidence - row.accuracy) for row in rows) / len(confidence)


WARMEST = 100.0
"""Temperatures are looked for between this and its inverse."""


def fit_temperature(logits: Floats, targets: NDArray[np.int64]) -> float:
    """The T that makes the likelihood of targets (N,) under softmax(logits / T), (N, C), greatest (Guo et al. 2017, section 4.2).

    It is convex in 1 / T, so the root of its derivative is found by bisection.
    """
    wanted = np.take_along_axis(logits, targets[:, None], 1).mean()

    def slope(inverse: float) -> float:
        return float((np.exp(log_softmax(inverse * logits)) * logits).sum(1).mean() - wanted)

    low, high = -np.log(WARMEST), np.log(WARMEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))
