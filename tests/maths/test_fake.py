"""Rounding in training: the values are those of the export's arithmetic, the gradients those of the formulas."""

import numpy as np
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
def test_tanh_keeps_order_signs_and_the_largest(w: np.ndarray) -> None:
    t = torch.from_numpy(w)
    n = fake.tanh_normalised(t)
    torch.testing.assert_close(n.abs().max(), t.abs().max())
    assert torch.equal(n.sign(), t.sign())
    assert torch.all(n.abs() >= t.abs() * (1 - 1e-5))
    flat, order = t.flatten().sort()
    assert torch.all(n.flatten()[order].diff() >= 0) and len(flat)


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
