"""Static embeddings: vectors are the teacher's, answers do not hang on the order of tokens, training helps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import penjing_model
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.special import softmax

from penjing.blueprint import Blueprint, Layer
from penjing.engines.numpy import Learned, NumpyEngine, pair_features
from penjing.students import static
from penjing.students.static import Static, frequency_weights, principal, segments, token_states, token_vectors
from penjing.text.encoded import Encoded

BLUEPRINT = Blueprint(40, 12, 2, 16, 16, 8, (Layer(2, 32), Layer(2, 32)), "sequence", 2)
LINEAR = Static(epochs=0, hidden=0)


def fit(*given: Any, **options: Any) -> Learned:
    """The arrays alone; 2 and 3 are special."""
    return static.fit(*given, (2, 3), **options).learned


def texts(count: int = 300, seed: int = 0, pairs: bool = False) -> Encoded:
    """Random texts [CLS] … [SEP], or pairs, over 40 tokens."""
    rng = np.random.default_rng(seed)
    ids = [[2, *rng.integers(4, 40, n).tolist(), 3] for n in rng.integers(2, 9, count)]
    types = [[0] * len(row) for row in ids]
    if pairs:
        more = [[*rng.integers(4, 40, n).tolist(), 3] for n in rng.integers(1, 6, count)]
        ids, types = [a + b for a, b in zip(ids, more, strict=True)], [a + [1] * len(b) for a, b in zip(types, more, strict=True)]
    return Encoded.of(ids, types)


def vectors(width: int = 8) -> NDArray[Any]:
    return np.random.default_rng(3).standard_normal((40, width)).astype(np.float32)


def targets(encoded: Encoded, classes: int = 2) -> NDArray[Any]:
    """Probabilities that no linear function of the mean vector gives: the size of a mean counts."""
    means = np.stack([vectors()[encoded.row(i)[1:-1]].mean(0) for i in range(len(encoded))])
    return softmax(3 * np.abs(means[:, :classes]) - 3 * means[:, 3 : 3 + classes], axis=1)


def logits(learned: Learned, encoded: Encoded) -> NDArray[np.float32]:
    return np.stack(NumpyEngine(learned).logits(encoded))


def divergence(learned: Learned, encoded: Encoded) -> float:
    """KL(target ‖ answer), mean over the texts."""
    p = targets(encoded)
    return float((p * np.log(p / softmax(logits(learned, encoded), axis=1))).sum(1).mean())


# -- vectors -----------------------------------------------------------------------------------------------------


def test_states_are_those_of_each_token_alone() -> None:
    teacher = penjing_model(BLUEPRINT)
    states = token_states(teacher, ((2,), (3,)))
    for token in (0, 17, 39):
        with torch.no_grad():
            alone = teacher.encoder(torch.tensor([[2, token, 3]])).last_hidden_state
        np.testing.assert_allclose(states[token], alone[0].mean(0).numpy(), atol=1e-5)


def test_all_components_keep_every_distance() -> None:
    teacher = penjing_model(BLUEPRINT)
    states, found = token_states(teacher, ((2,), (3,))), token_vectors(teacher, ((2,), (3,)), width=99)
    assert found.shape == (40, 16)
    np.testing.assert_allclose(pdist(found), pdist(states), rtol=1e-4)


def test_fewer_components_keep_less_of_the_variance_and_the_first_the_most() -> None:
    x = penjing_model(BLUEPRINT).encoder.embeddings.word.weight.detach().numpy()
    total = [principal(x, width, 0).var(0).sum() for width in (2, 5, 16)]
    assert total[0] < total[1] < total[2] == pytest.approx(x.var(0).sum(), rel=1e-5)
    assert (np.diff(principal(x, 16, 0).var(0)) <= 1e-6).all()


def test_frequent_tokens_weigh_less() -> None:
    encoded = Encoded.of([[5, 5, 5, 6]], [[0] * 4])
    weights = frequency_weights(encoded, 8, 0.25)
    assert weights[[5, 6, 7]].tolist() == pytest.approx([0.25, 0.5, 1])


# -- answers -----------------------------------------------------------------------------------------------------


def test_a_linear_head_is_stored_as_logits_per_token_and_answers_the_same() -> None:
    encoded = texts()
    wide, narrow = (fit(encoded, targets(encoded), vectors(), settings=Static(epochs=0, hidden=h)) for h in (4, 0))
    assert wide.arrays["vectors"].shape == (40, 8) and narrow.arrays["vectors"].shape == (40, 2)
    np.testing.assert_allclose(logits(wide, encoded), logits(narrow, encoded), atol=0.02)
    assert divergence(wide, encoded) < 0.85 * divergence(fit(encoded, targets(encoded), 0 * vectors(), settings=LINEAR), encoded)


def test_an_answer_hangs_neither_on_the_order_nor_on_special_tokens() -> None:
    encoded = texts()
    learned = fit(encoded, targets(encoded), vectors(), settings=Static(epochs=1))
    (a, b, c) = logits(learned, Encoded.of([[2, 7, 8, 9, 3], [2, 9, 7, 8, 3], [3, 2, 7, 8, 9, 2, 3]], [[0] * 5, [0] * 5, [0] * 7]))
    np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(a, c, atol=1e-5)


def test_segments_are_the_texts_of_each_pair_without_special_tokens() -> None:
    encoded = Encoded.of([[2, 7, 8, 3, 9, 3], [2, 3, 5, 3]], [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1]])
    rows = segments(encoded, [2, 3], pairs=True)
    assert [rows.row(i).tolist() for i in range(4)] == [[7, 8], [9], [], [5]]
    assert [segments(encoded, [2, 3], pairs=False).row(i).tolist() for i in range(2)] == [[7, 8, 9], [5]]


def test_features_of_a_pair_turned_round_are_turned_and_the_same() -> None:
    u, v = vectors()[:5], vectors()[5:10]
    one, other = pair_features(u, v), pair_features(v, u)
    assert np.array_equal(one[:, :8], other[:, 8:16]) and np.array_equal(one[:, 16:], other[:, 16:])


def test_pairs_learn_whether_two_texts_are_alike() -> None:
    encoded = texts(600, pairs=True)
    rows = segments(encoded, [2, 3], pairs=True)
    means = np.stack([vectors()[rows.row(i)].mean(0) for i in range(len(rows))])
    close = np.linalg.norm(means[::2] - means[1::2], axis=1)
    labels = np.eye(2)[(close < np.median(close)).astype(int)]
    learned = fit(encoded, labels, vectors(), pairs=True, settings=Static(epochs=0, frequent=1e3))
    assert (logits(learned, encoded).argmax(1) == labels.argmax(1)).mean() > 0.9
    single = fit(encoded, labels, vectors(), settings=Static(epochs=0, frequent=1e3))
    assert (logits(single, encoded).argmax(1) == labels.argmax(1)).mean() < 0.8


# -- training ----------------------------------------------------------------------------------------------------


def test_training_helps_on_texts_that_were_not_seen() -> None:
    train, test = texts(1000), texts(200, seed=1)
    start, trained = (
        fit(train, targets(train), vectors(), settings=Static(epochs=epochs, learning_rate=1e-2, hidden=64)) for epochs in (0, 6)
    )
    assert divergence(trained, test) < 0.7 * divergence(start, test)


def test_hidden_units_are_there_where_they_help_and_the_vectors_are_narrow_then() -> None:
    train, test, few = texts(1500), texts(300, seed=1), texts(40)
    rate = Static(learning_rate=1e-2, width=6)
    learned, linear = (fit(train, targets(train), vectors(), settings=s) for s in (rate, replace(rate, hidden=0)))
    assert learned.arrays["hidden"].shape == (6, 64) and learned.arrays["vectors"].shape == (40, 6)
    assert divergence(learned, test) < 0.9 * divergence(linear, test)
    labels = np.eye(2)[(few.lengths > 6).astype(int)]  # nothing that the tokens say
    assert not fit(few, labels, vectors(), settings=rate).arrays["hidden"].shape[1]


def test_training_that_does_not_help_is_not_kept() -> None:
    train = texts(200)
    random = softmax(np.random.default_rng(0).standard_normal((200, 2)), axis=1)
    wild = Static(epochs=3, learning_rate=10.0, patience=3)
    kept = fit(train, random, vectors(), settings=wild)
    assert np.abs(logits(kept, train)).max() < 20
    assert not kept.arrays["out"].any()


def test_the_seed_decides_and_the_global_one_stays() -> None:
    train, short = texts(100), Static(epochs=2)

    def learned(seed: int) -> NDArray[Any]:
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        result = fit(train, targets(train), vectors(), settings=short)
        assert torch.equal(torch.get_rng_state(), state)
        return result.arrays["vectors"]

    assert np.array_equal(learned(0), learned(1))
    other = fit(train, targets(train), vectors(), settings=Static(epochs=2), seed=1).arrays["vectors"]
    assert not np.array_equal(learned(0), other)
