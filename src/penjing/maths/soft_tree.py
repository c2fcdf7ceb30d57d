"""A soft decision tree: every inner node turns right with some probability, every leaf has a distribution (Frosst & Hinton 2017).

The nodes of a full tree of depth d are in heap order: root 0, the children of i are 2i + 1 (left) and 2i + 2 (right); I = 2^d - 1 inner
nodes, L = 2^d leaves. B texts, C classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def reaching(p: Float[Tensor, "B I"]) -> Float[Tensor, "B nodes"]:
    """The probability that a text comes to each node, (B, I + L), from those p (B, I) of turning right (section 2).

    Those of the leaves, the last L, sum to 1.
    """
    level = p.new_ones(len(p), 1)
    levels = [level]
    start = 0
    while start < p.shape[1]:
        right = p[:, start : start + level.shape[1]]
        start += level.shape[1]
        level = torch.stack([level * (1 - right), level * right], dim=2).flatten(1)
        levels.append(level)
    return torch.cat(levels, dim=1)


def leaf_cross_entropy(
    reached: Float[Tensor, "B L"], phi: Float[Tensor, "L C"], targets: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:  # fmt: skip
    """-Σ_l P_l Σ_k T_k log softmax(φ_l)_k, mean over texts: the cross-entropy of each leaf, weighted by its path probability (section 3)."""
    return -(reached * (targets @ F.log_softmax(phi, dim=-1).T)).sum(-1).mean()


def mixture(reached: Float[Tensor, "B L"], phi: Float[Tensor, "L C"]) -> Float[Tensor, "B C"]:
    """log Σ_l P_l softmax(φ_l): the answer, the leaves' distributions weighted by their path probabilities (section 2)."""
    return (reached @ phi.softmax(-1)).clamp_min(1e-12).log()


def imbalance(alpha: Float[Tensor, " I"]) -> Float[Tensor, ""]:
    """-Σ_i 2^-d (log α_i + log(1 - α_i))/2, d the depth of node i and α_i the part of its texts that turns right: least where each
    node sends half of them either way (section 3, without λ)."""
    alpha = alpha.clamp(1e-6, 1 - 1e-6)
    decay = torch.exp2(-depths(len(alpha)).to(alpha))
    return -(decay * (alpha.log() + (1 - alpha).log()) / 2).sum()


def depths(inner: int) -> Float[Tensor, " I"]:
    """The depth of each inner node (I,)."""
    return torch.arange(1, inner + 1).float().log2().floor()
