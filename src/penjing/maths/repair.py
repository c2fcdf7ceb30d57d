"""Least squares for the matrix that closes a block, from sums over the calibration texts alone.

Letters: a (K,) the inputs that are kept and W (H, K) the matrix, R = target - W·a what is missing at the output;
A = Σ a·aᵀ (K, K), B = Σ R·aᵀ (H, K). The error is Σ ‖R - D·a‖² for an update D of W.
"""

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-2
"""Added to the diagonal of second moments, as a part of its mean, before they are inverted (as Frantar et al. 2023, section 3.3)."""


def best_update(A: Float[Tensor, "K K"], B: Float[Tensor, "H K"], ridge: float) -> Float[Tensor, "H K"]:
    """D that minimises Σ ‖R - D·a‖² + λ·‖D‖², λ = `ridge`·mean diagonal of A: the error is never above that of D = 0.

    With what is cut gone from a, and R what it gave, W + D is the optimal-brain-surgeon update (Kurtić et al. 2023,
    ZipLM, equation 2).
    """
    return torch.linalg.solve(ridged(A, ridge), B.T).T


def best_scales(
    W: Float[Tensor, "H K"], A: Float[Tensor, "K K"], B: Float[Tensor, "H K"], width: int, ridge: float
) -> Float[Tensor, " groups"]:  # fmt: skip
    """Scales (K / width,) of the groups of `width` inputs, W·diag(scales): the same least squares with one number per group.

    The mask tuning of Kwon et al. 2022, section 4.3.
    """

    def groups(x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, width).sum(-1)

    M = groups(groups((W.T @ W) * A).T)
    c = groups((W * B).sum(0))
    return 1 + torch.linalg.solve(ridged(M, ridge), c)


def ridged(A: Float[Tensor, "K K"], ridge: float) -> Float[Tensor, "K K"]:
    """A + λ·I, λ = `ridge`·mean diagonal of A: positive definite, with a ridge, even where A is zero."""
    return A + (ridge * A.diagonal().mean().clamp_min(1e-12)) * torch.eye(len(A), dtype=A.dtype)
