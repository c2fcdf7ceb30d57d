"""Hard concrete gates, and the Lagrangian term that holds their expected size to a target.

Letters: log α location, β temperature, γ and ζ the ends that (0, 1) is stretched to, u uniform noise, z the gate.
Source: Louizos et al. 2018, "Learning Sparse Neural Networks through L0 Regularization", sections 2.2 and 2.3.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""The values of section 4."""


def sample(log_alpha: Float[Tensor, "..."], u: Float[Tensor, "*drawn"]) -> Float[Tensor, "..."]:
    """z = min(1, max(0, s(ζ - γ) + γ)), s = σ((log u - log(1 - u) + log α) / β); u in (0, 1) (equations 10 and 11).

    `log_alpha` and `u` broadcast.
    """
    return _hard(torch.sigmoid((torch.logit(u) + log_alpha) / BETA))


def deterministic(log_alpha: Float[Tensor, "*gates"]) -> Float[Tensor, "*gates"]:
    """ẑ = min(1, max(0, σ(log α)(ζ - γ) + γ)): the gate when training is over (equation 13)."""
    return _hard(torch.sigmoid(log_alpha))


def open_probability(log_alpha: Float[Tensor, "*gates"]) -> Float[Tensor, "*gates"]:
    """P(z ≠ 0) = σ(log α - β log(-γ / ζ)) (equation 12)."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def lagrangian(s: Float[Tensor, ""], t: Float[Tensor, ""], lambda1: Float[Tensor, ""], lambda2: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """λ₁(s - t) + λ₂(s - t)²: s the expected size, t its target; the multipliers ascend (Wang et al. 2020, section 3)."""
    return lambda1 * (s - t) + lambda2 * (s - t).square()


def _hard(s: Tensor) -> Tensor:
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
