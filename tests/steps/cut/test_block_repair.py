"""Repair: no block gets worse, what stands in for what was cut takes over all of it, and the errors that are told are true."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import blueprints, penjing_model, selections
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import cut
from penjing.selection import LayerSelection, Selection
from penjing.steps.cut import repair as repairs
from penjing.steps.cut.repair import Repair, repair
from penjing.text.encoded import Encoded
from penjing.training.predict import logits_of

WHOLE = Blueprint(40, 12, 2, 12, 12, 4, (Layer(3, 9), Layer(2, 6), Layer(3, 5)), "sequence", 3)
METHODS: tuple[Repair, ...] = ("weights", "scales")


def seeded(blueprint: Blueprint, seed: int = 0) -> Any:
    """A random model, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return penjing_model(blueprint, seed)


def texts(blueprint: Blueprint, count: int = 12, seed: int = 0) -> Encoded:
    random = np.random.default_rng(seed)
    rows = [random.integers(0, blueprint.vocabulary, random.integers(2, 5)).tolist() for _ in range(count)]
    return Encoded.of(rows, [[i % max(1, blueprint.token_types) for i in range(len(row))] for row in rows])


def keep(*layers: tuple[int, tuple[int, ...], tuple[int, ...]], hidden: tuple[int, ...] | None = None) -> Selection:
    return Selection(tuple(LayerSelection(*each) for each in layers), hidden)


def sums(model: PenjingPreTrainedModel, encoded: Encoded, layer: int, block: str) -> Tensor:
    """What a block's norm reads (tokens, H); of the last layer under a sequence head, the first token of each text alone."""
    blueprint, seen = blueprint_of(model), list[Tensor]()
    hook = getattr(model.base_model.layers[layer], block).norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    logits_of(model, encoded)
    hook.remove()
    first_only = blueprint.head.name == "sequence" and layer in (-1, len(blueprint.layers) - 1)
    runs = len(blueprint.sharing(blueprint.owner(layer)))  # of shared layers the last one
    return torch.cat([x[:, 0] if first_only else x.flatten(0, 1) for x in seen[runs - 1 :: runs]])


def relative_error(ours: Tensor, target: Tensor) -> float:
    return float((target - ours).square().sum() / target.square().sum())


def assert_unchanged(model: PenjingPreTrainedModel, state: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def copied(model: PenjingPreTrainedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# -- any selection -----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(blueprints(("sequence", "token"), min_layers=1), st.data(), st.sampled_from(METHODS), st.integers(0, 99))
def test_no_block_gets_worse_and_only_the_new_model_changes(blueprint: Blueprint, data: Any, method: Repair, seed: int) -> None:
    selection = replace(data.draw(selections(blueprint)), tokens=None)
    teacher, encoded = seeded(blueprint, seed), texts(blueprint, seed=seed)
    student = cut(teacher, selection)
    states = copied(teacher), copied(student)
    result, found = repair(student, teacher, selection, encoded, method)
    assert len(found.errors) == 2 * len(selection.layers)
    for before, after in found.errors:
        assert 0 <= after <= before + 1e-5
    for model, state in zip((teacher, student), states, strict=True):
        assert_unchanged(model, state)
        assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not result.training and all(np.isfinite(row).all() for row in logits_of(result, encoded))
    changed = {name for name, value in result.state_dict().items() if not torch.equal(value, student.state_dict()[name])}
    assert {name.split(".", 3)[-1].rsplit(".", 1)[0] for name in changed} <= {"attention.output", "feed_forward.down", "feed_forward.norm"}


@settings(max_examples=40)
@given(blueprints(("sequence", "token"), min_layers=1), st.data(), st.sampled_from(METHODS), st.integers(0, 99))
def test_the_last_error_is_what_is_missing_to_the_teacher(blueprint: Blueprint, data: Any, method: Repair, seed: int) -> None:
    selection = replace(data.draw(selections(blueprint).filter(lambda s: s.layers)), tokens=None)
    teacher, encoded = seeded(blueprint, seed), texts(blueprint, seed=seed)
    result, found = repair(cut(teacher, selection), teacher, selection, encoded, method)
    target, ours = (sums(model, encoded, -1, "feed_forward") for model in (teacher, result))
    if selection.hidden is not None:
        target = target[:, list(selection.hidden)]
    assert found.errors[-1][1] == pytest.approx(relative_error(ours, target), rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("method", METHODS)
def test_every_error_is_what_is_missing_in_its_block(method: Repair, head: str) -> None:
    """Where no layer is cut, block by block on all the tokens, but for the last layer under a sequence head."""
    teacher, encoded = seeded(replace(WHOLE, head=head)), texts(WHOLE)
    selection = keep((0, (1, 2), (0, 2, 3, 7)), (1, (1,), (2, 4)), (2, (0, 1), (0, 3)))
    student = cut(teacher, selection)
    result, found = repair(student, teacher, selection, encoded, method)
    blocks = [(layer, block) for layer in range(3) for block in ("attention", "feed_forward")]
    after = [relative_error(sums(result, encoded, *block), sums(teacher, encoded, *block)) for block in blocks]
    assert [after for _, after in found.errors] == pytest.approx(after, rel=1e-3)
    before = relative_error(sums(student, encoded, 0, "attention"), sums(teacher, encoded, 0, "attention"))
    assert found.errors[0][0] == pytest.approx(before, rel=1e-3) and min(after) > 1e-3


@given(blueprints(("sequence", "token"), min_layers=1), st.sampled_from(METHODS), st.integers(0, 99))
def test_what_is_whole_stays_as_it_is(blueprint: Blueprint, method: Repair, seed: int) -> None:
    teacher, encoded = seeded(blueprint, seed), texts(blueprint, seed=seed)
    result, found = repair(teacher, teacher, Selection.all(blueprint), encoded, method)
    assert max(before for before, _ in found.errors) < 1e-9
    for name, value in result.state_dict().items():
        torch.testing.assert_close(value, teacher.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_none_is_the_identity() -> None:
    teacher, selection = seeded(WHOLE), keep((0, (1,), (2, 3)), (2, (), (0,)))
    student = cut(teacher, selection)
    result, found = repair(student, teacher, selection, texts(WHOLE), "none")
    assert result is not student and found.errors == []
    assert_unchanged(result, copied(student))


@pytest.mark.parametrize("method", METHODS)
def test_a_repaired_model_can_be_trained(method: Repair) -> None:
    teacher, selection = seeded(WHOLE), keep((0, (1,), (2, 3)), (2, (), (0,)))
    result, _ = repair(cut(teacher, selection), teacher, selection, texts(WHOLE), method)
    result(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(weight.grad is not None for layer in result.base_model.layers for weight in layer.feed_forward.parameters())


def test_weights_repair_better_than_scales() -> None:
    teacher, selection = seeded(WHOLE), keep((0, (1, 2), (0, 2, 3, 7)), (1, (1,), (2, 4)), (2, (0, 1), (0, 3)))
    first = [repair(cut(teacher, selection), teacher, selection, texts(WHOLE, 64), method)[1].errors[0] for method in METHODS]
    assert first[0][0] == first[1][0]
    assert first[0][1] < first[1][1] < first[1][0]


# -- what can be taken over --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_double_is_taken_over(method: Repair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head and a neuron are cut whose twins stay; with scales their closing columns must be the twins' too, up to a factor."""
    monkeypatch.setattr(repairs, "RIDGE", 1e-6)
    teacher, encoded = seeded(WHOLE), texts(WHOLE, 64)
    attention, feed_forward = teacher.base_model.layers[0].attention, teacher.base_model.layers[2].feed_forward
    with torch.no_grad():
        for part in (attention.query, attention.key, attention.value):
            part.weight[8:12], part.bias[8:12] = part.weight[:4], part.bias[:4]
        feed_forward.up.weight[3], feed_forward.up.bias[3] = feed_forward.up.weight[1], feed_forward.up.bias[1]
        if method == "scales":
            attention.output.weight[:, 8:12] = 0.7 * attention.output.weight[:, :4]
            feed_forward.down.weight[:, 3] = 2 * feed_forward.down.weight[:, 1]
    selection = keep((0, (0, 1), tuple(range(9))), (1, (0, 1), tuple(range(6))), (2, (0, 1, 2), (0, 1, 2, 4)))
    student = cut(teacher, selection)
    result, found = repair(student, teacher, selection, encoded, method)
    reference, before, after = (np.concatenate(logits_of(model, encoded)) for model in (teacher, student, result))
    assert np.abs(before - reference).max() > 0.1
    np.testing.assert_allclose(after, reference, atol=5e-3)
    assert max(after for _, after in found.errors) < 1e-5


def test_a_feature_that_never_changes_is_taken_over_by_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repairs, "RIDGE", 1e-6)
    teacher, encoded = seeded(WHOLE), texts(WHOLE, 64)
    with torch.no_grad():
        teacher.base_model.layers[1].feed_forward.up.weight.zero_()
    selection = keep((0, (0, 1, 2), tuple(range(9))), (1, (0, 1), ()), (2, (0, 1, 2), tuple(range(5))))
    result, _ = repair(cut(teacher, selection), teacher, selection, encoded)
    torch.testing.assert_close(
        torch.from_numpy(np.stack(logits_of(result, encoded))), torch.from_numpy(np.stack(logits_of(teacher, encoded))), atol=5e-3, rtol=0
    )


@pytest.mark.parametrize("kept", [(1, 2), (0, 2), (0, 1), (2,)])
def test_layers_that_did_little_are_made_up_for(kept: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the layers that are cut add a constant alone, wherever they stand, the others add it in their place."""
    monkeypatch.setattr(repairs, "RIDGE", 1e-6)
    blueprint = replace(WHOLE, head="token")
    teacher, encoded = seeded(blueprint), texts(blueprint, 64)
    for i in {0, 1, 2} - set(kept):
        layer = teacher.base_model.layers[i]
        with torch.no_grad():
            layer.attention.output.weight.zero_()
            layer.feed_forward.down.weight.zero_()
    whole = Selection.all(blueprint)
    selection = Selection(tuple(whole.layers[i] for i in kept))
    student = cut(teacher, selection)
    result, _ = repair(student, teacher, selection, encoded)
    reference, before, after = (np.concatenate(logits_of(model, encoded)) for model in (teacher, student, result))
    assert np.square(after - reference).mean() < 0.5 * np.square(before - reference).mean()
