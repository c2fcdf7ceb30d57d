"""Exits learn during distillation: what they are taught, with which weights, and killed at any point with the same end."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import penjing_model
from lessons import texts

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.building import blueprint_of, with_exits
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.exits import Exiting, ExitsSettings, TeachExits
from penjing.tasks.judging import quality_of
from penjing.tasks.sequence import Classification
from penjing.training import loop
from penjing.training.loop import Batch, Schedule, silent
from penjing.training.predict import exit_logits_of, logits_of
from penjing.training.taught import Taught

TASK = Classification(("no", "yes"))
DEEP = Blueprint(56, 24, 2, 16, 16, 8, (Layer(2, 32),) * 4, "sequence", 2)


def step(folder: Path, progress: Any = silent, rate: float = 3e-3, epochs: int = 4, losses: Any = None, **exits: Any) -> TeachExits:
    schedule = Schedule(epochs=epochs, batch_size=16, learning_rate=rate, patience=100)
    distill = Distill(
        TASK, Teachers(penjing_model(DEEP)), DistillSettings(schedule, losses=losses or {"hard": 1.0}), texts(TASK, 60, 1), Place(folder),
        progress=progress,
    )  # fmt: skip
    return TeachExits(distill, ExitsSettings(**exits))


def taught(given: TeachExits, model: PenjingPreTrainedModel | None = None, count: int = 60) -> Taught:
    student = model or penjing_model(DEEP, 5)
    return given.teach(student, given.observe(student, texts(TASK, count)))


def qualities(model: PenjingPreTrainedModel) -> list[float]:
    """Of every exit and the last head, on new texts."""
    new = texts(TASK, 200, 7)
    return [quality_of(TASK, new, logits) for logits in exit_logits_of(Exiting(model), new.encoded)]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> PenjingPreTrainedModel:
    """A model with exits that learned the labels."""
    model = penjing_model(DEEP, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = taught(step(tmp_path_factory.mktemp("learned"), epochs=8, layers="1,3"), model, 400).model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return result


def test_every_exit_learns(learned: PenjingPreTrainedModel) -> None:
    assert blueprint_of(learned).exits == (1, 3) and all(weight.requires_grad for weight in learned.parameters())
    assert min(qualities(learned)) > 85


def test_with_a_frozen_encoder_the_last_answers_stay_and_the_exits_learn(learned: PenjingPreTrainedModel, tmp_path: Path) -> None:
    model = with_exits(learned, ())
    new = texts(TASK, 200, 7).encoded
    frozen = taught(step(tmp_path, epochs=4, layers="2", frozen=True), model, 400).model
    assert all(np.array_equal(a, b) for a, b in zip(logits_of(frozen, new), logits_of(model, new), strict=True))
    assert qualities(frozen)[0] > max(70, qualities(with_exits(model, (2,)))[0])


@pytest.mark.parametrize("consistency", [0.0, 2.0])
def test_the_loss_is_the_mean_of_the_heads_weighted_by_their_depth_and_their_distance_from_the_last(
    consistency: float, tmp_path: Path
) -> None:
    given = step(tmp_path, layers="1,3", consistency=consistency, losses={"kl": 1.0})
    data = texts(TASK, 20)
    model = penjing_model(replace(DEEP, exits=(1, 3)), 2)
    lesson = given.distill.lesson(given.observe(model, data))
    rows = np.arange(20)
    batch = Batch({name: torch.from_numpy(value) for name, value in data.encoded.padded(rows, 0).items()}, rows)
    output = Exiting(model)(**batch.feeds)
    found = given._loss(lesson, [0.25, 0.75])(output, batch)

    def divergence(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (t.softmax(-1) * (t.log_softmax(-1) - z.log_softmax(-1))).sum(-1).mean()

    teacher = torch.from_numpy(np.stack(logits_of(given.distill.teachers.teacher, data.encoded)))
    expected = sum(
        weight * (divergence(z, teacher) + consistency * divergence(z, output.logits))
        for weight, z in zip((0.25, 0.75), output.exit_logits, strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    model.zero_grad()
    found.backward()
    assert model.head.out.weight.grad is None, "the last head is not pulled towards the exits"


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [1, 6])
def test_killed_at_any_point_it_ends_with_the_same_exits(kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    seen = 0

    def kill(done: int, total: int, **figures: float) -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            raise Killed

    whole = taught(step(tmp_path / "whole", epochs=2, losses={"kl": 1, "states": 1})).model
    with pytest.raises(Killed):
        taught(step(tmp_path / "killed", kill, epochs=2, losses={"kl": 1, "states": 1}))
    resumed = taught(step(tmp_path / "killed", epochs=2, losses={"kl": 1, "states": 1})).model
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_where_exits_stand() -> None:
    assert [ExitsSettings().places(depth) for depth in (2, 3, 6, 12)] == [(1,), (1, 2), (2, 4), (4, 8)]
    assert ExitsSettings("1, 5").places(6) == (1, 5)
    for layers, depth in (("", 1), ("2", 2), ("1,6", 6)):
        with pytest.raises(InputError, match="layers"):
            ExitsSettings(layers).places(depth)


@pytest.mark.parametrize(
    "fields", [{"layers": "0"}, {"layers": "2,1"}, {"layers": "a"}, {"rule": "luck"}, {"drop": -1}, {"consistency": -1}]
)
def test_settings_that_cannot_be_are_refused(fields: Any) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        ExitsSettings(**fields)
