"""Lessons: which losses are taught when, what a batch costs, and losses of one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import penjing_model
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.tasks.sequence import Classification
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training.lesson import Curriculum
from penjing.training.loop import Batch
from penjing.training.objective import HARD, Weights

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),) * 2, "sequence", 2)


def examples(count: int = 8) -> Examples:
    random = np.random.default_rng(0)
    rows = [random.integers(1, 60, random.integers(3, 12)).tolist() for _ in range(count)]
    gold = ["yes" if row[0] > 30 else "no" for row in rows]
    return Examples(Encoded.of(rows, [[0] * len(row) for row in rows]), [""] * count, gold, [[]] * count, 0)


def test_weights_over_the_steps() -> None:
    annealed = DistillSettings(losses={"kl": 2.0, "hard": 1.0}, anneal=True).curriculum
    assert annealed.answer_weights(0.0) == {"kl": 2.0, "hard": 0.0} and annealed.answer_weights(1.0) == {"kl": 0.0, "hard": 1.0}
    staged = DistillSettings(losses={"kl": 2.0, "states": 1.0}, states_first=0.5).curriculum
    assert staged.answer_weights(0.49) == {} and staged.answer_weights(0.5) == {"kl": 2.0}


def test_states_are_taught_until_answers_are() -> None:
    staged = Curriculum({"kl": 1.0, "states": 1.0}, states_part=0.5)
    assert [staged.states_taught(done) for done in (0.0, 0.49, 0.5, 1.0)] == [True, True, False, False]
    assert Curriculum({"kl": 1.0, "states": 1.0}).states_taught(1.0)


@pytest.mark.parametrize(("losses", "asks"), [({HARD: 1.0}, False), ({HARD: 1.0, "kl": 1.0}, True), ({HARD: 1.0, "states": 1.0}, True)])
def test_the_teacher_is_asked_where_a_loss_reads_it(losses: dict[str, float], asks: bool) -> None:
    assert Curriculum(losses).asks_teacher == asks


def test_a_loss_on_answers_of_ones_own_is_a_function_of_logits(tmp_path: Path) -> None:
    data, student = examples(), penjing_model(SMALL, 5)
    batch = Batch({name: torch.from_numpy(value) for name, value in data.encoded.padded(np.arange(8), 0).items()}, np.arange(8))
    seen: list[Tensor] = []

    def own(z: Tensor, t: Tensor) -> Tensor:
        seen.extend([z, t])
        return (z - t).square().sum(-1).mean()

    def loss(losses: Weights) -> float:
        settings = DistillSettings(losses=losses)
        step = Distill(Classification(("no", "yes")), Teachers(penjing_model(SMALL, 0)), settings, data, Place(tmp_path))
        with torch.no_grad():
            return step.lesson(step.observe(student, data)).loss(student, batch).item()

    assert loss({own: 2.0}) == pytest.approx(2 * loss({"mse": 1.0}))
    assert [tuple(each.shape) for each in seen] == [(8, 2), (8, 2)]
