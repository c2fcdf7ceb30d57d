"""Allocation: what it plans meets the limits, keeps what matters, and moves no tensor."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import blueprints
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.search.allocate import FINE_GROUP, by_parts, candidates, evenly, narrow, smallest
from penjing.search.costs import CostTable, Macs
from penjing.selection import Selection
from penjing.steps.cut.importance import Importance

DEPTH, HEADS, NEURONS = 4, 6, 256
WHOLE = Blueprint(100, 32, 2, 48, 48, 8, (Layer(HEADS, NEURONS),) * DEPTH, "sequence", 2)
TABLE = CostTable(
    base=0.1,
    heads=[(0, 0.01), (3, 0.05), (6, 0.08)],
    neurons=[(0, 0.01), (128, 0.06), (256, 0.10)],
    last_heads=[(0, 0.01), (6, 0.04)],
    last_neurons=[(0, 0.01), (256, 0.03)],
)


def importance(seed: int, blueprint: Blueprint = WHOLE) -> Importance:
    random, depth = np.random.default_rng(seed), len(blueprint.layers)
    return Importance(
        [random.random(layer.heads) for layer in blueprint.layers],
        [random.random(layer.neurons) for layer in blueprint.layers],
        [int(i) for i in random.permutation(depth)[: depth - 1]],
    )


@given(st.integers(0, 99), st.floats(0.05, 1.0), st.floats(0.3, 1.2))
def test_every_candidate_meets_both_limits(seed: int, part: float, part_of_bytes: float) -> None:
    limit, most = part * TABLE.cost(WHOLE), part_of_bytes * WHOLE.bytes
    for selection in candidates(WHOLE, importance(seed), TABLE, limit, most):
        plan = selection.plan(WHOLE)
        assert TABLE.cost(plan) <= limit and plan.bytes <= most
        assert plan.parameters <= WHOLE.parameters and plan.macs(32) <= WHOLE.macs(32)


def test_without_a_limit_nothing_is_cut() -> None:
    assert candidates(WHOLE, importance(0), TABLE, np.inf, np.inf) == [Selection.all(WHOLE)]


def test_what_cannot_be_met_has_no_candidate_but_a_smallest() -> None:
    assert candidates(WHOLE, importance(0), TABLE, 0.05, np.inf) == []
    least = smallest(WHOLE, importance(0)).plan(WHOLE)
    assert len(least.layers) == 1 and least.layers[0].heads == 1


def test_layers_go_in_the_order_in_which_they_are_missed_least() -> None:
    scores = importance(3)
    for selection in candidates(WHOLE, scores, TABLE, 0.5 * TABLE.cost(WHOLE), np.inf):
        kept = {layer.layer for layer in selection.layers}
        assert set(range(DEPTH)) - kept == set(scores.removed[: DEPTH - len(kept)])


def test_what_matters_most_is_kept() -> None:
    scores = importance(5)
    selection = narrow(WHOLE, list(range(DEPTH)), scores, TABLE, 0.8 * TABLE.cost(WHOLE), np.inf)
    assert selection is not None and selection != Selection.all(WHOLE)
    for kept in selection.layers:
        gone = set(range(HEADS)) - set(kept.heads)
        if kept.heads and gone:
            assert min(scores.heads[kept.layer][list(kept.heads)]) >= max(scores.heads[kept.layer][list(gone)])


def test_the_last_layer_has_costs_of_its_own() -> None:
    two = WHOLE.with_layers((Layer(6, 256), Layer(6, 256)))
    assert TABLE.cost(two) == pytest.approx(0.1 + 0.18 + 0.07)
    assert TABLE.cost(WHOLE.with_layers(())) == pytest.approx(0.1)


# -- by parts ----------------------------------------------------------------------------------------------------

PARTS = st.floats(0, 1)


@st.composite
def uneven(draw: st.DrawFn) -> Blueprint:
    """Layers that differ, from 0 heads and 0 neurons up."""
    layers = draw(st.lists(st.builds(Layer, st.integers(0, 6), st.integers(0, 40)), min_size=1, max_size=4))
    return WHOLE.with_layers(tuple(layers))


def assert_the_most_important(kept: list[tuple[int, ...]], scores: list[np.ndarray], part: float, group: int) -> None:
    """So many of them all, but for less than a group; and in each layer none that is less important than one that is gone."""
    wanted = round(part * sum(map(len, scores)))
    assert wanted - group < sum(map(len, kept)) <= wanted
    for numbers, each in zip(kept, scores, strict=True):
        assert list(numbers) == sorted(set(numbers))
        gone = np.delete(each, numbers)
        assert not numbers or not len(gone) or each[list(numbers)].min() >= gone.max()


@given(uneven(), st.integers(0, 99), PARTS, PARTS, st.booleans())
def test_parts_are_kept_of_what_matters_most(blueprint: Blueprint, seed: int, heads: float, neurons: float, per_layer: bool) -> None:
    scores, layers = importance(seed, blueprint), list(range(0, len(blueprint.layers), 2))
    selection = by_parts(blueprint, layers, scores, heads, neurons, per_layer)
    assert [kept.layer for kept in selection.layers] == layers
    selection.plan(blueprint)
    for part, group, kept, each in (
        (heads, 1, [layer.heads for layer in selection.layers], [scores.heads[i] for i in layers]),
        (neurons, FINE_GROUP, [layer.neurons for layer in selection.layers], [scores.neurons[i] for i in layers]),
    ):
        for i in range(len(layers)) if per_layer else ():
            assert_the_most_important([kept[i]], [each[i]], part, group)
        if not per_layer:
            assert_the_most_important(kept, each, part, group)


@given(st.integers(0, 99), PARTS)
def test_over_all_layers_the_most_important_heads_are_kept(seed: int, part: float) -> None:
    scores = importance(seed)
    selection = by_parts(WHOLE, list(range(DEPTH)), scores, part, 1.0)
    kept = sorted(scores.heads[layer.layer][head] for layer in selection.layers for head in layer.heads)
    assert kept == sorted(np.concatenate(scores.heads))[DEPTH * HEADS - len(kept) :]


@given(uneven(), st.integers(0, 99), st.booleans())
def test_all_parts_are_everything_and_none_nothing(blueprint: Blueprint, seed: int, per_layer: bool) -> None:
    layers, scores = list(range(len(blueprint.layers))), importance(seed, blueprint)
    assert by_parts(blueprint, layers, scores, 1.0, 1.0, per_layer) == Selection.all(blueprint)
    assert by_parts(blueprint, layers, scores, 0.0, 0.0, per_layer).plan(blueprint).layers == (Layer(0, 0),) * len(layers)


@given(uneven(), st.integers(0, 99), PARTS, st.booleans())
def test_evenly_keeps_the_largest_part_within_the_limit(blueprint: Blueprint, seed: int, part: float, per_layer: bool) -> None:
    layers, scores, table = list(range(len(blueprint.layers))), importance(seed, blueprint), Macs(blueprint, 9)
    limit = part * table.cost(blueprint)
    found = evenly(blueprint, layers, scores, table, limit, per_layer)
    assert found is not None and table.cost(found.plan(blueprint)) <= limit
    for i in range(201):
        rival = by_parts(blueprint, layers, scores, i / 200, i / 200, per_layer)
        assert table.cost(rival.plan(blueprint)) <= table.cost(found.plan(blueprint)) or table.cost(rival.plan(blueprint)) > limit


def test_evenly_may_find_nothing() -> None:
    assert evenly(WHOLE, list(range(DEPTH)), importance(0), TABLE, 0.15) is None  # the base and empty blocks alone are 0.18


# -- multiply-accumulates ----------------------------------------------------------------------------------------


@given(blueprints(min_layers=1), st.integers(1, 12), st.data())
def test_the_table_of_macs_is_the_blueprints(blueprint: Blueprint, length: int, data: st.DataObject) -> None:
    drawn = [(data.draw(st.integers(0, layer.heads)), data.draw(st.integers(0, layer.neurons))) for layer in blueprint.layers]
    fewer = [replace(layer, heads=heads, neurons=neurons) for layer, (heads, neurons) in zip(blueprint.layers, drawn, strict=True)]
    table = Macs(blueprint, length)
    for number, layer in enumerate(fewer):
        alone = blueprint.with_layers((replace(layer, shares=None),))
        blocks = table.attention(layer, number == 0) + table.feed_forward(layer, number == 0)
        assert blocks == table.cost(alone) == alone.macs(length)
    assert table.cost(blueprint) == sum(table.attention(layer, False) + table.feed_forward(layer, False) for layer in blueprint.layers)
