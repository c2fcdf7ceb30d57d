"""Laws of rounding: at most half a step of error, idempotent, zero exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penjing.maths.rounding import affine, affine_round, symmetric

numbers = st.one_of(st.just(0.0), st.floats(1e-20, 1e20), st.floats(-1e20, -1e-20))


@st.composite
def arrays(draw: st.DrawFn) -> NDArray[np.float32]:
    """Matrices and tensors, with channels of very different size, some of zeros."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    w = np.random.default_rng(draw(st.integers(0, 999))).standard_normal(shape)
    sizes = draw(st.lists(st.sampled_from([0.0, 1e-6, 1.0, 1e6]), min_size=shape[0], max_size=shape[0]))
    return (w * np.reshape(sizes, (-1, *[1] * (len(shape) - 1)))).astype(np.float32)


def spread(scale: NDArray[np.float32], w: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """One scale per channel, in a shape that multiplies `w`."""
    return scale.reshape([-1 if i == axis % w.ndim else 1 for i in range(w.ndim)])


@given(arrays(), st.integers(-3, 2), st.integers(2, 8))
def test_symmetric_is_off_by_half_a_step_at_most(w: NDArray[np.float32], axis: int, bits: int) -> None:
    axis = axis % w.ndim
    q, scale = symmetric(w, axis, bits)
    s = spread(scale, w, axis)
    assert q.dtype == np.int8 and scale.dtype == np.float32
    assert q.shape == w.shape and scale.shape == (w.shape[axis],)
    assert np.abs(q.astype(int)).max() <= 2 ** (bits - 1) - 1
    assert np.all(np.abs(w - s * q) <= 0.5 * s * (1 + 1e-5))


@given(arrays(), st.integers(-3, 2), st.integers(2, 8))
def test_symmetric_is_idempotent(w: NDArray[np.float32], axis: int, bits: int) -> None:
    axis = axis % w.ndim
    q, scale = symmetric(w, axis, bits)
    again, same = symmetric(spread(scale, w, axis) * q, axis, bits)
    np.testing.assert_array_equal(again, q)
    np.testing.assert_allclose(same, scale, rtol=1e-6)


@given(arrays(), st.integers(2, 8))
def test_symmetric_reaches_the_largest_value_of_each_channel(w: NDArray[np.float32], bits: int) -> None:
    q, _ = symmetric(w, 0, bits)
    largest = np.abs(q.reshape(len(w), -1).astype(int)).max(1)
    used = np.abs(w.reshape(len(w), -1)).max(1) > 0
    np.testing.assert_array_equal(largest, used * (2 ** (bits - 1) - 1))


@given(arrays(), st.integers(2, 8))
def test_symmetric_is_odd_and_counts_axes_from_the_end_too(w: NDArray[np.float32], bits: int) -> None:
    q, scale = symmetric(w, w.ndim - 1, bits)
    for other, sign in ((symmetric(w, -1, bits), 1), (symmetric(-w, -1, bits), -1)):
        np.testing.assert_array_equal(other[0], sign * q)
        np.testing.assert_array_equal(other[1], scale)


def test_a_channel_of_zeros_has_a_scale_of_one() -> None:
    q, scale = symmetric(np.array([[0, 2], [0, -4]], np.float32), axis=1)
    np.testing.assert_array_equal(q, [[0, 64], [0, -127]])
    np.testing.assert_allclose(scale, [1, 4 / 127], rtol=1e-6)


@given(numbers, numbers)
def test_affine_keeps_zero_exact_and_every_value_within_half_a_step(a: float, b: float) -> None:
    low, high = sorted((a, b))
    scale, zero = affine(low, high)
    assert scale > 0 and isinstance(zero, np.uint8)
    r = np.linspace(min(low, 0), max(high, 0), 41)
    q = np.clip(np.rint(r / np.float64(scale)) + zero, 0, 255)
    assert np.all(np.abs(np.float64(scale) * (q - zero) - r) <= 0.5 * np.float64(scale) * (1 + 1e-4))
    assert 0 in np.float64(scale) * (np.arange(256) - int(zero))


@pytest.mark.parametrize("low,high,zero", [(0, 1, 0), (-1, 0, 255), (2, 3, 0), (-3, -2, 255), (-1, 1, 128)])
def test_affine_widens_its_range_to_zero(low: float, high: float, zero: int) -> None:
    scale, found = affine(low, high)
    assert found == zero
    assert scale == np.float32((max(high, 0) - min(low, 0)) / 255)


def test_affine_of_nothing_but_zero_does_not_divide_by_it() -> None:
    assert affine(0.0, 0.0) == (np.float32(1), np.uint8(0))


@given(numbers, numbers, st.integers(0, 99))
def test_affine_round_is_idempotent_within_half_a_step_inside_and_clips_outside(a: float, b: float, seed: int) -> None:
    low, high = sorted((a, b))
    scale, zero = affine(low, high)
    r = np.random.default_rng(seed).uniform(-1.5, 1.5, 50) * max(abs(a), abs(b))
    found = affine_round(r, scale, zero)
    np.testing.assert_array_equal(affine_round(found, scale, zero), found)
    first, last = (np.float64(scale) * (q - float(zero)) for q in (0, 255))
    np.testing.assert_array_less(np.abs(found - np.clip(r, first, last)), 0.5 * np.float64(scale) * (1 + 1e-4))
    assert len(np.unique(found)) <= 256
    assert affine_round(np.zeros(1), scale, zero)[0] == 0


def vpmaddubsw(x: NDArray[np.int64], w: NDArray[np.int64]) -> NDArray[np.int64]:
    """x₀w₀ + x₁w₁ of pairs u8·s8 along the last axis, saturated to 16 bits, as x86 has it without VNNI."""
    return np.clip((x * w).reshape(*x.shape[:-1], -1, 2).sum(-1), -(2**15), 2**15 - 1)


@given(arrays(), st.integers(0, 99))
def test_seven_bits_never_saturate_where_pairs_are_added_in_sixteen(w: NDArray[np.float32], seed: int) -> None:
    w = np.repeat(w.reshape(len(w), -1), 2, axis=1)
    q = symmetric(w, 0, bits=7)[0].astype(np.int64)
    for x in (np.full(q.shape, 255), np.random.default_rng(seed).integers(0, 256, q.shape)):
        np.testing.assert_array_equal(vpmaddubsw(x, q).sum(-1), (x * q).sum(-1))


def test_eight_bits_do() -> None:
    q = symmetric(np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], np.float32), 0)[0].astype(np.int64)
    np.testing.assert_array_equal(vpmaddubsw(np.full(q.shape, 255), q)[:, 0], [2**15 - 1, -(2**15), 0])
    assert 2 * 255 * 127 > 2**15 - 1 >= 2 * 255 * 63
