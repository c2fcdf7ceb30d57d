"""Least squares from second moments: never worse than nothing, and where no ridge holds it back, the best there is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.maths.repair import best_scales, best_update

RIDGES = st.one_of(st.just(0.0), st.floats(1e-6, 10))


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(a: Tensor, R: Tensor, D: Tensor) -> float:
    return float((R - a @ D.T).square().sum())


def least(X: Tensor, Y: Tensor) -> float:
    """The least squared error of Y by a linear map of X."""
    return float(np.square(Y.numpy() - X.numpy() @ np.linalg.lstsq(X.numpy(), Y.numpy())[0]).sum())


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 4), RIDGES, st.floats(1e-3, 10), st.integers(0, 999))
def test_an_update_is_never_worse_than_none(tokens: int, K: int, H: int, ridge: float, scale: float, seed: int) -> None:
    tokens = tokens if ridge else tokens + K  # without a ridge the inputs must be independent
    a, R = scale * random(seed, tokens, K), random(seed + 1, tokens, H)
    D = best_update(a.T @ a, R.T @ a, ridge)
    assert D.shape == (H, K)
    assert error(a, R, D) <= error(a, R, torch.zeros_like(D)) * (1 + 1e-9)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 999))
def test_without_a_ridge_it_is_least_squares(K: int, H: int, seed: int) -> None:
    a, R = random(seed, 20, K), random(seed + 1, 20, H)
    D = best_update(a.T @ a, R.T @ a, 0)
    assert error(a, R, D) == pytest.approx(least(a, R), rel=1e-6)
    # The moments of two halves of the texts add up.
    halves = [(x.T @ x, y.T @ x) for x, y in zip(a.chunk(2), R.chunk(2), strict=True)]
    torch.testing.assert_close(best_update(halves[0][0] + halves[1][0], halves[0][1] + halves[1][1], 0), D)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), RIDGES, st.integers(0, 999))
def test_scales_are_least_squares_with_one_number_per_group(width: int, groups: int, H: int, ridge: float, seed: int) -> None:
    a, R, W = random(seed, 20, groups * width), random(seed + 1, 20, H), random(seed + 2, H, groups * width)
    A, B = a.T @ a, R.T @ a
    scales = best_scales(W, A, B, width, ridge)
    assert scales.shape == (groups,)
    found = error(a, R, W * (scales - 1).repeat_interleave(width))
    assert found <= error(a, R, torch.zeros_like(W)) * (1 + 1e-9)
    if not ridge:
        each = [(a[:, own] @ W[:, own].T).flatten() for own in torch.arange(groups * width).split(width)]
        assert found == pytest.approx(least(torch.stack(each, 1), R.reshape(-1, 1)), rel=1e-6)
        assert found >= error(a, R, best_update(A, B, 0)) * (1 - 1e-9)


def test_inputs_that_are_never_seen_keep_their_weights() -> None:
    A, B, W = torch.zeros(4, 4), torch.zeros(3, 4), torch.ones(3, 4)
    assert not best_update(A, B, 1e-2).any()
    assert best_scales(W, A, B, 2, 1e-2).tolist() == [1, 1]
