"""Module replacing: at its ends it is the predecessor and the successor exactly, it trains the successor alone, and a kill changes nothing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import logits, own_inputs, penjing_model
from hypothesis import given
from hypothesis import strategies as st
from lessons import VOCABULARY, texts
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.job.by_hand import Replacing
from penjing.model.building import blueprint_of
from penjing.model.checkpoint import read
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.model.writing import write
from penjing.selection import LayerSelection, Selection
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.replace import Hybrid, Replace, ReplaceSettings, modules_of
from penjing.tasks.sequence import Classification, Pair
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Task
from penjing.training import loop
from penjing.training.layer_map import MAPS, layer_map
from penjing.training.loop import Progress, Schedule, silent
from penjing.training.taught import Taught

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DEEP = Blueprint(VOCABULARY, 24, 2, 16, 16, 8, (Layer(2, 12),) * 4, "sequence", 2)
EVERY = (tuple(range(2)), tuple(range(12)))
TWO = Selection((LayerSelection(1, *EVERY), LayerSelection(3, *EVERY)))
UNEVEN = Selection((LayerSelection(0, (), tuple(range(5))), LayerSelection(1, (1,), ()), LayerSelection(3, (), ())))
"""A layer without attention, one with a head and without feed-forward, one without either."""
TASKS: list[Task] = [Classification(("no", "yes")), Pair(("no", "yes")), Tagging(("O", "B-x"))]


class Killed(Exception):
    pass


def predecessor(seed: int = 3) -> PenjingPreTrainedModel:
    return penjing_model(DEEP, seed, **STILL)


def replaced(
    folder: Path, task: Task = TASKS[0], selection: Selection = TWO, settings: ReplaceSettings | None = None, *,
    losses: Mapping[str, float] | None = None, teacher: PenjingPreTrainedModel | None = None, progress: Progress = silent,
) -> Taught:  # fmt: skip
    """The result of a training of a cut model."""
    teacher = teacher or penjing_model(replace(DEEP, head=task.head.name), 3, **STILL)
    schedule = Schedule(epochs=2, batch_size=8, learning_rate=1e-2, patience=100)
    how = DistillSettings(schedule, losses or {"hard": 1.0}, states_first=0.0)
    distill = Distill(task, Teachers(teacher), how, texts(task, 16, seed=1), Place(folder), selection, progress=progress)
    step = Replace(distill, settings or ReplaceSettings())
    student = cut(teacher, selection)
    return step.teach(student, step.observe(student, texts(task, 40)))


def state_of(model: PenjingPreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# -- the two ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", [TWO, UNEVEN])
@given(seed=st.integers(0, 999))
def test_at_rate_1_it_is_the_successor_and_at_rate_0_the_predecessor(selection: Selection, seed: int) -> None:
    whole, inputs = predecessor(seed), own_inputs(DEEP, seed)
    successor = cut(whole, selection)
    hybrid = Hybrid(successor, whole, layer_map("kept", len(selection.layers), 4, [kept.layer for kept in selection.layers]))
    for rate, same in ((1.0, successor), (0.0, whole)):
        hybrid.draw(rate, (seed, 0))
        assert torch.equal(logits(hybrid.model.train(), inputs), logits(same.eval(), inputs))
        assert torch.equal(logits(hybrid.model.eval(), inputs), logits(successor, inputs))  # it is judged alone


def test_a_layer_that_is_replaced_reads_what_the_predecessor_wrote_before_it() -> None:
    whole, inputs = predecessor(), own_inputs(DEEP)
    hybrid = Hybrid(cut(whole, TWO), whole, [(1, 2), (2, 4)])
    half = cut(whole, Selection(tuple(LayerSelection(i, *EVERY) for i in (0, 1, 3))))
    hybrid.draw(0.0, (0, 0))
    hybrid.slots[1][0].replaced = True  # the first module is the predecessor's layers 0 and 1, the second the successor's own
    assert torch.equal(logits(hybrid.model.train(), inputs), logits(half, inputs))


# -- modules -------------------------------------------------------------------------------------------------------


def ranges(modules: Any) -> list[tuple[list[int], list[int]]]:
    return [(list(own), list(theirs)) for own, theirs in modules]


def test_a_layer_stands_for_those_after_the_one_kept_before_it() -> None:
    kept = layer_map("kept", 3, 6, [0, 3, 4])
    assert ranges(modules_of(kept, 3, 6)) == [([0], [0]), ([1], [1, 2, 3]), ([2], [4, 5])]
    assert ranges(modules_of(layer_map("uniform", 3, 6), 3, 6)) == [([0], [0, 1]), ([1], [2, 3]), ([2], [4, 5])]
    assert ranges(modules_of(layer_map("1:2,3:6", 3, 6), 3, 6)) == [([0], [0, 1]), ([1, 2], [2, 3, 4, 5])]


@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from(MAPS))
def test_modules_hold_every_layer_once(successor: int, predecessor: int, name: str) -> None:
    if name in ("last", "first") and successor > predecessor:
        return
    modules = modules_of(layer_map(name, successor, predecessor), successor, predecessor)
    assert [i for own, _ in modules for i in own] == list(range(successor))
    assert [i for _, theirs in modules for i in theirs] == list(range(predecessor))


def test_modules_that_go_back_are_refused() -> None:
    with pytest.raises(InputError, match=r"layer_map: 1:4, 2:2, 3:6 does not ascend on both sides"):
        modules_of([(1, 4), (2, 2), (3, 6)], 3, 6)


def test_several_layers_of_the_successor_are_replaced_together() -> None:
    whole, inputs = predecessor(), own_inputs(DEEP)
    hybrid = Hybrid(whole, cut(whole, TWO), layer_map("uniform", 4, 2))  # a successor that is deeper
    assert [len(module) for module in hybrid.slots] == [2, 2]
    hybrid.draw(0.0, (0, 0))
    assert torch.equal(logits(hybrid.model.train(), inputs), logits(cut(whole, TWO), inputs))


# -- the rate ------------------------------------------------------------------------------------------------------


def test_the_rate_rises_from_its_base_to_1_or_stays_until_the_successor_is_alone() -> None:
    linear, constant = ReplaceSettings(until=0.5), ReplaceSettings("constant", until=0.5)
    assert [linear.rate_after(done) for done in (0, 0.25, 0.5, 1)] == pytest.approx([0.3, 0.65, 1, 1])
    assert [constant.rate_after(done) for done in (0, 0.25, 0.499, 0.5)] == pytest.approx([0.5, 0.5, 0.5, 1])
    assert ReplaceSettings("constant", 0.9, until=1.0).rate_after(0.99) == 0.9
    assert ReplaceSettings(until=0.0).rate_after(0.0) == 1


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.8])
def test_modules_are_replaced_at_the_rate_each_by_itself(rate: float) -> None:
    whole = predecessor()
    hybrid = Hybrid(whole, whole, layer_map("uniform", 4, 4))
    drawn = []
    for step in range(3000):
        hybrid.draw(rate, (0, step))
        drawn.append([module[0].replaced for module in hybrid.slots])
    assert np.mean(drawn, axis=0) == pytest.approx([rate] * 4, abs=0.04)
    assert np.abs(np.corrcoef(np.transpose(drawn)) - np.eye(4)).max() < 0.08


def test_what_is_drawn_depends_on_seed_and_step_alone() -> None:
    def drawn(seed: int) -> list[bool]:
        whole = predecessor()
        hybrid = Hybrid(whole, whole, layer_map("uniform", 4, 4))
        result = []
        for step in range(8):
            torch.manual_seed(step)
            hybrid.draw(0.5, (seed, step))
            result += [module[0].replaced for module in hybrid.slots]
        return result

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("wrong", [{"schedule": "cosine"}, {"rate": 1.1}, {"schedule": "constant", "rate": 0.0}, {"until": -0.1}])
def test_replace_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(reversed(wrong))):
        ReplaceSettings(**wrong)


# -- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("selection", [TWO, UNEVEN], ids=["two", "uneven"])
def test_the_successor_is_trained_and_the_predecessor_is_not(task: Task, selection: Selection, tmp_path: Path) -> None:
    teacher = penjing_model(replace(DEEP, head=task.head.name), 3, **STILL)
    before = state_of(teacher)
    taught = replaced(tmp_path, task, selection, teacher=teacher)
    start = cut(teacher, selection).state_dict()
    assert all(torch.equal(value, before[name]) and value.dtype == before[name].dtype for name, value in teacher.state_dict().items())
    assert all(weight.requires_grad for weight in (*teacher.parameters(), *taught.model.parameters()))
    assert blueprint_of(taught.model) == selection.plan(blueprint_of(teacher)) and taught.model.state_dict().keys() == start.keys()
    moved = {name for name, value in taught.model.state_dict().items() if not torch.equal(value, start[name])}
    assert {int(name.split(".")[2]) for name in moved if ".layers." in name} == set(range(len(selection.layers)))
    assert taught.history.best_step >= 0.6 * taught.history.steps
    write(taught.model, tmp_path / "model")
    inputs = own_inputs(blueprint_of(taught.model))
    assert torch.equal(logits(read(tmp_path / "model"), inputs), logits(taught.model, inputs))


def test_embeddings_and_head_are_held_while_modules_are_replaced(tmp_path: Path) -> None:
    taught = replaced(tmp_path, settings=ReplaceSettings("constant", until=1.0))
    start = cut(predecessor(), TWO).state_dict()
    moved = {name for name, value in taught.model.state_dict().items() if not torch.equal(value, start[name])}
    assert moved and all(".layers." in name for name in moved)


def test_at_rate_1_from_the_start_it_is_plain_training(tmp_path: Path) -> None:
    alone = replaced(tmp_path / "a", settings=ReplaceSettings(until=0.0)).model.state_dict()
    teacher = predecessor()
    how = DistillSettings(Schedule(epochs=2, batch_size=8, learning_rate=1e-2, patience=100), {"hard": 1.0})
    distill = Distill(TASKS[0], Teachers(teacher), how, texts(TASKS[0], 16, seed=1), Place(tmp_path / "b"), TWO)
    student = cut(teacher, TWO)
    plain = distill.teach(student, distill.observe(student, texts(TASKS[0], 40))).model.state_dict()
    assert all(torch.equal(value, alone[name]) for name, value in plain.items())


@pytest.mark.parametrize("losses", [{"hard": 1.0, "kl": 1.0}, {"states": 1.0, "hard": 1.0}, {"kl": 1.0, "hidden": 1.0, "first": 0.1}])
def test_losses_of_the_teacher_go_beside_it(losses: dict[str, float], tmp_path: Path) -> None:
    assert replaced(tmp_path / "a", losses=losses).history.steps == 10
    assert replaced(tmp_path / "b", TASKS[2], UNEVEN, losses=losses).history.steps == 10


@pytest.mark.parametrize("kill_at", [2, 6, 9])  # of 10 steps, the last 4 of which train the successor alone
def test_a_killed_replacing_ends_as_one_that_was_not(kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)

    def kill(done: int, total: int, **figures: float) -> None:
        if done == kill_at:
            raise Killed

    whole = replaced(tmp_path / "whole").model.state_dict()
    torch.manual_seed(kill_at)
    with pytest.raises(Killed):
        replaced(tmp_path / "killed", progress=kill)
    torch.manual_seed(kill_at + 1)
    resumed = replaced(tmp_path / "killed").model.state_dict()
    assert list(whole) == list(resumed) and all(torch.equal(value, resumed[name]) for name, value in whole.items())


# -- what does not go ----------------------------------------------------------------------------------------------


def test_a_loss_on_what_is_inside_a_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="losses: keys, queries of a layer are read, which is not run while it is not replaced"):
        replaced(tmp_path, losses={"hard": 1.0, "attention": 1.0})


def test_a_successor_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="replace: the successor has 12 hidden units and the predecessor 16"):
        replaced(tmp_path, selection=replace(TWO, hidden=tuple(range(12))))


def test_the_options_make_the_recipe() -> None:
    recipe = Replacing(3, "constant", 0.7, 0.5, "hard=1,states=0.5", epochs=2, learning_rate=3e-5).recipe()
    assert [step.name for step in recipe.steps] == ["prune", "distill", "replace"]
    assert recipe.get(ReplaceSettings) == ReplaceSettings("constant", 0.7, 0.5)
    how = recipe.distillation
    assert how and how.losses == {"hard": 1.0, "states": 0.5} and how.states_part == 0.0
    assert (how.schedule.epochs, how.schedule.learning_rate) == (2, 3e-5)
