"""Plans: what they cost is what the blueprint says, and a model that is made by one has the blueprint that was planned."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import blueprints, cuts, logits, own_inputs, penjing_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from penjing.blueprint import Blueprint, Layer
from penjing.errors import InputError
from penjing.maths.stored import Scheme
from penjing.model.building import blueprint_of
from penjing.model.surgery import cut
from penjing.search.costs import Macs
from penjing.search.plan import Cost, Plan, apply, cost, whole
from penjing.selection import LayerSelection, Selection
from penjing.steps.bits.store import StoreSettings, uniform
from penjing.text.encoded import Encoded

BASE = Blueprint(40, 16, 2, 16, 16, 4, (Layer(4, 32), Layer(4, 32)), "sequence", 2)
TEXTS = Encoded.of([[1, 2, 3, 4], [5, 6, 7]], [[0] * 4, [0] * 3])
NARROW = Selection((LayerSelection(1, (0, 2), tuple(range(8))),), tuple(range(8)), tuple(range(20)))


@st.composite
def plans(draw: st.DrawFn) -> tuple[Blueprint, Plan]:
    """A blueprint and any plan of it: what is kept, and a rank where it has none."""
    base, selection = draw(cuts(("sequence", "token")))
    kept = selection.plan(base)
    ranks = st.just(0) if kept.rank else st.just(0) | st.integers(1, kept.embedding)
    return base, Plan(selection, draw(ranks))


# -- what a plan says ----------------------------------------------------------------------------------------------


@given(plans(), st.sampled_from([2, 4, 8, 32]))
def test_a_plan_costs_what_its_blueprint_does(given_: tuple[Blueprint, Plan], bits: int) -> None:
    base, plan = given_
    left = plan.blueprint(base)
    assert left == replace(plan.selection.plan(base), rank=plan.rank or base.rank)
    even = replace(BASE, hidden=base.hidden, head_width=base.head_width)
    table = Macs(even, 9)  # of blocks alone, whatever the base is
    assert cost(plan, base, table, bits) == Cost(table.cost(left), replace(left, bits=bits).bytes)


@given(st.integers(1, 16))
def test_multiply_accumulates_of_a_plan_are_those_of_its_layers(length: int) -> None:
    layers = tuple(LayerSelection(i, tuple(range(4 - i)), tuple(range(8 * (i + 1)))) for i in range(2))
    plan = Plan(Selection(layers))
    found = cost(plan, BASE, Macs(BASE, length))
    assert found.layers == pytest.approx(plan.blueprint(BASE).macs(length))
    assert cost(Plan(Selection.all(BASE)), BASE, Macs(BASE, length)).layers == pytest.approx(BASE.macs(length))


@given(plans(), st.integers(0, 16))
def test_less_never_costs_more(given_: tuple[Blueprint, Plan], length: int) -> None:
    base, plan = given_
    table = Macs(BASE, max(1, length))
    everything = Plan(Selection.all(base), plan.rank)
    found, most = cost(Plan(replace(plan.selection, hidden=None)), base, table), cost(Plan(Selection.all(base)), base, table)
    assert found.layers <= most.layers and found.bytes <= most.bytes
    assert cost(plan, base, table, 8).bytes <= cost(plan, base, table, 32).bytes
    assert everything.blueprint(base).layers == base.layers


class NoTensor(TorchFunctionMode):
    """Within it, whatever is asked of torch is an error."""

    def __torch_function__(self, *given: object, **options: object) -> object:
        raise AssertionError("a tensor was moved")


@given(plans())
def test_planning_moves_no_tensor(given_: tuple[Blueprint, Plan]) -> None:
    base, plan = given_
    with NoTensor():
        plan.blueprint(base)
        cost(plan, base, Macs(BASE, 9))


def test_applying_does() -> None:
    model = penjing_model(BASE)
    with NoTensor(), pytest.raises(AssertionError, match="a tensor was moved"):
        apply(model, Plan(NARROW), TEXTS)


# -- what it makes of a model --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(plans(), st.integers(0, 99))
def test_a_model_that_a_plan_makes_has_the_blueprint_that_was_planned(given_: tuple[Blueprint, Plan], seed: int) -> None:
    base, plan = given_
    model = penjing_model(base, seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made, coded = apply(model, plan, TEXTS)
    assert blueprint_of(made) == plan.blueprint(base) and coded == {}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@given(blueprints(("sequence", "token")), st.integers(0, 99))
def test_the_whole_plan_leaves_everything(base: Blueprint, seed: int) -> None:
    model = penjing_model(base, seed)
    made, coded = apply(model, whole(model), TEXTS)
    assert whole(model).blueprint(base) == base == blueprint_of(made) and not coded
    inputs = own_inputs(base, seed)
    torch.testing.assert_close(logits(made, inputs), logits(model, inputs))


def test_a_plan_of_everything_is_cut_then_factorised_then_rounded() -> None:
    model = penjing_model(BASE)
    narrow = apply(model, Plan(NARROW), TEXTS)[0]
    factorised = apply(model, Plan(NARROW, 4), TEXTS)[0]
    schemes = uniform(factorised, StoreSettings("linear", 3, 8))
    made, coded = apply(model, Plan(NARROW, 4, schemes), TEXTS)
    planned = Plan(NARROW, 4, schemes).blueprint(BASE)
    assert planned.rank == 4 and planned.layers == (Layer(2, 8),) and planned.vocabulary == 20
    assert blueprint_of(made) == blueprint_of(factorised) == planned
    state, cut_state = (each.state_dict() for each in (narrow, cut(model, NARROW)))
    assert list(state) == list(cut_state) and all(torch.equal(state[name], cut_state[name]) for name in state)
    assert coded.keys() == schemes.keys()
    for name, codes in coded.items():
        assert codes.bits == (schemes[name].bits) and torch.equal(made.get_parameter(name).detach(), torch.from_numpy(codes.values()))


def test_rounding_is_drawn_by_the_seed() -> None:
    model = penjing_model(BASE)
    schemes: Mapping[str, Scheme] = {name: Scheme("kmeans", 2, 0) for name in uniform(model, StoreSettings()) if "layers" in name}
    plan = Plan(Selection.all(BASE), schemes=schemes)
    states = [apply(model, plan, TEXTS, seed)[0].state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_a_plan_that_does_not_fit_is_refused() -> None:
    model = penjing_model(BASE)
    for plan, said in (
        (Plan(Selection((LayerSelection(2, (), ()),))), "layer 2 of 2 does not exist"),
        (Plan(Selection.all(BASE), 17), "rank: 17 is not allowed"),
    ):
        with pytest.raises(InputError, match=said):
            apply(model, plan, TEXTS)
    assert np.isfinite(cost(Plan(Selection.all(BASE), 16), BASE, Macs(BASE, 9)).layers)
