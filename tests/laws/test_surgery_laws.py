"""Laws of the cut: cutting is masking to zero, exactly; it composes; it leaves its input alone."""

from dataclasses import replace

import pytest
import torch
from conftest import blueprints, cuts, logits, own_inputs, penjing_model, selections
from hypothesis import given
from hypothesis import strategies as st
from masking import mask
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.model.building import blueprint_of
from penjing.model.surgery import cut, slice_state
from penjing.selection import LayerSelection, Selection

WHOLE = Blueprint(40, 16, 2, 12, 12, 4, (Layer(3, 24), Layer(2, 5)), "sequence", 2)


@given(cuts(), st.integers(0, 99))
def test_cutting_is_masking_to_zero(plan: tuple[Blueprint, Selection], seed: int) -> None:
    blueprint, selection = plan
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    small = cut(model, selection)
    whole = dict(inputs)
    if selection.tokens is not None:  # the same texts, by the old and by the new numbers
        inputs["input_ids"] = inputs["input_ids"] % len(selection.tokens)
        whole["input_ids"] = torch.tensor(selection.tokens)[inputs["input_ids"]]
    mask(model, selection)
    expected = logits(model, whole)
    if blueprint.head.name == "masked" and selection.tokens is not None:
        expected = expected[..., list(selection.tokens)]
    if blueprint.head.name == "none" and selection.hidden is not None:
        expected = expected[..., list(selection.hidden)]
    torch.testing.assert_close(logits(small, inputs), expected, rtol=1e-4, atol=1e-4)
    assert blueprint_of(small) == selection.plan(blueprint)


@given(cuts(("sequence", "token", "question")), st.integers(0, 99))
def test_cutting_is_zeroing_the_weights_that_read_what_is_cut(plan: tuple[Blueprint, Selection], seed: int) -> None:
    blueprint, selection = plan
    kept_of = {blueprint.owner(kept.layer): (kept.heads, kept.neurons) for kept in selection.layers}
    selection = Selection(  # every layer stays: weights of zero do not bypass a norm
        tuple(LayerSelection(i, *kept_of.get(blueprint.owner(i), ((), ()))) for i in range(len(blueprint.layers)))
    )
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    small = cut(model, selection)
    state = model.state_dict()
    with torch.no_grad():
        for kept in (selection.layers[i] for i in blueprint.distinct):
            block = f"encoder.layers.{kept.layer}"
            for head in set(range(blueprint.layers[kept.layer].heads)) - set(kept.heads):
                state[f"{block}.attention.output.weight"][:, head * blueprint.head_width : (head + 1) * blueprint.head_width] = 0
            for neuron in set(range(blueprint.layers[kept.layer].neurons)) - set(kept.neurons):
                state[f"{block}.feed_forward.down.weight"][:, neuron] = 0
    torch.testing.assert_close(logits(small, inputs), logits(model, inputs), rtol=1e-5, atol=1e-5)


@given(blueprints(), st.integers(0, 99))
def test_keeping_all_is_the_identity(blueprint: Blueprint, seed: int) -> None:
    model, inputs = penjing_model(blueprint, seed), own_inputs(blueprint, seed)
    same = cut(model, Selection.all(blueprint))
    assert same is not model and blueprint_of(same) == blueprint
    assert_same_state(same.state_dict(), model.state_dict())
    assert torch.equal(logits(same, inputs), logits(model, inputs))


@given(st.data())
def test_cuts_compose(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    first = data.draw(selections(blueprint))
    then = data.draw(selections(first.plan(blueprint)))
    model = penjing_model(blueprint)
    twice, once = cut(cut(model, first), then), cut(model, first.then(then))
    assert_same_state(twice.state_dict(), once.state_dict())
    assert first.then(then).plan(blueprint) == then.plan(first.plan(blueprint)) == blueprint_of(once)


@given(st.data())
def test_then_is_a_monoid(data: st.DataObject) -> None:
    blueprint = data.draw(blueprints())
    a = data.draw(selections(blueprint))
    b = data.draw(selections(a.plan(blueprint)))
    c = data.draw(selections(b.plan(a.plan(blueprint))))
    assert a.then(b).then(c) == a.then(b.then(c))
    assert Selection.all(blueprint).then(a) == a
    assert a.then(Selection.all(a.plan(blueprint))) == a


@given(cuts(), st.booleans())
def test_the_input_is_left_alone(plan: tuple[Blueprint, Selection], training: bool) -> None:
    blueprint, selection = plan
    model = penjing_model(blueprint).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    small = cut(model, selection)
    assert small.training is model.training is training
    with torch.no_grad():
        for weight in small.parameters():
            weight += 1
    assert_same_state(model.state_dict(), before)
    assert blueprint_of(model) == blueprint


@given(cuts())
def test_slicing_a_state_dict_gives_that_of_the_plan_and_leaves_it_alone(plan: tuple[Blueprint, Selection]) -> None:
    blueprint, selection = plan
    state = penjing_model(blueprint).state_dict()
    before = {name: value.clone() for name, value in state.items()}
    sliced = slice_state(state, blueprint, selection)
    expected = penjing_model(selection.plan(blueprint)).state_dict()
    assert {name: value.shape for name, value in sliced.items()} == {name: value.shape for name, value in expected.items()}
    assert_same_state(state, before)


def test_a_cut_model_keeps_its_configuration() -> None:
    model = penjing_model(
        WHOLE, hidden_act="relu", head_act="gelu", layer_norm_eps=1e-3, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )
    config = cut(model, Selection((LayerSelection(1, (0,), (1, 3)),))).config
    assert (config.hidden_act, config.head_act, config.layer_norm_eps) == ("relu", "gelu", 1e-3)
    assert config.id2label == {0: "bad", 1: "good"}
    assert config.layers == [[1, 2]] and config.num_hidden_layers == 1


@pytest.mark.parametrize(
    "layers",
    [
        [(2, (0,), (0,))],
        [(-1, (0,), (0,))],
        [(0, (3,), (0,))],
        [(1, (2,), (0,))],
        [(0, (-1,), (0,))],
        [(0, (1, 0), (0,))],
        [(0, (1, 1), (0,))],
        [(0, (0,), (24,))],
        [(1, (0,), (5,))],
        [(0, (0,), (-2, 1))],
        [(0, (0,), (3, 2))],
        [(0, (0,), (2, 2))],
        [(1, (0,), (0,)), (0, (0,), (0,))],
        [(0, (0,), (0,)), (0, (0,), (0,))],
    ],
)
def test_a_selection_that_cannot_be_is_refused(layers: list[tuple[int, tuple[int, ...], tuple[int, ...]]]) -> None:
    selection = Selection(tuple(LayerSelection(*layer) for layer in layers))
    with pytest.raises(InputError, match="selection"):
        selection.plan(WHOLE)
    with pytest.raises(InputError, match="selection"):
        cut(penjing_model(WHOLE), selection)


def test_nothing_may_be_kept() -> None:
    blueprint = replace(WHOLE, layers=(Layer(0, 0),))
    assert Selection((LayerSelection(0, (), ()),)).plan(blueprint) == blueprint
    assert Selection(()).plan(WHOLE).layers == ()


def assert_same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_tokens_that_the_configuration_names_get_new_numbers_and_the_padding_must_stay() -> None:
    model = penjing_model(WHOLE, pad_token_id=3, origin={"model_type": "bert", "pad_token_id": 3, "hidden_size": 12})
    config = cut(model, replace(Selection.all(WHOLE), tokens=(1, 3, 7))).config
    assert config.pad_token_id == 1 and config.origin["pad_token_id"] == 1 and config.vocab_size == 3
    with pytest.raises(InputError, match="token 3, the padding"):
        cut(model, replace(Selection.all(WHOLE), tokens=(1, 7)))


def test_hidden_units_may_not_become_as_many_as_an_embedding_of_another_width() -> None:
    blueprint = replace(WHOLE, embedding=6)
    with pytest.raises(InputError, match="6 hidden units is the width of the embedding"):
        replace(Selection.all(blueprint), hidden=tuple(range(6))).plan(blueprint)


def test_the_sequence_head_keeps_its_width_where_hidden_units_go() -> None:
    plan = replace(Selection.all(WHOLE), hidden=tuple(range(8))).plan(WHOLE)
    assert (plan.hidden, plan.embedding, plan.pooled_width) == (8, 8, WHOLE.hidden) and not plan.uniform
