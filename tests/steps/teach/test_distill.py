"""Distillation as a step: killed at any point it ends with the same weights, and each text counts for what is known of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import penjing_model

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.job.by_hand import Distilling
from penjing.job.reading import read_recipe
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.multitask import Companion, Multitask
from penjing.students import bilstm
from penjing.tasks.sequence import Classification
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training import lesson, loop
from penjing.training import teacher as cache
from penjing.training.lesson import TeachingEvidence
from penjing.training.loop import Batch, Schedule, silent

DEEP = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),) * 4, "sequence", 2)
SHALLOW, NARROW = replace(DEEP, layers=DEEP.layers[:2]), Blueprint(60, 24, 2, 12, 12, 4, (Layer(3, 20),) * 2, "sequence", 2)
TASK = Classification(("no", "yes"))
SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=1e-3, patience=100)


class Killed(Exception):
    pass


def broken(*what: Any, **options: Any) -> Any:
    raise Killed


def texts(count: int = 40, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    rows = [random.integers(1, 60, random.integers(3, 12)).tolist() for _ in range(count)]
    gold = ["yes" if row[0] > 30 else "no" for row in rows]
    return Examples(Encoded.of(rows, [[0] * len(row) for row in rows]), [""] * count, gold, [[]] * count, 0)


def step(
    folder: Path, progress: Any = silent, *, others: Sequence[PenjingPreTrainedModel] = (), general: Encoded | None = None, **what: Any
) -> Distill:
    settings = DistillSettings(SCHEDULE, **what)
    teachers = Teachers(penjing_model(DEEP, 0), others)
    return Distill(TASK, teachers, settings, texts(16, 3), Place(folder), general=general, progress=progress)


def taught(given: Distill | Multitask, blueprint: Blueprint = SHALLOW) -> dict[str, torch.Tensor]:
    student = penjing_model(blueprint, 5)
    return given.apply(student, blueprint, given.observe(student, texts())).state_dict()


def two_stages(folder: Path, progress: Any) -> Any:
    return taught(step(folder, progress, losses={"kl": 1, "hidden": 1, "attention": 1}, states_first=0.5, layer_map="uniform"))


def plain_text_first(folder: Path, progress: Any) -> Any:
    general = texts(100, 9).encoded
    return taught(step(folder, progress, general=general, losses={"kl": 1, "hidden": 1, "levels": 1}), NARROW)


def annealed_with_noise(folder: Path, progress: Any) -> Any:
    other = penjing_model(DEEP, 8)
    return taught(step(folder, progress, others=[other], losses={"kl": 1, "hard": 1, "states": 1}, anneal=True, noise=0.2, dropout=0.1))


def two_tasks(folder: Path, progress: Any) -> Any:
    first, second = (step(folder, progress, losses={"kl": 1, "hidden": 1}) for _ in range(2))
    return taught(Multitask(first, [Companion(second, texts(24, 4), penjing_model(SHALLOW, 6))]))


def a_bilstm(folder: Path, progress: Any) -> Any:
    given = step(folder, progress, losses={"mse": 1}, dropout=0.1)
    student = bilstm.build(given.teachers.teacher, settings=bilstm.Bilstm(8, 4, 4))
    given.lesson(given.observe(given.teachers.teacher, texts())).teach(student)
    return student.state_dict()


@pytest.mark.parametrize("teach", [two_stages, plain_text_first, annealed_with_noise, two_tasks, a_bilstm])
def test_killed_again_and_again_it_ends_with_the_same_weights(
    teach: Callable[[Path, Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    torch.manual_seed(1)
    whole = teach(tmp_path / "whole", silent)
    for steps in (1, 4, 4, 9):
        torch.manual_seed(1 + steps)  # another process has another random state
        left = steps

        def kill(done: int, total: int, **figures: float) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        with pytest.raises(Killed):
            teach(tmp_path / "killed", kill)
    torch.manual_seed(3)
    resumed = teach(tmp_path / "killed", silent)
    assert list(whole) == list(resumed)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def loss_of(rows: list[int], data: Examples, folder: Path, **losses: float) -> float:
    """Of these texts in one batch, for a student that is drawn at random."""
    given = step(folder, losses=losses)
    evidence = given.observe(given.teachers.teacher, data)
    feeds = {name: torch.from_numpy(value) for name, value in data.encoded.padded(np.array(rows), 0).items()}
    with torch.no_grad():
        return given.lesson(evidence).loss(penjing_model(SHALLOW, 5), Batch(feeds, np.array(rows))).item()


def test_a_text_without_a_label_weighs_nothing_among_labels(tmp_path: Path) -> None:
    data = texts(8).with_texts(texts(8, 4).encoded)
    labelled, both = loss_of([0, 1, 2], data, tmp_path, hard=1), loss_of([0, 1, 2, 8, 9, 10], data, tmp_path, hard=1)
    assert both == pytest.approx(labelled / 2, rel=1e-5)
    assert loss_of([8, 9], data, tmp_path, hard=1) == 0 < loss_of([8, 9], data, tmp_path, kl=1)


def test_labels_alone_ask_no_teacher(tmp_path: Path) -> None:
    given = step(tmp_path, losses={"hard": 1})
    evidence = given.observe(given.teachers.teacher, texts())
    assert not len(evidence.outputs.logits) and not tmp_path.joinpath("teacher").exists()


def test_annealing_begins_where_answers_do() -> None:
    settings = DistillSettings(losses={"kl": 1, "hard": 1, "states": 1}, anneal=True, states_first=0.5).curriculum
    assert settings.answer_weights(0.4) == {}
    assert settings.answer_weights(0.5) == {"kl": 1, "hard": 0} and settings.answer_weights(1.0) == {"kl": 0, "hard": 1}


@pytest.mark.parametrize("losses", [{"kl": 1.0}, {"cross-entropy": 1.0}, {"mse": 1.0}, {"kl-entropy": 1.0}, {"kl": 1.0, "hard": 1.0}])
def test_logits_of_tokens_that_nothing_is_answered_from_change_no_loss_and_no_gradient(losses: dict[str, float], tmp_path: Path) -> None:
    random, task = np.random.default_rng(0), Tagging(["O", "X"])
    rows = [random.integers(1, 60, 3 + i).tolist() for i in range(6)]
    first = [[1, 3 if len(row) > 3 else -1] for row in rows[:-1]]
    encoded = Encoded.of(rows, [[0] * len(row) for row in rows])
    data = Examples(encoded, [["a", "b"]] * 5 + [None], [["O", "X"]] * 5 + [None], [*first, []], 0)  # the last text's words are not known
    blueprint = replace(SHALLOW, head="token")
    settings = DistillSettings(SCHEDULE, losses, states_first=0.0)
    given = Distill(task, Teachers(penjing_model(blueprint, 0)), settings, data, Place(tmp_path))
    outputs = given.observe(given.teachers.teacher, data).outputs
    read = np.zeros(int(encoded.offsets[-1]), bool)
    for start, words in zip(encoded.offsets, first, strict=False):
        read[[start + word for word in words if word >= 0]] = True
    read[encoded.offsets[5] :] = True
    batch = np.array([5, 1, 0, 4])
    feeds = {name: torch.from_numpy(value) for name, value in encoded.padded(batch, 0).items()}
    inside = feeds["attention_mask"].bool()
    counts = torch.from_numpy(read[outputs.tokens(batch)])

    def taught(by: float, where: np.ndarray[Any, Any]) -> tuple[float, torch.Tensor]:
        changed = outputs.logits.copy()
        changed[where] += by * np.array([1, -1], np.float32)
        student, seen = penjing_model(blueprint, 5), []

        def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            seen.append((output + 0.0).requires_grad_())
            seen[0].retain_grad()
            return seen[0]

        student.get_submodule("head.out").register_forward_hook(keep)
        loss = given.lesson(TeachingEvidence(data, replace(outputs, logits=changed))).loss(student, Batch(feeds, batch))
        loss.backward()
        gradient = seen[0].grad
        assert gradient is not None
        return loss.item(), gradient[inside]

    loss, gradient = taught(0.0, read)
    other, same = taught(7.0, ~read)
    assert other == loss and torch.equal(gradient, same)
    assert not gradient[~counts].any() and gradient[counts].abs().sum(-1).min() > 0
    assert taught(7.0, read)[0] != loss


def chosen(preset: str, **options: Any) -> DistillSettings:
    """What `penjing distill` teaches by."""
    settings = Distilling(preset, **options).recipe().distillation
    assert settings
    return settings


def test_the_default_is_the_preset_that_won() -> None:
    settings = chosen("states", layers=2)
    assert settings == replace(DistillSettings(), schedule=settings.schedule)
    assert (DistillSettings().temperature, DistillSettings().states_part) == (1.0, 0.6)
    assert DistillSettings(losses={"kl": 1}).states_part == DistillSettings(losses={"hidden": 1}).states_part == 0


@pytest.mark.parametrize("preset", ["states", "tinybert", "minilm", "distilbert"])
@pytest.mark.parametrize("losses", ["hidden=1", "kl=1", "hard=1", "kl=1,states=2"])
def test_other_losses_than_the_presets_fail_by_no_setting_that_nobody_gave(preset: str, losses: str) -> None:
    assert bool(chosen(preset, layers=2, losses=losses).states_part) == (losses == "kl=1,states=2" and preset != "distilbert")


def test_a_learning_rate_that_is_given_is_taken() -> None:
    assert chosen("states", layers=2, learning_rate=2e-5).schedule.learning_rate == 2e-5
    with pytest.raises(InputError, match="learning_rate: 0 is out of range"):
        chosen("states", layers=2, learning_rate=0.0)
    with pytest.raises(InputError, match="fitted, not trained"):
        chosen("logistic", learning_rate=0.0)


def test_a_recipe_says_the_default_of_before(tmp_path: Path) -> None:
    file = tmp_path / "before.yaml"
    file.write_text("distill: {temperature: 2, layer_map: descent, states_first: 0}")
    found = read_recipe(file).distillation
    assert found and (found.temperature, found.layer_map, found.states_part) == (2, "descent", 0)


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_teacher_that_runs_beside_its_student_is_moved_back(tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CACHE_LIMIT", 0)
    given = step(tmp_path / "0", losses={"states": 1.0})
    other = step(tmp_path / "1", losses={"states": 1.0})
    teachers = [given.teachers.teacher, other.teachers.teacher][:tasks]
    moved: list[list[str]] = []
    for teacher in teachers:
        moved.append([])
        teacher.register_forward_hook(lambda *_, own=moved[-1]: own.append("asked"))
        monkeypatch.setattr(teacher, "to", lambda device, own=moved[-1], teacher=teacher: (own.append(str(device)), teacher)[1])
    if tasks == 2:
        taught(Multitask(given, [Companion(other, texts(24, 4), penjing_model(SHALLOW, 6))]))
    else:
        taught(given)
    assert all(each[-3:] == ["cpu", "asked", "cpu"] for each in moved)  # to the student's device, and once more at the end
    for each in moved:
        each.clear()
    monkeypatch.setattr(lesson, "fit", broken)
    with pytest.raises(Killed):  # moved back also where the training breaks off
        taught(given)
    assert moved[0] == ["cpu"]
