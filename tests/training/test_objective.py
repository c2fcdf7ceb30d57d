"""Laws of the losses on states, of layer maps, and of what is learned to compare widths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import penjing_model
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.surgery import copy_of, cut
from penjing.model.watch import STATES, Part, encoder_of, tapped
from penjing.selection import LayerSelection, Selection
from penjing.steps.teach.distill import DistillSettings
from penjing.text.encoded import Encoded
from penjing.training.layer_map import last_pair, layer_map
from penjing.training.objective import Objective
from penjing.training.state_losses import STATE_LOSSES, Adapter, Compared, Matching, PerPair, Relations, StateLoss
from penjing.training.teacher import teacher_outputs

DEEP = Blueprint(60, 24, 2, 16, 16, 8, (Layer(2, 32),) * 4, "sequence", 2)
NARROWER = Blueprint(60, 24, 2, 12, 12, 4, (Layer(3, 20),) * 2, "sequence", 2)


@pytest.fixture
def encoded() -> Encoded:
    random = np.random.default_rng(0)
    rows = [random.integers(5, 40, random.integers(3, 12)).tolist() for _ in range(8)]
    return Encoded.of(rows, [[0] * len(row) for row in rows])


def objective(name: str, student: Any, teacher: Any, pairs: list[tuple[int, int]], **options: Any) -> Objective:
    return Objective({name: 1.0}, pairs, encoder_of(student), encoder_of(teacher), **options)


def relation_heads(loss: Objective) -> int:
    relations = loss.losses["relations"]
    assert isinstance(relations, Relations)
    return relations.heads(loss.taken["relations"], loss.matching)


def levels_of(loss: Objective) -> list[Adapter]:
    levels = loss.learned_for("levels")
    assert isinstance(levels, torch.nn.ModuleList)
    return [adapter for adapter in levels if isinstance(adapter, Adapter)]


def value(loss: Objective, student: Any, teacher: Any, encoded: Encoded, tmp_path: Path) -> Tensor:
    rows = np.arange(len(encoded))
    feeds = {name: torch.from_numpy(array) for name, array in encoded.padded(rows, 0).items()}
    outputs = teacher_outputs(teacher, encoded, loss.teacher_parts, tmp_path)
    with tapped(student, loss.student_parts) as caught:
        student(**feeds)
    return loss(caught, outputs.batch_parts(rows, feeds), feeds["attention_mask"].bool())


@pytest.mark.parametrize("name", STATE_LOSSES)
def test_an_equal_student_has_nothing_to_learn(name: str, encoded: Encoded, tmp_path: Path) -> None:
    teacher = penjing_model(DEEP)
    loss = objective(name, teacher, teacher, layer_map("uniform", 4, 4))
    assert value(loss, teacher, teacher, encoded, tmp_path).item() < 2e-3  # the cache is in half precision, or computed in bfloat16
    other = penjing_model(DEEP, seed=5)
    assert value(loss, other, teacher, encoded, tmp_path).item() > 10 * value(loss, teacher, teacher, encoded, tmp_path).item() + 1e-4


@pytest.mark.parametrize("name", STATE_LOSSES)
def test_every_loss_falls_on_a_fixed_batch(name: str, encoded: Encoded, tmp_path: Path) -> None:
    teacher = penjing_model(DEEP)
    student = penjing_model(DEEP, seed=5)
    student = cut(student, Selection(tuple(Selection.all(DEEP).layers[i] for i in (1, 3))))
    loss = objective(name, student, teacher, layer_map("uniform", 2, 4))
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=3e-3)
    values = []
    for _ in range(30):
        total = value(loss, student, teacher, encoded, tmp_path)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("name", [name for name in STATE_LOSSES if name not in ("attention",)])
def test_a_narrower_student_learns_or_is_refused_in_one_line(name: str, encoded: Encoded, tmp_path: Path) -> None:
    teacher, student = penjing_model(DEEP), penjing_model(NARROWER)
    pairs = layer_map("last", 2, 4)
    if STATE_LOSSES[name].unit_by_unit:
        with pytest.raises(InputError, match="states of one width"):
            objective(name, student, teacher, pairs)
        return
    loss = objective(name, student, teacher, pairs, heads=4)
    total = value(loss, student, teacher, encoded, tmp_path)
    total.backward()
    assert torch.isfinite(total) and encoder_of(student).layers[-1].attention.query.weight.grad is not None


def test_attention_compares_head_with_head(encoded: Encoded) -> None:
    with pytest.raises(InputError, match="layer 1 of the student has 3 heads"):
        objective("attention", penjing_model(NARROWER), penjing_model(DEEP), layer_map("uniform", 2, 4))


def test_padding_counts_for_nothing(encoded: Encoded, tmp_path: Path) -> None:
    teacher, student = penjing_model(DEEP), penjing_model(DEEP, seed=5)
    for name in STATE_LOSSES:
        if name in ("rkd-distance", "rkd-angle", "similarity", "pkt"):
            continue  # of all texts together
        loss = objective(name, student, teacher, layer_map("uniform", 4, 4))
        long, short = encoded.take(np.array([int(encoded.lengths.argmax())])), encoded.take(np.array([int(encoded.lengths.argmin())]))
        apart = [value(loss, student, teacher, each, tmp_path).item() for each in (long, short)]
        both = value(loss, student, teacher, Encoded.joined([long, short]), tmp_path).item()
        assert min(apart) - 1e-3 <= both <= max(apart) + 1e-3, name


def test_each_level_takes_what_the_one_before_gave(encoded: Encoded, tmp_path: Path) -> None:
    teacher, student = penjing_model(DEEP), penjing_model(DEEP, seed=5)
    loss = objective("levels", student, teacher, layer_map("uniform", 4, 4), levels=3)
    adapters = levels_of(loss)
    assert len(adapters) == 3
    before = value(loss, student, teacher, encoded, tmp_path)
    with torch.no_grad():
        adapters[1].feed.weight += 1.0  # reads the first level's result, and so do the levels after it
    assert not torch.isclose(before, value(loss, student, teacher, encoded, tmp_path))
    with torch.no_grad():
        adapters[1].feed.weight -= 1.0
        adapters[0].feed.weight += 1.0  # the first level has none before it
    torch.testing.assert_close(before, value(loss, student, teacher, encoded, tmp_path))


def test_a_learned_layer_map_takes_the_nearest_layer(encoded: Encoded, tmp_path: Path) -> None:
    teacher = penjing_model(DEEP)
    student = copy_of(teacher)
    crossed = objective("hidden", student, teacher, [(1, 4), (2, 3), (3, 2), (4, 1)])
    found = objective("hidden", student, teacher, [(1, 4), (2, 3), (3, 2), (4, 1)], learned=True)
    assert value(found, student, teacher, encoded, tmp_path).item() < 2e-3 < value(crossed, student, teacher, encoded, tmp_path).item()


def test_a_learned_layer_map_takes_no_embeddings_and_no_layer_that_is_gone(encoded: Encoded, tmp_path: Path) -> None:
    """A student whose embeddings are the nearest is taught in its layers all the same, and an empty layer is no candidate."""
    teacher = penjing_model(DEEP)
    student = copy_of(teacher)
    with torch.no_grad():
        for layer in student.base_model.layers:
            for part in (layer.attention.output, layer.feed_forward.down):
                part.weight.mul_(3), part.bias.add_(1)
    loss = objective("hidden", student, teacher, layer_map("learned", 4, 4), learned=True)
    assert not {Part(STATES, 0)} & {*loss.student_parts, *loss.teacher_parts}
    value(loss, student, teacher, encoded, tmp_path).backward()
    assert student.base_model.layers[0].feed_forward.down.weight.grad.abs().max() > 0
    layers = list(Selection.all(DEEP).layers)
    layers[1] = LayerSelection(1, (), ())
    gone = objective("hidden", cut(teacher, Selection(tuple(layers))), teacher, layer_map("learned", 4, 4), learned=True)
    assert gone.matching.student.existing == {1, 3, 4} and Part(STATES, 2) in gone.teacher_parts


@pytest.mark.parametrize(("width", "heads"), [(8, 8), (6, 2)])
def test_relation_heads_are_finer_than_attention_heads_where_widths_allow(width: int, heads: int) -> None:
    student = penjing_model(Blueprint(60, 24, 2, 12, 12, width, (Layer(3, 20),), "sequence", 2))
    assert relation_heads(objective("relations", student, penjing_model(DEEP), layer_map("last", 1, 4))) == heads
    assert relation_heads(objective("relations", student, penjing_model(DEEP), layer_map("last", 1, 4), heads=1)) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"losses": {"kd": 1.0}}, "'kd' is none; allowed are kl"),
        ({"losses": {"kl": -1.0}}, "at least 0"),
        ({"losses": {"kl": 0.0}}, "nothing is taught"),
        ({"temperature": 0.0}, "temperature: "),
        ({"layer_map": "middle"}, "layer_map: "),
        ({"layer_map": "learned"}, "learned goes with the loss hidden"),
        ({"states_first": 1.0}, "states_first: "),
        ({"losses": {"kl": 1.0}, "states_first": 0.5}, "losses of both"),
        ({"anneal": True}, "anneal: "),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        DistillSettings(**settings)


def test_a_loss_of_ones_own_stands_beside_those_by_name(encoded: Encoded, tmp_path: Path) -> None:
    own = PerPair(lambda h, g: (h - g).abs().mean(), last_pair)
    teacher, student = penjing_model(DEEP), penjing_model(DEEP, seed=5)
    pairs = layer_map("uniform", 4, 4)
    both = Objective({own: 2.0, "tokens": 1.0}, pairs, encoder_of(student), encoder_of(teacher))
    alone = Objective({own: 1.0}, pairs, encoder_of(student), encoder_of(teacher))
    assert alone.student_parts == [Part(STATES, 4)]
    named = value(objective("tokens", student, teacher, pairs), student, teacher, encoded, tmp_path)
    total = 2 * value(alone, student, teacher, encoded, tmp_path) + named
    torch.testing.assert_close(value(both, student, teacher, encoded, tmp_path), total)


class Projected(StateLoss):
    """A loss that learns what it compares by."""

    def learned(self, pairs: list[tuple[int, int]], matching: Matching) -> torch.nn.Module:
        return torch.nn.Linear(matching.student.hidden, matching.teacher.hidden)

    def value(self, batch: Compared, pairs: list[tuple[int, int]], learned: torch.nn.Module | None) -> Tensor:
        h, g = batch.parts(STATES, pairs[-1])
        assert learned is not None
        return (learned(h.float()) - g)[batch.mask].square().mean()


def test_a_loss_of_ones_own_may_learn_a_module_and_is_drawn_after_those_of_the_table(encoded: Encoded, tmp_path: Path) -> None:
    teacher, student = penjing_model(DEEP), penjing_model(NARROWER)
    pairs = layer_map("last", 2, 4)
    torch.manual_seed(0)
    alone = objective("hidden", student, teacher, pairs)
    torch.manual_seed(0)
    loss = Objective({Projected(): 1.0, "hidden": 1.0}, pairs, encoder_of(student), encoder_of(teacher))
    assert len(loss.learned) == 2
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), loss.parameters(), strict=False))
    value(loss, student, teacher, encoded, tmp_path).backward()
    assert all(p.grad is not None for p in loss.parameters())


class Margin:
    """A loss on answers of one's own: how far the differences go beyond a margin."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        return ((z - t).abs() - self.margin).clamp_min(0).mean()


def test_losses_of_ones_own_are_noted_with_what_they_hold() -> None:
    one, other = (DistillSettings(losses={Margin(margin): 1.0}).to_json()["losses"] for margin in (1.0, 2.0))
    assert one != other and "'margin': 1.0" in next(iter(one))
    assert list(DistillSettings(losses={Margin(1.0): 1.0, Margin(2.0): 0.5}).to_json()["losses"].values()) == [1.0, 0.5]


def test_settings_take_losses_of_ones_own() -> None:
    def distance(z: Tensor, t: Tensor) -> Tensor:
        return (z - t).abs().mean()

    own = PerPair(lambda h, g: (h - g).abs().mean())
    settings = DistillSettings(losses={own: 2.0, distance: 1.0, "hard": 0.5})
    assert settings.states == {own: 2.0} and settings.answers == {distance: 1.0, "hard": 0.5}
    named = settings.to_json()["losses"]
    assert [name.rpartition(".")[2] for name in named][1:] == ["distance", "hard"] and list(named.values()) == [2.0, 1.0, 0.5]
    assert next(iter(named)).startswith("{'object': 'penjing.training.state_losses:PerPair'") and ".<lambda>'" in next(iter(named))
    assert json.loads(json.dumps(settings.to_json()))["losses"] == named
    with pytest.raises(InputError, match="distance has the weight -1"):
        DistillSettings(losses={distance: -1.0})
