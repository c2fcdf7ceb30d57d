"""The gate gradients are those of explicit gates; elimination is greedy, and its costs are those of brute force."""

from itertools import accumulate
from typing import Any

import pytest
import torch
from conftest import batch, penjing_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.blueprint import Blueprint, Layer
from penjing.maths.importance import (
    eliminate,
    eliminate_by_reconstruction,
    fisher,
    gate_gradients,
    relative_relevance,
    sensitivity,
)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_gate_gradients_are_those_of_gates_of_one(texts: int, tokens: int, groups: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(texts, tokens, groups * width, generator=generator, requires_grad=True)
    w = torch.randn(groups * width, 3, generator=generator)
    gates = torch.ones(texts, groups, requires_grad=True)
    gated = a * gates.repeat_interleave(width, 1)[:, None]
    gated.retain_grad()
    torch.tanh(gated @ w).square().sum().backward()
    assert gates.grad is not None and gated.grad is not None
    torch.testing.assert_close(gate_gradients(a.detach(), gated.grad, width), gates.grad, rtol=1e-4, atol=1e-4)


def test_gate_gradients_of_heads_and_neurons_in_a_model_with_padding() -> None:
    model = penjing_model(Blueprint(40, 16, 2, 12, 12, 4, (Layer(3, 9), Layer(2, 5)), "sequence", 3))
    inputs: dict[str, Any] = batch([16, 5, 9], vocabulary=40, token_types=2)
    labels = torch.tensor([0, 2, 1])
    seen: dict[str, torch.Tensor] = {}
    gates: dict[str, torch.Tensor] = {}

    def gate(name: str, width: int) -> Any:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            x = given[0]
            gates[name] = torch.ones(x.shape[0], x.shape[-1] // width, requires_grad=True)
            x = x * gates[name].repeat_interleave(width, 1)[:, None]
            x.retain_grad()
            seen[name] = x
            return (x,)

        return hook

    widths = {}
    for i, layer in enumerate(model.base_model.layers):
        for name, module, width in ((f"{i} heads", layer.attention.output, 4), (f"{i} neurons", layer.feed_forward.down, 1)):
            module.register_forward_pre_hook(gate(name, width))
            widths[name] = width
    model(**inputs, labels=labels).loss.backward()
    for name, width in widths.items():
        a, g, expected = seen[name], seen[name].grad, gates[name].grad
        assert g is not None and expected is not None and expected.abs().max() > 1e-5
        torch.testing.assert_close(gate_gradients(a.detach(), g, width), expected, rtol=1e-4, atol=1e-6)


def test_fisher_is_the_mean_square_over_texts() -> None:
    torch.testing.assert_close(fisher(torch.tensor([[1.0, -2.0], [3.0, 0.0]])), torch.tensor([5.0, 2.0]))
    assert torch.all(fisher(torch.randn(9, 4)) >= 0)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 5), st.integers(1, 6), st.floats(0.01, 100), st.integers(0, 99))
def test_sensitivity_and_relevance_are_parts_of_their_layer(texts: int, groups: int, scale: float, seed: int) -> None:
    G = random(seed, texts, groups)
    torch.testing.assert_close(sensitivity(scale * G), sensitivity(G))
    assert float(sensitivity(G).norm()) == pytest.approx(1)
    each = torch.logspace(-2, 2, texts, dtype=torch.float64)[:, None]
    torch.testing.assert_close(relative_relevance(scale * each * G), relative_relevance(G))  # each text counts the same
    assert float(relative_relevance(G).sum()) == pytest.approx(1)
    assert sensitivity(0 * G).tolist() == relative_relevance(0 * G).tolist() == [0.0] * groups


# -- elimination -------------------------------------------------------------------------------------------------


def in_order(costs: Tensor, each: list[float]) -> None:
    """Costs in the order of elimination are what each group adds, or just above the one before where it would fall."""
    ascending = costs.sort().values
    assert len(ascending.unique()) == len(costs)
    torch.testing.assert_close(ascending, torch.tensor(list(accumulate(each, max)), dtype=torch.float64), rtol=1e-4, atol=0)


@given(st.integers(1, 7), st.integers(1, 9), st.booleans(), st.integers(0, 999))
def test_elimination_adds_the_least_each_time(groups: int, texts: int, alike: bool, seed: int) -> None:
    G = random(seed, texts, groups)
    G = G.abs() if alike else G
    F, gone, each = G.T @ G / texts, [], []

    def loss(S: list[int]) -> float:
        return float(F[S][:, S].sum())

    costs = eliminate(F)
    for i in costs.argsort().tolist():
        rivals = [loss([*gone, j]) for j in range(groups) if j not in gone]
        assert loss([*gone, i]) == pytest.approx(min(rivals), abs=1e-9)
        each.append(loss([*gone, i]) - loss(gone))
        gone.append(i)
    in_order(costs, each)
    if alike:  # no two gates make up for each other, so what each adds never falls
        assert float(costs.sum()) == pytest.approx(float(F.sum()), rel=1e-4)


def test_elimination_of_independent_groups_is_by_the_diagonal() -> None:
    diagonal = torch.tensor([3.0, 0.0, 1.0, 1e-12, 2.0])
    torch.testing.assert_close(eliminate(torch.diag(diagonal)).float(), diagonal)


def test_of_two_groups_that_stand_in_for_each_other_one_costs_nothing_more() -> None:
    F = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    assert eliminate(F).argsort().tolist() == [2, 0, 1]
    assert eliminate(F)[1] == pytest.approx(1, rel=1e-5)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 999))
def test_reconstruction_eliminates_as_least_squares_says(width: int, groups: int, outputs: int, chunk: int, seed: int) -> None:
    K, N = width * groups, 40
    a = random(seed, N, K) @ random(seed + 1, K, K)  # correlated, so that costs do fall now and then
    W, root = random(seed + 2, outputs, K), random(seed + 3, outputs, outputs)
    A, C = a.T @ a / N, root @ root.T

    def error(gone: list[int]) -> float:
        """What is lost without these groups where the others are refitted."""
        S = torch.zeros(groups, dtype=torch.bool)
        S[gone] = True
        S = S.repeat_interleave(width)
        missing = a[:, S] @ W[:, S].T
        missing = missing - a[:, ~S] @ torch.linalg.lstsq(a[:, ~S], missing).solution
        return 0.5 * float(torch.trace(C @ missing.T @ missing)) / N

    costs = eliminate_by_reconstruction(W, A, C, width, chunk)
    order, gone, each = costs.argsort().tolist(), list[int](), list[float]()
    while len(gone) < groups:
        rivals = {j: error([*gone, j]) - error(gone) for j in range(groups) if j not in gone}
        cheapest = sorted(rivals, key=lambda j: rivals[j])[:chunk]
        assert order[len(gone) : len(gone) + chunk] == cheapest
        together = error(gone + cheapest) - error(gone)
        each += [rivals[j] * together / sum(rivals[i] for i in cheapest) for j in cheapest]
        gone += cheapest
    in_order(costs, each)
    assert error(gone) == pytest.approx(0.5 * float(torch.trace(C @ W @ A @ W.T)))
    # What each adds makes up the whole, and a cost is never below what it adds.
    assert sum(each) == pytest.approx(error(gone))
    assert float(costs.sum()) >= 0.9999 * error(gone)


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_cost_that_falls_does_not_change_the_order(chunk: int) -> None:
    # The output is a + n/2 - a: without a, what is left of it, a + n/2, is worth little.
    A = torch.tensor([[1.25, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    costs = eliminate_by_reconstruction(torch.tensor([[1.0, -1.0, 0.4]]), A, torch.eye(1), 1, chunk)
    assert costs.argsort(stable=True).tolist() == [2, 1, 0]
    assert costs.tolist() == pytest.approx([0.1, 0.1, 0.08], rel=1e-5)
