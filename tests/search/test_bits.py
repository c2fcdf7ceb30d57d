"""Bits under a budget: within it always, as good as the best there is on a hull, and never worse for more bytes."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penjing.errors import InputError
from penjing.maths.stored import Scheme, quantize
from penjing.model.packing import pack
from penjing.search.bits import Costs, allot, harm, table

Table = dict[str, dict[int, tuple[int, float]]]
OPTIONS = st.dictionaries(st.integers(1, 8), st.tuples(st.integers(1, 60), st.floats(0, 10)), min_size=1, max_size=4)
TABLES = st.dictionaries(st.sampled_from("abcd"), OPTIONS, min_size=1, max_size=4)


def bytes_of(costs: Table, chosen: dict[str, int]) -> int:
    return sum(costs[name][bits][0] for name, bits in chosen.items())


def error_of(costs: Table, chosen: dict[str, int]) -> float:
    return sum(costs[name][bits][1] for name, bits in chosen.items())


def least_bytes(costs: Table) -> int:
    return sum(min(size for size, _ in options.values()) for options in costs.values())


def best(costs: Table, budget: float) -> float:
    """The least error of all allotments within the budget."""
    every = (dict(zip(costs, chosen, strict=True)) for chosen in product(*costs.values()))
    return min(error_of(costs, chosen) for chosen in every if bytes_of(costs, chosen) <= budget)


@given(TABLES, st.integers(0, 200))
def test_it_fits_and_no_choice_costs_more_than_it_is_worth(costs: Table, more: int) -> None:
    budget = least_bytes(costs) + more
    chosen = allot(costs, budget)
    assert set(chosen) == set(costs) and bytes_of(costs, chosen) <= budget
    assert allot(costs, budget) == chosen
    for name, bits in chosen.items():  # no other choice of this matrix is as small and better
        size, error = costs[name][bits]
        assert not any(s <= size and e < error for s, e in costs[name].values())


@given(TABLES, st.lists(st.integers(0, 200), min_size=2, max_size=6))
def test_more_bytes_never_give_more_error(costs: Table, more: list[int]) -> None:
    errors = [error_of(costs, allot(costs, least_bytes(costs) + each)) for each in sorted(more)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))


@given(TABLES, st.integers(0, 200))
def test_what_fills_its_budget_is_near_the_best_there_is(costs: Table, more: int) -> None:
    """At the bytes that a whole number of moves takes, nothing is better; elsewhere no more is lost than the largest move saves."""
    budget = least_bytes(costs) + more
    largest = max(max(e for _, e in options.values()) - min(e for _, e in options.values()) for options in costs.values())
    found = error_of(costs, allot(costs, budget))
    assert best(costs, budget) - 1e-9 <= found <= best(costs, budget) + largest + 1e-9


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 9)), min_size=1, max_size=4), st.integers(0, 40))
def test_moves_of_one_size_find_the_best_there_is(matrices: list[tuple[int, float]], more: int) -> None:
    """With equal sizes, each bit saving half of what the one before did, greedy is exact at every budget."""
    costs: Table = {
        str(i): {bits: (7 * bits, weight * 2.0**-bits) for bits in range(1, 1 + most)} for i, (most, weight) in enumerate(matrices)
    }
    budget = least_bytes(costs) + more
    assert error_of(costs, allot(costs, budget)) == pytest.approx(best(costs, budget))


def test_what_the_loss_feels_most_gets_the_bits() -> None:
    def options(s: float) -> Costs[int]:
        return {bits: (100 * bits, s * 4.0**-bits) for bits in (2, 4, 8)}

    assert allot({"calm": options(1), "bent": options(1000)}, 1000) == {"calm": 2, "bent": 8}
    assert allot({"calm": options(1), "bent": options(1)}, 800) == {"calm": 4, "bent": 4}
    assert allot({"calm": options(0), "bent": options(1)}, 10_000) == {"calm": 2, "bent": 8}


def test_too_few_bytes_say_how_many_it_takes() -> None:
    with pytest.raises(InputError, match=r"budget: 1,199 bytes .* take 1,200"):
        allot({"a": {2: (1000, 1.0), 4: (2000, 0.5)}, "b": {2: (200, 1.0)}}, 1199)


def test_a_table_counts_bytes_as_packed_and_harm_as_the_hessian_says() -> None:
    w = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    s = np.array([1.0, 2.0, 0.0, 5.0, 1.0, -3.0])
    schemes = [Scheme("linear", bits, 20) for bits in (2, 4, 8)]
    costs = table({"w": w}, {"w": s}, schemes)["w"]
    for scheme, (size, error) in costs.items():
        coded = quantize(w, scheme)
        assert size == sum(part.nbytes for part in pack({"w": coded})[0].values())
        d = w.double().numpy() - coded.values()
        assert error == pytest.approx(sum(0.5 * max(s[i], 0) * d[i] @ d[i] for i in range(6)))
    assert list(costs) == schemes and sorted(costs.values()) == list(costs.values())
    errors = [error for _, error in costs.values()]
    assert errors == sorted(errors, reverse=True)


def test_harm_is_the_second_order_loss_of_a_quadratic() -> None:
    """½·dᵀ·H·d, where H is diagonal and the same along each row."""
    w, q, s = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32), np.array([2.0, 4.0])
    assert harm(w, q, s) == 0.5 * (3 * 2 + 3 * 4)
    assert harm(w, q, 3.0) == 0.5 * 6 * 3
    assert harm(w, w, s) == 0
