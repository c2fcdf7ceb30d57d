"""When a text may leave early: how sure an exit's answer is, as a score that falls the surer it is.

N texts, E exits (in their order), C classes, H hidden units. z: logits (N, C); h: the first token's states (N, H).
"""

import numpy as np
from numpy.typing import NDArray

from penjing.maths.statistics import softmax

Floats = NDArray[np.floating]
ENTROPY, PATIENCE, PROTOTYPES = RULES = ("entropy", "patience", "prototypes")
"""Rules by name: how uncertain an answer is, how many exits in a row agree with it, how near it is to its class besides."""
BLEND = 1.0
"""The weight of the distance ratio beside the entropy in `distance_and_entropy`: both count alike."""


def entropy(z: Floats) -> Floats:
    """-Σ p log p / log C with p = softmax(z), from 0 to 1: (N, C) → (N,) (Xin et al. 2020, DeeBERT, section 3.2; divided by its largest value)."""
    p = softmax(z)
    nats = -(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny))).sum(-1)
    return np.asarray(np.clip(nats / np.log(max(2, z.shape[-1])), 0, 1))


def agreeing(answers: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many exits in a row, up to each and with it, answer alike: classes (N, E) → (N, E) (Zhou et al. 2020, PABEE, section 3.2)."""
    counts = np.ones(answers.shape, np.int64)
    for i in range(1, answers.shape[1]):
        counts[:, i] += counts[:, i - 1] * (answers[:, i] == answers[:, i - 1])
    return counts


def class_means(h: Floats, answers: NDArray[np.integer], classes: int) -> Floats:
    """The mean of the states of each class, its prototype: (N, H), (N,) → (C, H) (Snell et al. 2017, equation 1).

    A class that no text has takes the mean of all.
    """
    return np.stack([h[answers == c].mean(0) if (answers == c).any() else h.mean(0) for c in range(classes)])


def distance_ratio(h: Floats, prototypes: Floats, answers: NDArray[np.integer]) -> Floats:
    """(1 + (a - b) / max(a, b)) / 2, from 0 to 1: a the distance to the prototype of the answer, b to the nearest other one.

    (N, H), (C, H), (N,) → (N,) (He et al. 2024, DE3-BERT, the distance ratio of r₁ and r₂, which we read as a and b).
    """
    distances = np.sqrt(np.square(h[:, None] - prototypes[None]).sum(-1))  # (N, C)
    own = np.arange(prototypes.shape[0]) == answers[:, None]
    a, b = distances[own], np.where(own, np.inf, distances).min(1)
    return np.asarray((1 + (a - b) / np.maximum(np.maximum(a, b), np.finfo(distances.dtype).tiny)) / 2)


def distance_and_entropy(ratio: Floats, entropies: Floats, blend: float = BLEND) -> Floats:
    """(λ + 1) / (λ / ratio + 1 / entropy), their harmonic mean with the weight λ: (N,), (N,) → (N,) (He et al. 2024, DE3-BERT, EDR)."""
    tiny = np.finfo(np.float32).tiny
    return np.asarray(np.minimum(1, (blend + 1) / (blend / np.maximum(ratio, tiny) + 1 / np.maximum(entropies, tiny))))


def places(scores: Floats, threshold: float) -> NDArray[np.int64]:
    """The first exit whose score is at most the threshold, by its number; E, the end, where none is: (N, E) → (N,)."""
    sure = scores <= threshold
    return np.where(sure.any(1), sure.argmax(1), scores.shape[1]).astype(np.int64)
