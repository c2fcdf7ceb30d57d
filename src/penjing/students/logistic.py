"""Logistic regression on hashed n-grams of tokens: the smallest student."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.numpy import Learned, ngrams
from penjing.errors import InputError
from penjing.students.arrays import ArrayStudent
from penjing.students.fitted import FittedArrays
from penjing.students.fitting import Fitting
from penjing.students.student import Usual
from penjing.text.encoded import Array, Encoded

if TYPE_CHECKING:  # scikit-learn takes a second to import
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

NEGLIGIBLE = 1e-3
"""Classes of a text with less probability are left out of its training rows."""
ABSENT = -20.0
"""The logit of a class that no text has."""


@final
@dataclass(frozen=True)
class Logistic(ArrayStudent):
    """The student of logistic regression on hashed n-grams of tokens.

    2^`bits` buckets, n-grams up to `orders`, those of at least `least` texts; `strength` is 1/λ of the penalty λ·‖w‖²/2.
    """

    name: ClassVar[str] = "logistic"
    usual: ClassVar[Usual] = Usual(copies=2)
    paper: ClassVar[str] = "hashed features: Weinberger et al. 2009"
    when: ClassVar[str] = "the smallest file, or no neural network at all"

    bits: int = 18
    orders: int = 3
    least: int = 1
    strength: float = 10.0

    def fit_arrays(self, fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]) -> FittedArrays:
        """Fit the regression on the texts to learn from; the held-out texts are not used."""
        return fit(fitting.train.encoded, train, self)


def fit(texts: Encoded, targets: Array, settings: Logistic | None = None) -> FittedArrays:
    """Fit the regression to `targets`, probabilities (N, C) or one-hot labels.

    The features of a text are its n-grams (`engines.numpy.ngrams`), 1/√(their number) each, so that the vector has length 1.
    """
    s = settings or Logistic()
    _, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
    used = np.bincount(bucket, minlength=1 << s.bits) >= s.least
    model = fitted_regression(_features(texts, used, s), targets, s.strength)
    weights, bias = coefficients(model, targets.shape[1])
    arrays: dict[str, Array] = {
        "used": np.packbits(used, bitorder="little"),
        "weights": margins(weights).astype(np.float16),
        "bias": margins(bias).astype(np.float32),
    }

    def answers(texts: Encoded) -> Array:
        scores = model.decision_function(_features(texts, used, s))
        z = np.full((len(texts), targets.shape[1]), ABSENT)
        z[:, model.classes_] = np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
        return z

    return FittedArrays(Learned("logistic", arrays, {"bits": s.bits, "orders": s.orders}), answers)


def _features(texts: Encoded, used: Array, s: Logistic) -> "csr_matrix":
    """The features of the texts: their n-grams in the buckets that are `used`, as a sparse matrix (N, F)."""
    text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
    value = 1 / np.sqrt(np.bincount(text))[text]
    kept = used[bucket]
    column = (np.cumsum(used) - 1)[bucket[kept]]
    from scipy.sparse import csr_matrix

    return csr_matrix((value[kept], (text[kept], column)), shape=(len(texts), int(used.sum())))


def regression(x: "Array | csr_matrix", targets: Array, strength: float) -> tuple[Array, Array]:
    """Weights (F, C) and biases (C,) of `fitted_regression`."""
    return coefficients(fitted_regression(x, targets, strength), targets.shape[1])


def fitted_regression(x: "Array | csr_matrix", targets: Array, strength: float) -> "LogisticRegression":
    """scikit-learn's logistic regression: minimises Σ cross-entropy(targets, softmax) + ‖w‖²/(2·`strength`).

    x: (N, F), dense or sparse. targets: (N, C).
    """
    rows, labels, weight = repeated(targets)
    classes_of(labels)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=500).fit(x[rows], labels, sample_weight=weight)


def coefficients(model: "LogisticRegression", classes: int) -> tuple[Array, Array]:
    """Weights (F, C) and biases (C,) of a fitted regression, whose own classes may be fewer."""
    coef = model.coef_
    intercept = model.intercept_
    if len(model.classes_) == 2:
        coef = np.concatenate([-coef, coef]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weights = np.zeros((coef.shape[1], classes))
    bias = np.full(classes, ABSENT)
    weights[:, model.classes_] = coef.T
    bias[model.classes_] = intercept
    return weights, bias


def drawn(texts: int, seed: int) -> Array:
    """Numbers of a random tenth of the texts, at least one, to be held out."""
    return np.sort(np.random.default_rng(seed).permutation(texts)[: max(1, texts // 10)])


def repeated(targets: Array) -> tuple[Array, Array, Array]:
    """Targets (N, C) as weighted labels: row numbers, classes and weights (M,), one entry per text and class.

    The cross-entropy with these equals that with `targets`.
    """
    rows, classes = np.nonzero(targets > NEGLIGIBLE)
    return rows, classes, targets[rows, classes]


def classes_of(labels: Array) -> Array:
    """The classes that occur; an `InputError` where there are fewer than two."""
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(f"students: all texts have class {present.tolist()}; learning needs texts of two classes at least")
    return present


def margins(z: Array) -> Array:
    """Logits (…, C) as margins: unchanged, or of two classes their difference (…, 1)."""
    return z[..., 1:] - z[..., :1] if z.shape[-1] == 2 else z
