"""Gates: folding and cutting are exact, the expected MACs are the blueprint's, and what is useless is found."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import blueprints, logits, own_inputs, penjing_model
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.maths.answers import Classes
from penjing.model.building import blueprint_of
from penjing.model.surgery import copy_of, cut
from penjing.selection import LayerSelection, Selection
from penjing.steps.cut import gates as gating
from penjing.steps.cut.gates import Gates, HeadWeights, fold, learn_head_weights, learned_gates, target_part
from penjing.steps.cut.gradual import GradualPrune, GradualSettings
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.tasks.sequence import Classification
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples, Task
from penjing.text.encoded import Encoded
from penjing.training import loop
from penjing.training.loop import Schedule
from penjing.training.predict import divergence_of, logits_of
from penjing.training.taught import Taught

SMALL = Blueprint(60, 24, 2, 16, 16, 8, (Layer(3, 12), Layer(3, 12)), "sequence", 2)
TASK = Classification(("no", "yes"))


class Killed(Exception):
    pass


def examples(count: int = 96) -> Examples:
    random = np.random.default_rng(0)
    rows = [random.integers(1, 60, random.integers(3, 12)).tolist() for _ in range(count)]
    gold = ["yes" if row[0] > 30 else "no" for row in rows]
    return Examples(Encoded.of(rows, [[0] * len(row) for row in rows]), [""] * count, gold, [[]] * count, 0)


def moved(gates: Gates, seed: int) -> Gates:
    """Random gates: most between the ends, some blocks and some gates in open blocks surely closed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in (gates.log_alpha, gates.log_alpha_block):
            each.copy_(2 * torch.randn(each.shape, generator=generator))
            each[torch.rand(each.shape, generator=generator) < 0.2] = -torch.inf
    return gates.eval()


# -- laws of any gates -------------------------------------------------------------------------------------------


@given(blueprints(), st.integers(0, 999))
def test_gated_folded_and_cut_answer_the_same(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    gates, before = moved(Gates(model, 7), seed), logits(model, inputs)
    answer, folded = logits(gates, inputs), gates.folded()
    torch.testing.assert_close(logits(folded, inputs), answer, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits(cut(folded, gates.selection()), inputs), answer, atol=1e-5, rtol=1e-4)
    assert torch.equal(logits(model, inputs), before)


@given(blueprints(), st.integers(0, 999))
def test_new_gates_leave_the_model_as_it_is(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    for gates in (Gates(model, 7).eval(), HeadWeights(model)):
        assert torch.equal(logits(gates, inputs), logits(model, inputs))
    assert Gates(model, 7).selection() == Selection.all(blueprint)


@given(blueprints(), st.integers(0, 999), st.integers(1, 12))
def test_the_expected_part_is_the_blueprints_where_every_gate_is_sure(blueprint: Blueprint, seed: int, length: int) -> None:
    gates = moved(Gates(penjing_model(blueprint), length), seed)
    with torch.no_grad():
        for each in (gates.log_alpha, gates.log_alpha_block):
            each.copy_(torch.where(each > 0, torch.inf, -torch.inf))
    left = gates.selection().plan(blueprint).macs(length)
    assert gates.expected_part().item() == pytest.approx(left / max(1, blueprint.macs(length)), abs=1e-6)


def test_the_expected_part_is_the_mean_of_what_is_drawn() -> None:
    gates = moved(Gates(penjing_model(SMALL), 7), 3)
    torch.manual_seed(0)
    heads, neurons = gates.gates(texts=20_000)
    drawn = torch.cat([*heads, *neurons], -1) > 0
    part = (drawn * gates.macs).sum(-1).double().mean() / gates.macs.sum()
    assert part.item() == pytest.approx(gates.expected_part().item(), abs=0.01)


def test_gates_are_drawn_for_each_text_in_training_alone() -> None:
    gates = moved(Gates(penjing_model(SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), 7), 1)
    text = own_inputs(SMALL, texts=1)
    inputs = {name: value.expand(4, -1) for name, value in text.items()}
    assert logits(gates, inputs).unique(dim=0).shape[0] == 1
    assert logits(gates.train(), inputs).unique(dim=0).shape[0] == 4
    gates.fix(1.0)
    assert logits(gates, inputs).unique(dim=0).shape[0] == 1


def test_the_multipliers_ascend_and_the_gates_close_while_too_much_stays() -> None:
    gates = Gates(penjing_model(SMALL), 7)
    gates.target.fill_(0.3)
    with torch.no_grad():
        gates.multipliers.fill_(1.0)
    gates.penalty().backward()
    assert gates.multipliers.grad is not None and (gates.multipliers.grad < 0).all()
    assert gates.log_alpha.grad is not None and (gates.log_alpha.grad > 0).all()


@given(blueprints(min_layers=1), st.integers(0, 999), st.floats(0.01, 1))
def test_fixing_meets_the_part_and_closes_no_more_than_needed(blueprint: Blueprint, seed: int, part: float) -> None:
    gates = moved(Gates(penjing_model(blueprint), 7), seed)
    before, probability = gates.selection(), gates.open_probability().detach()
    gates.fix(part)
    left, limit = gates.selection().plan(blueprint).macs(7), part * blueprint.macs(7)
    assert left <= limit
    flat = torch.cat([*gates.gates()[0], *gates.gates()[1]])
    if gates.selection() != before:
        closed = (flat == 0) & (gates.log_alpha.detach() == -torch.inf) & (probability > 0)
        last = probability[closed].max()
        of_one = gates.macs + gates.shared_macs[gates.block]
        assert left + max(of_one[closed & (probability == last)]) > limit
        assert (probability[flat > 0] >= last).all()
    state = {name: value.clone() for name, value in gates.state_dict().items()}
    gates.fix(part / 2)
    assert all(torch.equal(value, state[name]) for name, value in gates.state_dict().items())
    assert gates.penalty().item() == 0


@given(blueprints(), st.integers(0, 999))
def test_head_weights_of_any_sign_fold(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint), own_inputs(blueprint, seed)
    weights = HeadWeights(model)
    with torch.no_grad():
        for each in weights.weights:
            each.copy_(torch.randn(each.shape, generator=torch.Generator().manual_seed(seed)))
    torch.testing.assert_close(logits(weights.folded(), inputs), logits(weights, inputs), atol=1e-5, rtol=1e-4)


# -- the criterion, and weights of heads -------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_learned_gates_find_what_is_useless(head: Literal["sequence", "token"]) -> None:
    task: Task = TASK if head == "sequence" else Tagging(("O", "B-x"))
    model, data = penjing_model(replace(SMALL, layers=(Layer(3, 6),) * 2, head=head), 3), examples()
    layers = model.base_model.layers
    with torch.no_grad():
        for linear in (model.head.out, *(part for layer in layers for part in (layer.attention.value, layer.attention.output))):
            linear.weight *= 4  # so that the answers hang on what the blocks compute
        for layer in layers:
            layer.feed_forward.down.weight *= 4
        layers[0].attention.output.weight[:, 8:16] = 0
        layers[1].feed_forward.down.weight[:, [2, 4]] = 0
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = learned_gates(model, task, data, seed=0, steps=150, part=0.8)
    scores = np.concatenate([*found.heads, *found.neurons])
    assert np.argmin(np.concatenate(found.heads)) == 1
    assert found.neurons[1][[2, 4]].max() < found.neurons[1].mean()
    assert scores.min() >= 0 and scores.sum() == pytest.approx(0.8, abs=0.05)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_learned_gates_depend_on_the_seed_alone() -> None:
    model, data = penjing_model(SMALL, 5), examples(40)
    first = learned_gates(model, TASK, data, seed=0, steps=6).to_dict()
    torch.manual_seed(99)
    assert learned_gates(model, TASK, data, seed=0, steps=6).to_dict() == first
    assert learned_gates(model, TASK, data, seed=1, steps=6).to_dict() != first


def test_head_weights_bring_a_cut_model_nearer_to_its_teacher() -> None:
    teacher, data = penjing_model(SMALL, 5), examples()
    student = cut(teacher, Selection((LayerSelection(0, (0,), tuple(range(12))), LayerSelection(1, (1, 2), tuple(range(12))))))
    learned = learn_head_weights(student, TASK, data, 0, teacher=teacher, steps=60)
    for part in (data, data.take(np.arange(0, len(data), 4))):
        reference = logits_of(teacher, part.encoded)
        assert divergence_of(learned, part, reference, Classes()) < 0.95 * divergence_of(student, part, reference, Classes())
    same = {name for name, value in student.state_dict().items() if torch.equal(value, learned.state_dict()[name])}
    assert student.state_dict().keys() - same == {f"encoder.layers.{i}.attention.output.weight" for i in (0, 1)}


def test_head_weights_are_judged_on_texts_that_they_were_not_learned_on(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, data, seen = penjing_model(SMALL, 5), examples(16), dict[str, set[bytes]]()
    texts = {"learned": gating._train, "judged": gating.divergence_of}

    def spy(name: str) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            some = next(each for each in given if isinstance(each, Examples))
            seen.setdefault(name, set()).update(some.encoded.row(i).tobytes() for i in range(len(some)))
            return texts[name](*given, **options)

        return call

    monkeypatch.setattr(gating, "_train", spy("learned"))
    monkeypatch.setattr(gating, "divergence_of", spy("judged"))
    learn_head_weights(teacher, TASK, data, 0, teacher=teacher, steps=3)
    assert len(seen["judged"]) == 4 and not seen["judged"] & seen["learned"]


def test_gates_listen_to_tokens_that_are_answered_from() -> None:
    task, model, data = Tagging(("O", "B-x")), penjing_model(replace(SMALL, head="token"), 3), examples(12)
    some = replace(data, first_tokens=[[1]] * len(data))
    weights, reference = (HeadWeights(copy_of(model)) for _ in range(2)), logits_of(model, data.encoded)
    loud = [row.copy() for row in reference]
    for row in loud:
        row[np.arange(len(row)) != 1] += [9, -9]
    found = []
    for each, answers in zip(weights, (reference, loud), strict=True):
        gating._train(each, answers, task, some, 0, 4, 0.1)
        found.append(each.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_head_weights_never_lose() -> None:
    teacher, data = penjing_model(SMALL, 5), examples(8)
    learned = learn_head_weights(teacher, TASK, data, 0, teacher=teacher, steps=3)
    assert divergence_of(learned, data, logits_of(teacher, data.encoded), Classes()) == pytest.approx(0, abs=1e-9)


# -- pruning during training -------------------------------------------------------------------------------------


def gradual(folder: Path, texts: int, kill_at: int | None = None) -> Taught:
    model, data = penjing_model(SMALL, 5), examples(texts)

    def progress(done: int, total: int, **figures: float) -> None:
        if done == kill_at:
            raise Killed

    settings = DistillSettings(Schedule(epochs=5, batch_size=8, learning_rate=1e-3, patience=100))
    step = GradualPrune(
        Distill(TASK, Teachers(model), settings, data, Place(folder), Selection.all(SMALL), progress=progress), GradualSettings(0.4), 6
    )
    return step.teach(model, step.observe(model, data))


def test_gradual_pruning_meets_the_part_with_the_best_of_the_fixed(tmp_path: Path) -> None:
    taught = gradual(tmp_path, 96)
    blueprint, length = blueprint_of(taught.model), int(np.median(examples().encoded.lengths))
    assert taught.selection is not None
    assert taught.selection.plan(SMALL) == blueprint
    assert 0.2 * SMALL.macs(length) < blueprint.macs(length) <= 0.4 * SMALL.macs(length)
    assert taught.history.best_step >= 0.6 * taught.history.steps


def test_a_killed_gradual_pruning_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    whole = gradual(tmp_path / "whole", 32)
    for kill_at in (3, 12, 16):  # of 20 steps: while the target falls, as the gates are fixed, after it
        folder = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            gradual(folder, 32, kill_at)
        assert (folder / "state.pt").is_file()
        resumed = gradual(folder, 32)
        assert resumed.selection == whole.selection
        assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


def test_the_target_falls_linearly_to_the_part() -> None:
    assert [target_part(done, 0.4, 0.5) for done in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.7, 0.4, 0.4])
    assert target_part(0, 0.4, 0.0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    "fields", [{"part": 0}, {"part": 1.1}, {"part": math.nan}, {"warmup": 0.7}, {"prune_until": 1.2}, {"warmup": -0.1}]
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"gradual: .*(must be|must hold)"):
        GradualSettings(**fields)


def test_fold_takes_gates_of_heads_alone() -> None:
    model = penjing_model(SMALL)
    folded = fold(model, [torch.zeros(3), torch.ones(3)], [])
    assert not folded.state_dict()["encoder.layers.0.attention.output.weight"].any()
    assert torch.equal(
        folded.state_dict()["encoder.layers.1.attention.output.weight"], model.state_dict()["encoder.layers.1.attention.output.weight"]
    )
