"""Rounding in training: the values are those of the export's arithmetic, the gradients those of the formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from penjing.maths import fake, rounding

matrices = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-8, 8, width=16))
bits = st.integers(2, 8)


@given(matrices, bits)
def test_rows_are_rounded_as_they_are_exported(w: np.ndarray, bits: int) -> None:
    q, scale = rounding.symmetric(w, axis=0, bits=bits)
    found = fake.symmetric_rows(torch.from_numpy(w), bits)
    np.testing.assert_array_equal(found.numpy(), scale[:, None] * q)


@given(matrices, st.floats(-9, 2, width=16), st.floats(-2, 9, width=16), bits)
def test_activations_are_rounded_as_they_are_exported(x: np.ndarray, low: float, high: float, bits: int) -> None:
    scale, zero = rounding.affine(low, high, bits)
    levels = 2**bits - 1
    q = np.clip(np.rint(x / scale) + np.float32(zero), 0, levels)
    t = torch.from_numpy(x).requires_grad_()
    found = fake.affine(t, float(scale), int(zero), bits)
    np.testing.assert_array_equal(found.detach().numpy(), (q - np.float32(zero)) * scale)
    slope = torch.rand(t.shape)
    found.backward(slope)
    inside = np.rint(x / scale) + np.float32(zero) == q
    np.testing.assert_array_equal(t.grad.numpy(), slope.numpy() * inside)


@given(matrices, bits)
def test_rounding_what_is_rounded_changes_nothing_beyond_float_noise(w: np.ndarray, bits: int) -> None:
    once = fake.symmetric_rows(torch.from_numpy(w), bits)
    torch.testing.assert_close(fake.symmetric_rows(once, bits), once)


def test_half_precision_is_rounded_in_single() -> None:
    x = torch.linspace(-3, 3, 50, dtype=torch.bfloat16).requires_grad_()
    y = fake.affine(x, 0.02, 128)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, fake.affine(x.detach().float(), 0.02, 128), rtol=0, atol=0)
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16


def test_straight_through_has_the_rounded_values_and_a_gradient_of_one() -> None:
    x = torch.randn(4, 5, requires_grad=True)
    y = fake.straight_through(x, x.detach().round())
    assert torch.equal(y, x.round())
    slope = torch.randn(4, 5)
    y.backward(slope)
    assert x.grad is not None and torch.equal(x.grad, slope)


def test_the_sign_takes_two_values_and_learns_scale_and_threshold() -> None:
    x = torch.tensor([-2.0, -0.4, 0.25, 0.5, 3.0], requires_grad=True)
    alpha, beta = torch.tensor(0.5, requires_grad=True), torch.tensor(0.25, requires_grad=True)
    y = fake.sign(x, alpha, beta)
    assert y.tolist() == [-0.5, -0.5, 0.5, 0.5, 0.5]
    g = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    y.backward(g)
    u = (x.detach() - 0.25) / 0.5
    inside = (u.abs() <= 1).float()  # only the third and fourth
    assert x.grad is not None and alpha.grad is not None and beta.grad is not None
    torch.testing.assert_close(x.grad, g * inside)
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0])
    torch.testing.assert_close(alpha.grad, (g * (signs - u * inside)).sum() / 5**0.5)
    torch.testing.assert_close(beta.grad, -(g * inside).sum() / 5**0.5)


@given(matrices)
def test_tanh_keeps_order_signs_and_the_size(w: np.ndarray) -> None:
    """Whatever the weights' size: those of a BERT are near 0.06, where tanh by itself hardly bends."""
    t = torch.from_numpy(w)
    unit, gain = fake.squash_scales(t)
    n = fake.squashed(t, unit, gain)
    torch.testing.assert_close(torch.sum(n * n), torch.sum(n * t), rtol=1e-4, atol=1e-6)  # what is left over is at right angles
    assert torch.all(n.sign() == t.sign()) or (t.abs() < 1e-30).any()
    assert torch.all(n.flatten()[t.flatten().argsort()].diff() >= 0)
    small = fake.squashed(t / 64, *fake.squash_scales(t / 64))
    torch.testing.assert_close(64 * small, n, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(unit, t.square().mean().sqrt() if t.any() else torch.tensor(1.0))


@given(matrices, st.integers(1, 4))
def test_activations_in_even_levels_are_the_quantize_k_of_the_paper(x: np.ndarray, bits: int) -> None:
    low, high, t = -1.5, 3.0, 2**bits - 1
    u = np.clip((x.astype(np.float64) - low) / (high - low), 0, 1)
    expected = low + (high - low) * np.rint(t * u) / t
    away = np.abs(t * u % 1 - 0.5) > 1e-4  # of a tie
    r = torch.from_numpy(x).requires_grad_()
    found = fake.clipped_even(r, low, high, bits)
    np.testing.assert_allclose(found.detach().numpy()[away], expected[away], atol=1e-5)
    np.testing.assert_allclose(rounding.even_round(x, low, high, bits)[away], expected[away], atol=1e-5)
    assert len(found.unique()) <= 2**bits
    found.sum().backward()
    np.testing.assert_array_equal(r.grad.numpy(), (x >= low) & (x <= high))
    if bits == 1:
        assert {round(v, 5) for v in found.detach().flatten().tolist()} <= {low, high}


@given(matrices)
def test_row_signs_are_signs_times_the_mean_of_the_row(x: np.ndarray) -> None:
    r = torch.from_numpy(x).requires_grad_()
    y = fake.row_signs(r)
    K = r.detach().abs().mean(-1, keepdim=True)
    assert torch.equal(y.detach(), torch.where(r.detach() >= 0, K, -K).expand_as(y))
    slope = torch.rand(y.shape)
    y.backward(slope)
    torch.testing.assert_close(r.grad, slope * (r.detach().abs() <= K))


# -- learned ranges ----------------------------------------------------------------------------------------------


@given(matrices, st.floats(-9, -0.125, width=16), st.floats(0.125, 9, width=16), bits)
def test_a_learned_range_has_the_values_of_the_exported_one(x: np.ndarray, low: float, high: float, bits: int) -> None:
    scale, zero = rounding.affine(low, high, bits)
    r, again = (torch.from_numpy(x).requires_grad_() for _ in range(2))
    found = fake.learned_affine(r, torch.tensor(low), torch.tensor(high), bits)
    expected = fake.affine(again, float(scale), int(zero), bits)
    assert torch.equal(found.detach(), expected.detach()) and len(found.unique()) <= 2**bits
    found.sum().backward()
    expected.sum().backward()
    assert torch.equal(r.grad, again.grad)


@given(st.integers(0, 99), st.integers(2, 8))
def test_the_gradient_of_a_range_is_that_of_the_formula_with_rounding_passed_through(seed: int, bits: int) -> None:
    """By finite differences of the same function with each rounding's remainder as a constant: x + S·r inside, an end outside."""
    generator = torch.Generator().manual_seed(seed)
    x, g = torch.randn(40, 25, generator=generator), torch.randn(40, 25, generator=generator)
    ends = torch.tensor([-1.25, 2.0], dtype=torch.float64)
    n = 2**bits - 1
    S, zero = rounding.affine(float(ends[0]), float(ends[1]), bits)
    v = x.double() / float(S)
    q = v.round()
    inside, above = (q >= -int(zero)) & (q <= n - int(zero)), q > n - int(zero)

    def loss(low: float, high: float) -> float:
        ends = torch.where(above, torch.tensor(high, dtype=torch.float64), torch.tensor(low, dtype=torch.float64))
        smooth = torch.where(inside, x.double() + (high - low) / n * (q - v), ends)
        return float((g * smooth).sum())

    low, high = (end.float().requires_grad_() for end in ends)
    fake.learned_affine(x, low, high, bits).backward(g)
    step = 1e-4
    for found, other in ((low, (step, 0.0)), (high, (0.0, step))):
        a, b = (loss(float(ends[0]) + sign * other[0], float(ends[1]) + sign * other[1]) for sign in (1, -1))
        assert found.grad is not None
        torch.testing.assert_close(
            found.grad.double() * (x.numel() * n) ** 0.5, torch.tensor((a - b) / (2 * step), dtype=torch.float64), rtol=1e-3, atol=1e-3
        )


# -- gradients of few bits ---------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(0, 99))
def test_a_rounded_gradient_has_few_values_and_the_largest_as_it_is(bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, 4, 5, requires_grad=True)
    g = torch.randn(3, 4, 5)
    y = fake.rounded_gradient(x, bits)
    assert torch.equal(y, x)
    y.backward(g)
    assert x.grad is not None
    for found, given_ in zip(x.grad, g, strict=True):  # each text has a scale of its own
        m = given_.abs().max()
        codes = (found / (2 * m) + 0.5) * (2**bits - 1)
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
        assert len(codes.round().unique()) <= 2**bits
        torch.testing.assert_close(found.abs().max(), m)
        assert torch.all((found - given_).abs() <= 2 * m / (2**bits - 1) * (1 + 1e-5))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_mean_of_many_rounded_gradients_is_the_gradient(bits: int) -> None:
    torch.manual_seed(0)
    g = torch.randn(2, 9)
    draws = 4000
    x = torch.zeros(draws, 2, 9, requires_grad=True)
    m = g.abs().amax()
    together = g.expand(draws, 2, 9)
    fake.rounded_gradient(x, bits).backward(together)
    assert x.grad is not None
    off = (x.grad.mean(0) - g).abs()
    deviation = m / (2**bits - 1)  # of one rounding, at most: half a step of 2m/t
    assert torch.all(off <= 5 * deviation / draws**0.5)


def test_a_gradient_of_zeros_stays_zero() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    fake.rounded_gradient(x, 2).backward(torch.zeros(2, 3))
    assert x.grad is not None and not x.grad.any()


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(0, 99))
def test_a_table_is_looked_up_and_its_gradient_is_summed_by_cluster(entries: int, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, entries, (rows, columns), generator=generator)
    table = torch.randn(entries, generator=generator, requires_grad=True)
    slope = torch.randn(rows, columns, generator=generator)
    found = fake.looked_up(table, index.int())
    assert torch.equal(found, table[index])
    found.backward(slope)
    assert table.grad is not None
    torch.testing.assert_close(table.grad, torch.stack([slope[index == k].sum() for k in range(entries)]))
