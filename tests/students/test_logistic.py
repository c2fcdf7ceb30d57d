"""Logistic regression on n-grams: what is least stays least, however the targets are said."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from penjing.engines.numpy import Learned, NumpyEngine, ngrams
from penjing.errors import InputError
from penjing.students import logistic
from penjing.students.logistic import ABSENT, Logistic, classes_of, margins, regression
from penjing.text.encoded import Encoded

SMALL = Logistic(bits=12, orders=2, strength=100.0)


def fit(*given: Any, **options: Any) -> Learned:
    """The arrays alone."""
    return logistic.fit(*given, **options).learned


def texts(count: int, seed: int = 0) -> Encoded:
    """Random texts [CLS] … [SEP] over 20 tokens."""
    rng = np.random.default_rng(seed)
    ids = [[0, *rng.integers(2, 20, n).tolist(), 1] for n in rng.integers(1, 9, count)]
    return Encoded.of(ids, [[0] * len(row) for row in ids])


def probabilities(encoded: Encoded, classes: int, scale: float = 4.0) -> NDArray[Any]:
    """What a teacher that is linear in the n-grams answers (N, C)."""
    weights = np.random.default_rng(5).standard_normal((1 << SMALL.bits, classes))
    text, bucket = ngrams(encoded.ids, encoded.types, encoded.offsets, SMALL.bits, SMALL.orders)
    sums = np.stack([np.bincount(text, column[bucket]) for column in weights.T], axis=1)
    return softmax(scale * sums / np.sqrt(np.bincount(text))[:, None], axis=1)


def answers(learned: Learned, encoded: Encoded) -> NDArray[Any]:
    return softmax(np.stack(NumpyEngine(learned).logits(encoded)), axis=1)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_teacher_is_recovered_on_texts_that_were_not_seen(classes: int) -> None:
    train, test = texts(3000), texts(200, seed=1)
    found = answers(fit(train, probabilities(train, classes, scale=2), SMALL), test)
    expected = probabilities(test, classes, scale=2)
    assert np.abs(found - expected).mean() < 0.1
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.9


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_as_ones_and_zeros_are_the_plain_regression(classes: int) -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((80, 6)), rng.integers(0, classes, 80)
    weights, bias = regression(x, np.eye(classes)[labels], 2.0)
    plain = LogisticRegression(C=2.0, max_iter=500).fit(x, labels)
    np.testing.assert_allclose(softmax(x @ weights + bias, axis=1), plain.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_mean_answer_is_the_mean_target(classes: int) -> None:
    """The bias has no penalty, so at the least the residuals of each class sum to zero."""
    train = texts(150)
    targets = probabilities(train, classes)
    np.testing.assert_allclose(answers(fit(train, targets, SMALL), train).mean(0), targets.mean(0), atol=5e-3)


def test_two_classes_are_treated_alike() -> None:
    train = texts(150)
    targets = probabilities(train, 2)
    found, turned = (answers(fit(train, each, SMALL), train) for each in (targets, targets[:, ::-1]))
    np.testing.assert_allclose(found, turned[:, ::-1], atol=5e-3)


def test_of_two_classes_the_difference_is_all_that_counts() -> None:
    z = np.random.default_rng(0).standard_normal((5, 2))
    both = np.hstack([-margins(z), margins(z)]) / 2
    np.testing.assert_allclose(softmax(both, axis=1), softmax(z, axis=1))
    assert margins(np.ones((5, 3))).shape == (5, 3)


def test_buckets_of_few_texts_are_left_out_and_do_not_count_as_used() -> None:
    train = texts(60)
    targets = probabilities(train, 2)
    rows = [len(fit(train, targets, Logistic(bits=12, orders=2, least=least)).arrays["weights"]) for least in (1, 2, 10)]
    _, bucket = ngrams(train.ids, train.types, train.offsets, 12, 2)
    counts = np.bincount(bucket)
    assert rows == [int((counts >= least).sum()) for least in (1, 2, 10)]
    assert rows[0] > rows[1] > rows[2] > 0


def test_a_class_that_no_text_has_is_never_answered() -> None:
    train = texts(60)
    targets = np.insert(probabilities(train, 2), 1, 0, axis=1)
    z = np.stack(NumpyEngine(fit(train, targets, SMALL)).logits(train))
    assert set(z.argmax(1)) == {0, 2}
    assert (z[:, 1] == ABSENT).all()


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(InputError, match=r"all texts have class \[1\]; learning needs"):
        fit(texts(5), np.eye(2)[[1] * 5])
    assert classes_of(np.array([3, 1, 3])).tolist() == [1, 3]
