"""Laws of the distillation losses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.maths.losses import soft_kl, state_mse


def draw(seed: int, *shape: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(z: Tensor, t: Tensor, temperature: float) -> Tensor:
    z = z.clone().requires_grad_()
    soft_kl(z, t, temperature).backward()
    assert z.grad is not None
    return z.grad


@given(st.integers(0, 99), st.sampled_from([0.5, 1.0, 2.0, 20.0]))
def test_soft_kl_is_zero_for_equal_distributions_and_positive_else(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5), draw(seed + 1000, 4, 5)
    assert soft_kl(z, z, temperature).abs() < 1e-5
    assert soft_kl(z + 3, z, temperature).abs() < 1e-4
    assert soft_kl(z, t, temperature) > 1e-3


@given(st.integers(0, 99), st.sampled_from([1.0, 2.0, 20.0]))
def test_soft_kl_is_its_definition_and_a_mean_over_rows(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5).double(), draw(seed + 1000, 4, 5).double()
    p, q = torch.softmax(t / temperature, -1), torch.softmax(z / temperature, -1)
    rows = temperature**2 * (p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(soft_kl(z, t, temperature), rows.mean())
    torch.testing.assert_close(soft_kl(z.repeat(3, 1), t.repeat(3, 1), temperature), rows.mean())


@given(st.integers(0, 99), st.sampled_from([1.0, 4.0]))
def test_the_gradient_is_the_difference_of_the_distributions(seed: int, temperature: float) -> None:
    z, t = draw(seed, 4, 5).double(), draw(seed + 1000, 4, 5).double()
    expected = temperature * (torch.softmax(z / temperature, -1) - torch.softmax(t / temperature, -1)) / len(z)
    torch.testing.assert_close(gradient(z, t, temperature), expected)


@given(st.integers(0, 99))
def test_the_temperature_keeps_the_scale_of_the_gradient(seed: int) -> None:
    t = draw(seed, 8, 4, size=0.3)
    z = t + draw(seed + 1000, 8, 4, size=0.05)
    ratio = gradient(z, t, 20.0).norm() / gradient(z, t, 1.0).norm()
    assert 0.8 < ratio < 1.25


@given(st.integers(0, 99), st.sampled_from([0.01, 1.0, 100.0]))
def test_state_mse_is_zero_for_equal_and_blind_to_scale(seed: int, size: float) -> None:
    g, h = draw(seed, 6, 8), draw(seed + 1000, 6, 8)
    assert state_mse(g, g) == 0
    torch.testing.assert_close(state_mse(size * h, size * g), state_mse(h, g))
    torch.testing.assert_close(state_mse(torch.zeros_like(g), g), torch.tensor(1.0))


def test_state_mse_falls_on_gradient_steps() -> None:
    g, h = draw(1, 6, 8), draw(2, 6, 8).requires_grad_()
    losses = []
    for _ in range(20):
        loss = state_mse(h, g)
        losses.append(loss.item())
        (step,) = torch.autograd.grad(loss, h)
        h = (h - 5 * step).detach().requires_grad_()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 * losses[0]


def test_state_mse_of_a_teacher_of_zeros_is_finite() -> None:
    assert torch.isfinite(state_mse(draw(1, 6, 8), torch.zeros(6, 8)))


@pytest.mark.parametrize("loss", [soft_kl, state_mse])
def test_the_teacher_comes_second(loss) -> None:
    student, teacher = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.5]])
    assert loss(student, teacher) != loss(teacher, student)
