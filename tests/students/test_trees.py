"""Trees: the arrays answer as scikit-learn does, and the n-grams are those that tell most."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penjing.engines.numpy import Learned, NumpyEngine, ngrams
from penjing.errors import InputError
from penjing.students import logistic, trees
from penjing.students.trees import Trees, _classifier, presence, strongest
from penjing.text.encoded import Encoded

SMALL = Trees(bits=12, orders=1, features=15, rounds=12, leaves=6)


def fit(*given: Any, **options: Any) -> Learned:
    """The arrays alone."""
    return trees.fit(*given, **options).learned


def texts(count: int = 400, seed: int = 0) -> Encoded:
    """Random texts [CLS] … [SEP] over 20 tokens."""
    rng = np.random.default_rng(seed)
    ids = [[0, *rng.integers(2, 20, n).tolist(), 1] for n in rng.integers(4, 12, count)]
    return Encoded.of(ids, [[0] * len(row) for row in ids])


def has(encoded: Encoded, token: int) -> NDArray[np.bool_]:
    return np.array([token in encoded.row(i) for i in range(len(encoded))])


def soft(encoded: Encoded, classes: int) -> NDArray[Any]:
    """Probabilities that two tokens decide together, and a third a little."""
    z = 3.0 * (has(encoded, 5) ^ has(encoded, 6)) - has(encoded, 7) - 1
    p = 1 / (1 + np.exp(-z))
    return np.stack([1 - p, p], 1) if classes == 2 else np.stack([(1 - p) / 3, p, 2 * (1 - p) / 3], 1)


def logits(learned: Learned, encoded: Encoded) -> NDArray[np.float32]:
    return np.stack(NumpyEngine(learned).logits(encoded))


def features(train: Encoded, targets: NDArray[Any], encoded: Encoded) -> NDArray[np.uint8]:
    """The columns that `fit` sees for other texts."""
    text, bucket = ngrams(train.ids, train.types, train.offsets, SMALL.bits, SMALL.orders)
    chosen = strongest(text, bucket, targets, SMALL.features, SMALL.least, 1 << SMALL.bits)
    text, bucket = ngrams(encoded.ids, encoded.types, encoded.offsets, SMALL.bits, SMALL.orders)
    return presence(text, bucket, chosen, len(encoded))


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_arrays_answer_as_the_classifier_does(classes: int, hard: bool) -> None:
    train, other = texts(), texts(60, seed=1)
    targets = soft(train, classes)
    if hard:
        targets = np.eye(classes)[targets.argmax(1)]
        targets[:20] = np.roll(targets[:20], 1, axis=1)
    found = logits(fit(train, targets, SMALL, held=np.zeros(0, np.int64)), other)
    rows, labels = np.nonzero(targets)
    model = _classifier(SMALL, False)
    model.fit(features(train, targets, train)[rows], labels, sample_weight=targets[rows, labels])
    expected = model.decision_function(features(train, targets, other))
    np.testing.assert_allclose(found[:, 1] - found[:, 0] if classes == 2 else found, expected, atol=1e-4)


def test_a_text_that_says_when_to_stop_is_not_learned_from() -> None:
    train, held = texts(600), np.arange(300, 600)
    turned = soft(train, 2)
    turned[held] = turned[held, ::-1]  # what is held out contradicts what is learned: nothing helps there
    stopped, grown = (fit(train, turned, replace(SMALL, patience=3), held=rows) for rows in (held, held[:0]))
    assert len(stopped.arrays["root"]) <= 4 < len(grown.arrays["root"]) == SMALL.rounds


def test_trees_learn_what_no_sum_over_ngrams_does() -> None:
    train, other = texts(800), texts(300, seed=1)
    right = soft(other, 2).argmax(1)
    found = logits(fit(train, soft(train, 2), SMALL), other).argmax(1)
    linear = logits(logistic.fit(train, soft(train, 2), logistic.Logistic(bits=12, orders=1)).learned, other).argmax(1)
    assert (found == right).mean() > 0.95 > 0.85 > (linear == right).mean()


def test_the_strongest_are_those_of_greatest_correlation() -> None:
    encoded = texts()
    targets = soft(encoded, 2)
    text, bucket = ngrams(encoded.ids, encoded.types, encoded.offsets, 12, 2)
    everything = np.unique(bucket)
    x = presence(text, bucket, everything, len(encoded)).astype(float)
    usable = (x.sum(0) >= 5) & (x.mean(0) < 1)
    r = np.array([np.corrcoef(column, targets[:, 1])[0, 1] ** 2 for column in x[:, usable].T])
    best = np.sort(everything[usable][np.argsort(-r, kind="stable")[:10]])
    assert strongest(text, bucket, targets, 10, 5, 1 << 12).tolist() == best.tolist()


def test_only_ngrams_that_a_split_asks_for_are_stored() -> None:
    learned = fit(texts(), soft(texts(), 2), SMALL)
    arrays = learned.arrays
    inner = arrays["child"][:, 0] != np.arange(len(arrays["child"]))
    assert sorted(set(arrays["feature"][inner])) == list(range(len(arrays["buckets"])))
    assert len(arrays["buckets"]) <= SMALL.features


def test_without_anything_to_ask_the_answer_is_the_mean() -> None:
    encoded = Encoded.of([[0, 4, 1]] * 8, [[0] * 3] * 8)
    targets = np.tile([0.2, 0.8], (8, 1))
    found = logits(fit(encoded, targets, SMALL), encoded)
    np.testing.assert_allclose(found[:, 1] - found[:, 0], np.log(4), atol=1e-5)


def test_a_class_that_no_text_has_is_never_answered_and_one_alone_is_refused() -> None:
    encoded = texts()
    labels = np.insert(np.eye(2)[soft(encoded, 2).argmax(1)], 1, 0, axis=1)
    assert set(logits(fit(encoded, labels, SMALL), encoded).argmax(1)) == {0, 2}
    with pytest.raises(InputError, match=r"all texts have class \[0\]"):
        fit(encoded, np.eye(2)[[0] * len(encoded)], SMALL)
