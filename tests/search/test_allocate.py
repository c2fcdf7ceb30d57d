"""Allocation: what it plans meets the limits, keeps what matters, and moves no tensor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penjing.blueprint import Blueprint, Layer
from penjing.search.allocate import candidates, narrow, smallest
from penjing.search.costs import CostTable
from penjing.steps.importance import Importance
from penjing.surgery import Selection

DEPTH, HEADS, NEURONS = 4, 6, 256
WHOLE = Blueprint(100, 32, 2, 48, 48, 8, (Layer(HEADS, NEURONS),) * DEPTH, "sequence", 2)
TABLE = CostTable(
    base=0.1,
    heads=[(0, 0.01), (3, 0.05), (6, 0.08)],
    neurons=[(0, 0.01), (128, 0.06), (256, 0.10)],
    last_heads=[(0, 0.01), (6, 0.04)],
    last_neurons=[(0, 0.01), (256, 0.03)],
)


def importance(seed: int) -> Importance:
    random = np.random.default_rng(seed)
    return Importance(
        [random.random(HEADS) for _ in range(DEPTH)],
        [random.random(NEURONS) for _ in range(DEPTH)],
        [int(i) for i in random.permutation(DEPTH)[: DEPTH - 1]],
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
