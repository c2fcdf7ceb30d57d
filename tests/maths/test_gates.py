"""Laws of hard concrete gates and of the Lagrangian term."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penjing.maths.gates import deterministic, lagrangian, open_probability, sample

LOG_ALPHAS = st.floats(-8, 8)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(LOG_ALPHAS, st.integers(0, 99))
def test_a_sample_is_within_0_and_1_and_rises_with_the_noise(log_alpha: float, seed: int) -> None:
    z = sample(torch.tensor(log_alpha), noise(1000, seed).sort().values)
    assert ((z >= 0) & (z <= 1)).all()
    assert (z.diff() >= 0).all()


@pytest.mark.parametrize("log_alpha", [-4.0, -1.6, 0.0, 1.0, 3.0])
def test_the_probability_of_being_open_is_the_frequency(log_alpha: float) -> None:
    log_alphas = torch.tensor(log_alpha, dtype=torch.float64)
    z = sample(log_alphas, noise(400_000))
    assert (z > 0).double().mean() == pytest.approx(float(open_probability(log_alphas)), abs=4e-3)
    assert (z == 1).any() and (z == 0).any() and ((z > 0) & (z < 1)).any()


@given(LOG_ALPHAS, LOG_ALPHAS)
def test_value_and_probability_rise_with_log_alpha(a: float, b: float) -> None:
    pair = torch.tensor(sorted([a, b]), dtype=torch.float64)
    low, high = deterministic(pair)
    assert 0 <= low <= high <= 1
    low, high = open_probability(pair)
    assert 0 < low <= high < 1


def test_a_gate_can_be_surely_closed_and_surely_open() -> None:
    ends = torch.tensor([-torch.inf, torch.inf])
    assert deterministic(ends).tolist() == open_probability(ends).tolist() == [0.0, 1.0]
    assert deterministic(torch.tensor([-2.5, 2.5])).tolist() == [0.0, 1.0]
    assert float(deterministic(torch.tensor(0.0))) == pytest.approx(0.5)


@given(LOG_ALPHAS, st.floats(0.01, 0.99))
def test_the_gradient_reaches_a_gate_that_is_not_at_an_end(log_alpha: float, u: float) -> None:
    location = torch.tensor(log_alpha, dtype=torch.float64, requires_grad=True)
    z = sample(location, torch.tensor(u, dtype=torch.float64))
    z.backward()
    assert location.grad is not None
    assert (location.grad > 0) == (0 < z.item() < 1)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-9, 9), st.floats(0, 9))
def test_the_lagrangian_is_zero_at_the_target_alone_and_ascends_towards_it(s: float, t: float, first: float, second: float) -> None:
    size, target, lambda1, lambda2 = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (s, t, first, second))
    assert lagrangian(target, target, lambda1, lambda2).item() == 0
    value = lagrangian(size, target, lambda1, lambda2)
    assert value.item() == pytest.approx(first * (s - t) + second * (s - t) ** 2)
    value.backward()
    assert lambda1.grad is not None and lambda1.grad.item() == pytest.approx(s - t)
