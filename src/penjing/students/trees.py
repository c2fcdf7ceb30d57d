"""Gradient-boosted trees on the presence of n-grams (Friedman 2001; grown on histograms as in Ke et al. 2017, LightGBM)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.numpy import Learned, ngrams
from penjing.students.arrays import ArrayStudent, joined
from penjing.students.fitted import FittedArrays
from penjing.students.fitting import Fitting
from penjing.students.logistic import ABSENT, classes_of, drawn, repeated
from penjing.text.encoded import Array, Encoded

if TYPE_CHECKING:  # scikit-learn takes a second to import
    from sklearn.ensemble import HistGradientBoostingClassifier

MANY = 100
"""Texts per class from which on some are held out by default."""


@final
@dataclass(frozen=True)
class Trees(ArrayStudent):
    """The student of gradient-boosted trees on n-grams.

    `features` n-grams of at least `least` texts; up to `rounds` trees per output, of `leaves` leaves. Growing stops after `patience`
    rounds that do not help on the held-out texts. Memory while learning is 8 bytes per text and feature.
    """

    name: ClassVar[str] = "trees"
    paper: ClassVar[str] = "Friedman 2001; Ke et al. 2017, LightGBM"
    when: ClassVar[str] = "no neural network, and words that count only together"

    bits: int = 18
    orders: int = 2
    features: int = 2000
    least: int = 5
    rounds: int = 150
    leaves: int = 31
    learning_rate: float = 0.2
    patience: int = 20

    def fit_arrays(self, fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]) -> FittedArrays:
        """Fit the trees; the held-out texts decide when to stop."""
        encoded, targets, held = joined(fitting, train, dev)
        return fit(encoded, targets, self, held=held, seed=fitting.seed)


@dataclass(frozen=True)
class Grown:
    """The trees of one output: scikit-learn's nodes, and the base value that is added to their sum."""

    output: int
    base: float
    trees: list[Array]


def fit(texts: Encoded, targets: Array, settings: Trees | None = None, *, held: Array | None = None, seed: int = 0) -> FittedArrays:
    """Fit trees of least cross-entropy with `targets`, probabilities (N, C) or one-hot labels.

    Args:
        held: numbers of the held-out texts, which decide when to stop; None: a tenth of many texts, of few none.
    """
    s = settings or Trees()
    text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
    if held is None:
        held = drawn(len(texts), seed) if len(texts) >= MANY * targets.shape[1] else np.zeros(0, np.int64)
    learned = np.setdiff1d(np.arange(len(texts)), held)
    inside = np.isin(text, learned)
    buckets = strongest(np.searchsorted(learned, text[inside]), bucket[inside], targets[learned], s.features, s.least, 1 << s.bits)
    model, grown, present = _grow(presence(text, bucket, buckets, len(texts)), targets, learned, held, s, seed)
    classes = targets.shape[1]
    bias = np.full(1 if classes == 2 else classes, 0.0 if classes == 2 else ABSENT, np.float32)
    if classes > 2:
        bias[present] = 0
    for ensemble in grown:
        bias[ensemble.output] = ensemble.base
    arrays, depth = _arrays(grown, buckets)

    def answers(texts: Encoded) -> Array:
        text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
        scores = model.decision_function(presence(text, bucket, buckets, len(texts))).reshape(len(texts), -1)
        z = np.full((len(texts), classes), ABSENT)
        z[:, present] = 0
        z[:, present[-scores.shape[1] :]] = scores
        return z

    return FittedArrays(Learned("trees", arrays | {"bias": bias}, {"bits": s.bits, "orders": s.orders, "depth": depth}), answers)


def strongest(text: Array, bucket: Array, targets: Array, count: int, least: int, size: int) -> NDArray[np.uint32]:
    """The `count` buckets of `size` whose presence explains most of the targets' variance, ascending.

    Of n texts out of N that have it, Σ over classes s²/(n·(1 - n/N)), where s is the sum of their targets less the mean: for labels
    the numerator of Goodman and Kruskal's τ, the χ² statistic with classes of equal weight.
    """
    n = np.bincount(bucket, minlength=size)  # (buckets,)
    centred = targets - targets.mean(axis=0)  # (N, C)
    sums = np.stack([np.bincount(bucket, column[text], size) for column in centred.T])  # (C, buckets)
    usable = (n >= least) & (n < len(targets))
    score = np.where(usable, (sums**2).sum(axis=0) / np.where(usable, n * (1 - n / len(targets)), 1), 0)
    best = np.argsort(-score, kind="stable")[:count]
    return np.sort(best[score[best] > 0]).astype(np.uint32)


def presence(text: Array, bucket: Array, buckets: Array, texts: int) -> NDArray[np.uint8]:
    """The presence of buckets in texts: (N, F) of zeros and ones, with one column of zeros where there is no bucket."""
    x = np.zeros((texts, max(1, len(buckets))), np.uint8)
    known = np.isin(bucket, buckets)
    x[text[known], np.searchsorted(buckets, bucket[known])] = 1
    return x


def _classifier(s: Trees, hold_out: bool, seed: int = 0) -> "HistGradientBoostingClassifier":
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=s.rounds, max_leaf_nodes=s.leaves, learning_rate=s.learning_rate, min_samples_leaf=s.least,
        max_bins=2, early_stopping=hold_out, n_iter_no_change=s.patience, random_state=seed,
    )  # fmt: skip


def _grow(
    x: Array, targets: Array, learned: Array, held: Array, s: Trees, seed: int
) -> "tuple[HistGradientBoostingClassifier, list[Grown], Array]":
    """Grow the trees; returns the fitted model, the trees of all outputs, and the classes that occur.

    A text has rows of several classes, and is held out with all of them.
    """
    rows, labels, weights = repeated(targets[learned])
    present = classes_of(labels)
    judged: dict[str, Array] = {}
    if len(held):
        held_rows, held_labels, held_weights = repeated(targets[held])
        known = np.isin(held_labels, present)
        judged = {"X_val": x[held[held_rows[known]]], "y_val": held_labels[known], "sample_weight_val": held_weights[known]}
    model = _classifier(s, bool(judged), seed)
    bases, trees = grown_trees(model.fit(x[learned[rows]], labels, sample_weight=weights, **judged))
    outputs = [0] if targets.shape[1] == 2 else present[-len(bases) :].tolist()
    grown = [Grown(output, base, nodes) for output, base, nodes in zip(outputs, bases, trees, strict=True)]
    return model, grown, present


def grown_trees(model: "HistGradientBoostingClassifier") -> tuple[list[float], list[list[Array]]]:
    """The base values and the trees of a fitted model, by output.

    scikit-learn has no public way to them: `_predictors` and `_baseline_prediction` are as in 1.7 to 1.9, and a test compares the answers.
    """
    return model._baseline_prediction.ravel().tolist(), [[tree.nodes for tree in trees] for trees in zip(*model._predictors, strict=True)]


def _arrays(grown: list[Grown], buckets: Array) -> tuple[dict[str, Array], int]:
    """The arrays of all trees, with only the buckets that a split uses, and the depth of the trees."""
    trees = [nodes for ensemble in grown for nodes in ensemble.trees]
    root = np.cumsum([0, *map(len, trees)])
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    place = np.arange(len(nodes))
    start = np.repeat(root[:-1], np.diff(root))  # of the tree of each node
    used = np.unique(nodes["feature_idx"][~leaf])
    arrays = {
        "buckets": buckets[used],
        "feature": np.where(leaf, 0, np.searchsorted(used, nodes["feature_idx"])).astype(np.int32),
        "child": np.stack([np.where(leaf, place, start + nodes[side]) for side in ("left", "right")], axis=1).astype(np.int32),
        "value": np.where(leaf, nodes["value"], 0).astype(np.float32),
        "root": root[:-1].astype(np.int32),
        "output": np.repeat([ensemble.output for ensemble in grown], [len(ensemble.trees) for ensemble in grown]).astype(np.int32),
    }
    return arrays, int(nodes["depth"].max())
