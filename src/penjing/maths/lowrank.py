"""The nearest matrix of a rank, in the sense that some rows matter more than others.

Letters: W (V, E) a table, a row for each token; λ (V,) ≥ 0 how much the error of each row counts; r ≤ E the rank.
With D = diag(√λ), the error Σᵢ λᵢ·‖wᵢ - ŵᵢ‖² = ‖D·(W - Ŵ)‖² is least, over all Ŵ of rank r, for Ŵ = W·Q·Qᵀ, where Q are the
right singular vectors of D·W that belong to the r largest singular values, and it is then the sum of the other singular
values squared (Eckart & Young 1936; by rows as in Hsu et al. 2022, FWSVD). As a projection it needs no inverse of D, so that
rows of no weight are taken along too, each to the nearest point that the others leave.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

ROWS = 1 << 14
"""Rows that are summed at once in double precision: the copy stays small where the vocabulary is large."""


def low_rank(
    W: Float[Tensor, "V E"], importance: Float[Tensor, " V"], rank: int
) -> tuple[Float[Tensor, "V r"], Float[Tensor, "r E"]]:  # fmt: skip
    """A (V, r) and B (r, E) with A·B = W·Q·Qᵀ; at r = E that is W.

    A = W·Q·S⁻¹ and B = S·Qᵀ, with S diagonal such that every column of A has the root mean square of W's entries. So no column
    dominates when the rows of A are rounded on one step each, and one learning rate suits A and W alike.
    """
    Q = principal_directions(W, importance, rank).to(W.dtype)
    A = W @ Q
    S = _rms(A, 0) / _rms(W.flatten(), 0)
    S = torch.where(S.isfinite() & (S > 0), S, 1.0)
    return A / S, S[:, None] * Q.T


def principal_directions(W: Float[Tensor, "V E"], importance: Float[Tensor, " V"], rank: int) -> Float64[Tensor, "E r"]:
    """Q (E, r), orthonormal, in double precision: the eigenvectors of Wᵀ·D²·W of the r largest eigenvalues, the largest first."""
    return torch.linalg.eigh(second_moments(W, importance)).eigenvectors.flip(1)[:, :rank]


def second_moments(W: Float[Tensor, "V E"], importance: Float[Tensor, " V"]) -> Float64[Tensor, "E E"]:
    """Wᵀ·D²·W (E, E), in double precision."""
    parts = zip(W.split(ROWS), importance.split(ROWS), strict=True)
    return sum(((w.double() * λ.double()[:, None]).T @ w.double() for w, λ in parts), W.new_zeros(W.shape[1], W.shape[1]).double())


def _rms(x: Tensor, axis: int) -> Tensor:
    return x.square().mean(axis).sqrt()
