"""Logistic regression on hashed n-grams of tokens: the smallest student."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from penjing.arrays import Encoded
from penjing.engines.numpy import Learned, ngrams
from penjing.errors import InputError

Array = NDArray[Any]
NEGLIGIBLE = 1e-3
"""A class of less probability gets no row of its own."""
ABSENT = -20.0
"""The logit of a class that no text has."""


@dataclass(frozen=True)
class LogisticSettings:
    """2^`bits` buckets, n-grams up to `orders`, those of at least `least` texts; `strength` is 1/λ of the penalty λ·‖w‖²/2."""

    bits: int = 18
    orders: int = 3
    least: int = 1
    strength: float = 10.0


def fit(texts: Encoded, targets: Array, settings: LogisticSettings | None = None) -> Learned:
    """The regression on `targets`, probabilities (N, C) or labels as ones and zeros.

    A text is its n-grams (`engines.numpy.ngrams`), 1/√(how many they are) each, so that its length is 1.
    """
    s = settings or LogisticSettings()
    text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
    used = np.bincount(bucket, minlength=1 << s.bits) >= s.least
    value, kept = 1 / np.sqrt(np.bincount(text))[text], used[bucket]
    column = (np.cumsum(used) - 1)[bucket[kept]]
    x = csr_matrix((value[kept], (text[kept], column)), shape=(len(texts), int(used.sum())))
    weights, bias = regression(x, targets, s.strength)
    arrays: dict[str, Array] = {
        "used": np.packbits(used, bitorder="little"),
        "weights": margins(weights).astype(np.float16),
        "bias": margins(bias).astype(np.float32),
    }
    return Learned("logistic", arrays, {"bits": s.bits, "orders": s.orders})


def regression(x: Any, targets: Array, strength: float) -> tuple[Array, Array]:
    """Weights (F, C) and biases (C,) of least Σ cross-entropy(targets, softmax) + ‖w‖²/(2·`strength`), x (N, F) dense or sparse."""
    rows, classes, weight = repeated(targets)
    present = classes_of(classes)
    model = LogisticRegression(C=strength, max_iter=500).fit(x[rows], classes, sample_weight=weight)
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weights, bias = np.zeros((x.shape[1], targets.shape[1])), np.full(targets.shape[1], ABSENT)
    weights[:, present], bias[present] = coef.T, intercept
    return weights, bias


def drawn(texts: int, seed: int) -> Array:
    """The numbers of a tenth of the texts, at least one, at random: those to choose by."""
    return np.sort(np.random.default_rng(seed).permutation(texts)[: max(1, texts // 10)])


def repeated(targets: Array) -> tuple[Array, Array, Array]:
    """Targets (N, C) as labels: row numbers, classes and weights (M,), each text once per class, weighted by its probability.

    The cross-entropy with these is that with `targets`.
    """
    rows, classes = np.nonzero(targets > NEGLIGIBLE)
    return rows, classes, targets[rows, classes]


def classes_of(labels: Array) -> Array:
    """The classes that there are, at least two."""
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(f"students: all texts have class {present.tolist()}; learning needs texts of two classes at least")
    return present


def margins(z: Array) -> Array:
    """Columns (…, C) of logits → (…, D): themselves, or of two classes their difference (…, 1)."""
    return z[..., 1:] - z[..., :1] if z.shape[-1] == 2 else z
