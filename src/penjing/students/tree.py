"""One decision tree on the presence of n-grams (Breiman et al. 1984), pruned by texts held out: a student whose every answer can be read."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from penjing.engines.numpy import MOST_DEPTH, Learned, ngrams
from penjing.students.arrays import ArrayStudent, joined
from penjing.students.fitted import FittedArrays
from penjing.students.fitting import Fitting
from penjing.students.logistic import classes_of, drawn, margins, repeated
from penjing.students.trees import MANY, presence, strongest
from penjing.text.encoded import Array, Encoded


@final
@dataclass(frozen=True)
class Tree(ArrayStudent):
    """The student of one decision tree on n-grams.

    `features` n-grams of at least `least` texts; up to `leaves` leaves of at least `least` texts each, of which pruning leaves those that
    help on the held-out texts.
    """

    name: ClassVar[str] = "tree"
    paper: ClassVar[str] = "Breiman et al. 1984; pruned as in Quinlan 1987"
    when: ClassVar[str] = "where a person must be able to follow each answer; one tree alone is a weak student"

    bits: int = 18
    orders: int = 2
    features: int = 2000
    least: int = 5
    leaves: int = 256

    def fit_arrays(self, fitting: Fitting, train: NDArray[np.float32], dev: NDArray[np.float32]) -> FittedArrays:
        """Fit the tree; the held-out texts decide what is pruned."""
        encoded, targets, held = joined(fitting, train, dev)
        return fit(encoded, targets, self, held=held, seed=fitting.seed)


def fit(texts: Encoded, targets: Array, settings: Tree | None = None, *, held: Array | None = None, seed: int = 0) -> FittedArrays:
    """Fit a tree to `targets`, probabilities (N, C) or one-hot labels.

    Splits are those of least squared error, of labels the Gini impurity; a leaf answers with the mean of its targets, and one more
    text of equal probabilities.

    Args:
        held: numbers of the held-out texts that it is pruned by; None: a tenth of many texts, of few none.
    """
    from sklearn.tree import DecisionTreeRegressor  # takes a second to import

    s = settings or Tree()
    classes_of(repeated(targets)[1])
    text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
    if held is None:
        held = drawn(len(texts), seed) if len(texts) >= MANY * targets.shape[1] else np.zeros(0, np.int64)
    learned = np.setdiff1d(np.arange(len(texts)), held)
    inside = np.isin(text, learned)
    buckets = strongest(np.searchsorted(learned, text[inside]), bucket[inside], targets[learned], s.features, s.least, 1 << s.bits)
    x = presence(text, bucket, buckets, len(texts)).astype(np.float32)
    model = DecisionTreeRegressor(max_leaf_nodes=s.leaves, max_depth=MOST_DEPTH, min_samples_leaf=s.least, random_state=seed)
    tree = model.fit(x[learned], targets[learned]).tree_
    count = tree.n_node_samples[:, None]
    mean = tree.value.reshape(len(count), -1)  # (M, C)
    logits = np.log((count * mean + 1 / mean.shape[1]) / (count + 1))
    left, right = tree.children_left, tree.children_right
    passes = model.decision_path(x[held]).toarray().astype(bool) if len(held) else np.zeros((0, len(logits)), bool)
    cut = pruned(passes, targets[held], logits, left, right)
    place = stops(cut, left, right)

    def answers(texts: Encoded) -> Array:
        text, bucket = ngrams(texts.ids, texts.types, texts.offsets, s.bits, s.orders)
        return np.asarray(logits[place[model.apply(presence(text, bucket, buckets, len(texts)).astype(np.float32))]])

    arrays, depth = _arrays(cut, place, tree.feature, np.stack([left, right], axis=1), logits, buckets)
    return FittedArrays(Learned("trees", arrays, {"bits": s.bits, "orders": s.orders, "depth": depth}), answers)


def pruned(
    passes: NDArray[np.bool_], targets: Array, logits: Array, left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.bool_]:  # fmt: skip
    """The nodes (M,) that are leaves after reduced-error pruning (Quinlan 1987): a split stays where it lowers the cross-entropy of held-out texts.

    Args:
        passes: whether each of K held-out texts passes each node, (K, M); of none, nothing is pruned.
        targets: theirs (K, C). logits: log probabilities of each node (M, C). left, right: its children, which come after it; -1 of a leaf.
    """
    cut = left < 0
    if not len(passes):
        return cut
    loss = -(passes * (targets @ logits.T)).sum(0)  # (M,): of each node, were it a leaf
    for node in range(len(left) - 1, -1, -1):
        if left[node] >= 0:
            below = loss[left[node]] + loss[right[node]]
            cut[node] = below >= loss[node]
            loss[node] = min(below, loss[node])
    return cut


def stops(cut: NDArray[np.bool_], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first leaf after pruning on the way to each node (M,), or the node itself above it."""
    place = np.arange(len(cut))
    for node in np.flatnonzero(left >= 0):
        if cut[place[node]]:
            place[[left[node], right[node]]] = place[node]
    return place


def _arrays(
    cut: NDArray[np.bool_], place: NDArray[np.int64], feature: Array, child: Array, logits: Array, buckets: Array
) -> tuple[dict[str, Array], int]:  # fmt: skip
    """The arrays of a pruned tree, once for each output, and its depth."""
    kept = np.flatnonzero(place == np.arange(len(place)))
    leaf = cut[kept]
    new = np.zeros(len(place), np.int64)
    new[kept] = np.arange(len(kept))
    own = np.where(leaf[:, None], np.arange(len(kept))[:, None], new[child[kept]])  # (M, 2)
    depth = np.zeros(len(kept), np.int64)
    for node in np.flatnonzero(~leaf):
        depth[own[node]] = depth[node] + 1
    used = np.unique(feature[kept][~leaf])
    value = np.where(leaf[:, None], margins(logits[kept]), 0)  # (M, D)
    outputs = value.shape[1]
    start = len(kept) * np.arange(outputs)
    arrays = {
        "buckets": buckets[used].astype(np.uint32),
        "feature": np.tile(np.where(leaf, 0, np.searchsorted(used, feature[kept])), outputs).astype(np.int32),
        "child": (start[:, None, None] + own).reshape(-1, 2).astype(np.int32),
        "value": value.T.ravel().astype(np.float32),
        "root": start.astype(np.int32),
        "output": np.arange(outputs, dtype=np.int32),
        "bias": np.zeros(outputs, np.float32),
    }
    return arrays, int(depth.max())
