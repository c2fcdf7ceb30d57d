"""One tree, hard or soft: its arrays answer as it does itself, pruning never raises the loss, and both learn what no sum over n-grams does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_trees import has, logits, soft, texts

from penjing.engines.numpy import Learned, ngrams
from penjing.errors import InputError
from penjing.students import logistic, soft_tree, tree
from penjing.students.fitted import FittedArrays
from penjing.students.soft_tree import SoftTree
from penjing.students.tree import Tree, pruned, stops
from penjing.students.trees import presence
from penjing.text.encoded import Encoded

SMALL: dict[str, Tree | SoftTree] = {
    "tree": Tree(bits=12, orders=1, features=15),
    "soft-tree": SoftTree(bits=12, orders=1, features=15, depth=3, epochs=60, patience=60, learning_rate=0.05),
}
BOTH = pytest.mark.parametrize("name", SMALL)


def fit(name: str, *given: Any, **options: Any) -> FittedArrays:
    settings = SMALL[name]
    if isinstance(settings, Tree):
        return tree.fit(*given, settings, **options)
    return soft_tree.fit(*given, settings, **options)


@BOTH
@pytest.mark.parametrize("classes", [2, 3])
def test_the_arrays_answer_as_the_tree_itself(name: str, classes: int) -> None:
    found = fit(name, texts(), soft(texts(), classes))
    other = texts(60, seed=1)
    own, arrays = np.asarray(found.answers(other)), logits(found.learned, other)
    np.testing.assert_allclose(arrays - arrays.mean(1, keepdims=True), own - own.mean(1, keepdims=True), atol=5e-3)
    assert np.ptp(own, axis=0).max() > 0.5


@BOTH
def test_they_learn_what_no_sum_over_ngrams_does(name: str) -> None:
    train, other = texts(800), texts(300, seed=1)
    right = soft(other, 2).argmax(1)
    found = logits(fit(name, train, soft(train, 2)).learned, other).argmax(1)
    linear = logits(logistic.fit(train, soft(train, 2), logistic.Logistic(bits=12, orders=1)).learned, other).argmax(1)
    assert (found == right).mean() > 0.95 > 0.85 > (linear == right).mean()


@BOTH
def test_one_class_alone_is_refused_and_without_anything_to_ask_the_answer_is_the_mean(name: str) -> None:
    with pytest.raises(InputError, match=r"all texts have class \[0\]"):
        fit(name, texts(), np.eye(2)[[0] * 400])
    encoded = Encoded.of([[0, 4, 1]] * 200, [[0] * 3] * 200)
    found = logits(fit(name, encoded, np.tile([0.2, 0.8], (200, 1))).learned, encoded)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], np.log(4), atol=0.05)


def probabilities(found: Learned, encoded: Encoded) -> NDArray[Any]:
    z = np.exp(logits(found, encoded))
    return np.asarray(z / z.sum(1, keepdims=True))


# -- the hard tree -----------------------------------------------------------------------------------------------


def test_a_leaf_answers_with_the_mean_of_its_texts() -> None:
    encoded = texts(200)
    targets = soft(encoded, 3)
    found = tree.fit(encoded, targets, replace(SMALL["tree"], leaves=2), held=np.zeros(0, np.int64)).learned  # type: ignore[arg-type]
    p = probabilities(found, encoded)
    groups = np.unique(p, axis=0)
    assert len(groups) == 2 and len(found.arrays["buckets"]) == 1 and found.settings["depth"] == 1
    for group in groups:
        inside = (p == group).all(1)
        mean = (targets[inside].sum(0) + 1 / 3) / (inside.sum() + 1)
        np.testing.assert_allclose(group, mean, atol=1e-5)


def test_pruning_by_hand() -> None:
    """0 splits into 1 and 2, 2 into 3 and 4: the lower split misleads, the upper one helps."""
    left, right = np.array([1, -1, 3, -1, -1]), np.array([2, -1, 4, -1, -1])
    p = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.01, 0.99]])
    passes = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 0, 1, 0, 1]], bool)
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    cut = pruned(passes, targets, np.log(p), left, right)
    assert cut.tolist() == [False, True, True, True, True]
    assert stops(cut, left, right).tolist() == [0, 1, 2, 2, 2]
    assert pruned(passes[:0], targets[:0], np.log(p), left, right).tolist() == [False, True, False, True, True]
    assert pruned(passes, targets[:, ::-1], np.log(p), left, right)[0]


def test_pruning_leaves_less_and_the_loss_of_held_out_texts_is_no_greater() -> None:
    encoded, held = texts(600), np.arange(400, 600)
    random = np.random.default_rng(0)
    noisy = np.eye(2)[np.where(random.random(600) < 0.3, 1 - soft(encoded, 2).argmax(1), soft(encoded, 2).argmax(1))]
    cut = tree.fit(encoded, noisy, SMALL["tree"], held=held).learned  # type: ignore[arg-type]
    whole = tree.fit(encoded.take(np.arange(400)), noisy[:400], SMALL["tree"], held=held[:0]).learned  # type: ignore[arg-type]

    def loss(found: Learned) -> float:
        return float(-(noisy[held] * np.log(probabilities(found, encoded.take(held)))).sum())

    assert len(cut.arrays["value"]) < len(whole.arrays["value"]) and loss(cut) <= loss(whole)


def test_a_tree_that_held_out_texts_contradict_is_one_leaf() -> None:
    encoded, held = texts(600), np.arange(300, 600)
    turned = soft(encoded, 2)
    turned[held] = turned[held, ::-1]
    found = tree.fit(encoded, turned, SMALL["tree"], held=held).learned  # type: ignore[arg-type]
    assert len(found.arrays["value"]) == 1 and found.settings["depth"] == 0


# -- the soft tree -----------------------------------------------------------------------------------------------


def test_the_balance_uses_more_of_the_tree() -> None:
    """With the regulariser the root sends nearer to half of the texts either way."""
    encoded = texts(400)
    targets = np.eye(2)[has(encoded, 5).astype(int)]
    apart = []
    for balance in (0.0, 5.0):
        settings = SoftTree(bits=12, orders=1, features=15, depth=1, balance=balance, epochs=20, patience=20, learning_rate=0.05)
        arrays = soft_tree.fit(encoded, targets, settings).learned.arrays
        text, bucket = ngrams(encoded.ids, encoded.types, encoded.offsets, 12, 1)
        x = presence(text, bucket, arrays["buckets"], len(encoded)).astype(float)
        score = x / np.sqrt(np.maximum(x.sum(1, keepdims=True), 1)) @ arrays["filters"].astype(float) + arrays["threshold"]
        apart.append(abs((1 / (1 + np.exp(-score))).mean() - 0.5))
    assert apart[1] < 0.5 * apart[0]


def test_the_best_epoch_is_kept_and_the_seed_decides() -> None:
    encoded, held = texts(300), np.arange(200, 300)
    targets = soft(encoded, 2)
    torch.manual_seed(5)
    one = soft_tree.fit(encoded, targets, SMALL["soft-tree"], held=held).learned  # type: ignore[arg-type]
    torch.manual_seed(6)
    same = soft_tree.fit(encoded, targets, SMALL["soft-tree"], held=held).learned  # type: ignore[arg-type]
    other = soft_tree.fit(encoded, targets, SMALL["soft-tree"], held=held, seed=1).learned  # type: ignore[arg-type]
    assert all(np.array_equal(value, same.arrays[name]) for name, value in one.arrays.items())
    assert not np.array_equal(one.arrays["filters"], other.arrays["filters"])
