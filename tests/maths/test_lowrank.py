"""Laws of the nearest matrix of a rank: exact at full rank, its error is the tail of the spectrum, and no other is nearer."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.maths import lowrank
from penjing.maths.lowrank import low_rank, principal_directions


@st.composite
def tables(draw: Any) -> tuple[Tensor, Tensor]:
    """W (V, E) of any size and scale, also with dependent columns, and λ (V,) with some rows of no weight."""
    V, E = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    W = torch.randn(V, E, generator=random, dtype=torch.float64) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    W[:, draw(st.integers(0, E - 1))] *= draw(st.sampled_from([0.0, 1.0]))
    kept = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=V, max_size=V))
    return W, 10 * torch.rand(V, generator=random, dtype=torch.float64) * torch.tensor(kept, dtype=torch.float64)


def error(W: Tensor, other: Tensor, importance: Tensor) -> float:
    """Σ λᵢ·‖wᵢ - ŵᵢ‖²."""
    return float((importance * (W - other).square().sum(1)).sum())


@given(tables())
def test_full_rank_is_exact(table: tuple[Tensor, Tensor]) -> None:
    W, importance = table
    A, B = low_rank(W, importance, W.shape[1])
    torch.testing.assert_close(A @ B, W, rtol=1e-9, atol=1e-12 * float(W.abs().max()))


@given(tables(), st.data())
def test_the_error_is_the_tail_of_the_singular_values(table: tuple[Tensor, Tensor], data: Any) -> None:
    W, importance = table
    rank = data.draw(st.integers(1, W.shape[1]))
    A, B = low_rank(W, importance, rank)
    assert A.shape == (len(W), rank) and B.shape == (rank, W.shape[1])
    values = np.linalg.svd((importance.sqrt()[:, None] * W).numpy(), compute_uv=False)
    whole = float(np.square(values).sum())
    assert error(W, A @ B, importance) == pytest.approx(float(np.square(values[rank:]).sum()), rel=1e-6, abs=1e-9 * whole)


@given(tables(), st.data(), st.integers(0, 999))
def test_no_other_matrix_of_the_rank_is_nearer(table: tuple[Tensor, Tensor], data: Any, seed: int) -> None:
    W, importance = table
    rank = data.draw(st.integers(1, W.shape[1]))
    A, B = low_rank(W, importance, rank)
    random = torch.Generator().manual_seed(seed)
    other = B + 0.1 * float(B.abs().max()) * torch.randn(B.shape, generator=random, dtype=B.dtype)
    best = torch.linalg.lstsq(other.T, W.T, driver="gelsd").solution.T  # what A would be for these rows
    assert error(W, A @ B, importance) <= error(W, best @ other, importance) + 1e-9 * float(W.square().sum())


@given(tables(), st.data())
def test_rows_of_no_weight_are_as_near_as_the_others_leave_room(table: tuple[Tensor, Tensor], data: Any) -> None:
    W, importance = table
    A, B = low_rank(W, importance, data.draw(st.integers(1, W.shape[1])))
    # The residue of every row is orthogonal to all that the rows of B span.
    torch.testing.assert_close((W - A @ B) @ B.T, torch.zeros_like(A), rtol=0, atol=1e-9 * float(W.square().max()))


@given(tables(), st.data())
def test_every_column_of_the_table_is_as_large_as_the_whole_one(table: tuple[Tensor, Tensor], data: Any) -> None:
    W, importance = table
    A, _ = low_rank(W, importance, data.draw(st.integers(1, W.shape[1])))
    sizes, size = A.square().mean(0).sqrt(), W.square().mean().sqrt()
    assert all(x == pytest.approx(float(size), rel=1e-6) or x < 1e-6 * size for x in sizes.tolist())


def test_it_takes_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    W, importance = torch.randn(11, 4, generator=random), torch.rand(11, generator=random)
    whole = principal_directions(W, importance, 4)
    torch.testing.assert_close(whole.T @ whole, torch.eye(4, dtype=torch.float64))
    monkeypatch.setattr(lowrank, "ROWS", 3)
    parts = principal_directions(W, importance, 4)
    torch.testing.assert_close((whole.T @ parts).abs(), torch.eye(4, dtype=torch.float64))  # a direction has no sign
