"""What students are fitted to: probabilities of the teacher and of the labels, and a network that is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lessons import fitting_of, teacher_of, texts
from scipy.special import softmax

from penjing.students.bilstm import Bilstm, build
from penjing.students.fitting import probabilities
from penjing.tasks.sequence import Classification, Pair
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Progress
from penjing.training.predict import logits_of

TASK = Classification(("no", "so so", "yes"))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_probabilities_are_the_teachers_at_the_temperature_and_the_labels_by_their_weights(temperature: float, tmp_path: Path) -> None:
    fitting = fitting_of(TASK, tmp_path, {"kl": 3.0, "hard": 1.0})
    fitting = replace(fitting, settings=replace(fitting.settings, temperature=temperature))
    z = np.stack(logits_of(fitting.teacher, fitting.train.encoded))
    gold = np.eye(3)[[TASK.labels.index(label) for label in fitting.train.gold]]
    train, dev = fitting.targets()
    np.testing.assert_allclose(train, (3 * softmax(z / temperature, axis=1) + gold) / 4, atol=1e-5)
    assert dev.shape == (len(fitting.dev), 3) and train.dtype == dev.dtype == np.float32


def test_labels_alone_ask_no_teacher_and_a_text_without_one_has_the_teachers_alone(tmp_path: Path) -> None:
    hard = fitting_of(TASK, tmp_path / "hard", {"hard": 1.0})
    train, _ = hard.targets()
    assert np.array_equal(train, np.eye(3)[[TASK.labels.index(label) for label in hard.train.gold]]) and not (tmp_path / "hard").exists()
    both = fitting_of(TASK, tmp_path / "both", {"kl": 1.0, "hard": 1.0})
    unlabelled = texts(TASK, 12, labelled=False)
    evidence = both.distill(lambda done, total, **figures: None).observe(both.teacher, unlabelled)
    z = np.stack(logits_of(both.teacher, unlabelled.encoded))
    np.testing.assert_allclose(probabilities(TASK, evidence, both.settings), softmax(z, axis=1), atol=1e-5)
    labelled = TeachingEvidence(texts(TASK, 12), evidence.outputs)
    assert np.abs(probabilities(TASK, labelled, both.settings) - softmax(z, axis=1)).max() > 0.1


def test_a_network_is_trained_in_place_with_its_dropout_under_a_bar(tmp_path: Path) -> None:
    titles, told = list[str](), list[int]()

    @contextmanager
    def bar(title: str) -> Iterator[Progress]:
        titles.append(title)

        def progress(done: int, total: int, **figures: float) -> None:
            told.append(done)

        yield progress

    fitting = fitting_of(TASK, tmp_path, {"mse": 1.0}, bar=bar)
    network: Any = build(teacher_of(TASK), settings=Bilstm(8, 6, 7))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    history = fitting.teach(network, dropout=0.25)
    assert history.steps == 7 == max(told) and titles == ["distill"]  # of 100 texts, 16 at once
    assert not torch.equal(before["out.weight"], network.state_dict()["out.weight"]) and network.dropout.p == 0.25


def test_a_fitting_knows_its_seed_and_whether_texts_come_in_two(tmp_path: Path) -> None:
    fitting = fitting_of(TASK, tmp_path, {"kl": 1.0}, seed=7)
    assert fitting.seed == 7 and not fitting.pairs
    assert replace(fitting, task=Pair(("no", "yes"))).pairs
