"""Importance of groups of weights (heads, neurons): one equation, one function.

Letters: a activations, g their gradients, G the gradients of gates, one row per text; F the Fisher information of gates;
W (H, K) the matrix that closes a block, A (K, K) the second moments of its inputs.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def gate_gradients(a: Float[Tensor, "B S W"], g: Float[Tensor, "B S W"], width: int) -> Float[Tensor, "B groups"]:
    """∂L/∂m of a gate m on each group of `width` features, for each text: Σ over its tokens and the group of a·g.

    a: activations, g: their gradients, both (B, S, groups·width) → (B, groups) (Michel et al. 2019, equation 3).
    """
    product = (a * g).sum(1)
    return product.view(product.shape[0], -1, width).sum(-1)


def sensitivity(G: Float[Tensor, "N groups"]) -> Float[Tensor, " groups"]:
    """Mean over texts of |∂L/∂m|, divided by its norm over the layer: (N, groups) → (groups,) (Michel et al. 2019, section 4.1)."""
    mean = G.abs().mean(0)
    return mean / mean.norm().clamp_min(1e-12)


def fisher(G: Float[Tensor, "N groups"]) -> Float[Tensor, " groups"]:
    """Diagonal of the empirical Fisher information: mean over texts of the squared gate gradients.

    (N, groups) → (groups,) (Kwon et al. 2022, equation 8).
    """
    return torch.mean(G.square(), dim=0)


def relative_relevance(R: Float[Tensor, "N groups"]) -> Float[Tensor, " groups"]:
    """Each group's part of the relevance of its layer, mean over texts: (N, groups) → (groups,) (Voita et al. 2019, section 4.1)."""
    part = R.abs()
    return torch.mean(part / part.sum(1, keepdim=True).clamp_min(1e-12), dim=0)


def eliminate(F: Float[Tensor, "groups groups"]) -> Float64[Tensor, " groups"]:
    """Cost of each group when groups go one by one, each time the one that adds least to rᵀFr, r the groups that are gone.

    F (groups, groups) → (groups,), rising in the order of elimination: the order is the cost's. The block Fisher
    information holds what the diagonal leaves out, that two groups may stand in for each other (Kwon et al. 2022,
    section 4.2: there the diagonal's mask is rearranged; here the order holds for every size at once).
    """
    F = F.double()
    added = F.diagonal().clone()
    order = list[int]()
    costs = list[float]()
    for _ in range(len(F)):
        i = int(added.argmin())
        order.append(i)
        costs.append(float(added[i]))
        added += 2 * F[:, i]
        added[i] = torch.inf
    return _rising(order, costs)


def eliminate_by_reconstruction(
    W: Float[Tensor, "H K"], A: Float[Tensor, "K K"], C: Float[Tensor, "H H"], width: int, chunk: int
) -> Float64[Tensor, " groups"]:  # fmt: skip
    """Cost of each group of `width` columns when groups go one by one and what is left takes over what it can.

    The cost of group S is ½·tr(C·W_S·((A⁻¹)_SS)⁻¹·W_Sᵀ), the error that remains after the best correction of the others,
    -W_S·((A⁻¹)_SS)⁻¹·(A⁻¹)_S: (Kurtić et al. 2023, ZipLM, equations 2 and 3, with the outputs weighed by C).

    Args:
        W: (H, K). A: (K, K), positive definite. C: (H, H), second moments of the gradient at the outputs.
        chunk: groups that go at once, the `chunk` cheapest of that moment, each with its share of what they cost together.

    Returns:
        (K / width,), rising in the order of elimination.
    """
    W, inverse = W.double().clone(), torch.linalg.inv(A.double())
    C = C.double()
    left = torch.arange(W.shape[1] // width)
    order, costs = list[int](), list[float]()
    while len(left):
        if width == 1:
            cost = ((C @ W) * W).sum(0) / inverse.diagonal()
        else:
            cost = torch.empty(len(left), dtype=torch.float64)
            for i in range(len(left)):
                own = slice(i * width, (i + 1) * width)
                cost[i] = torch.trace(C @ W[:, own] @ torch.linalg.solve(inverse[own, own], W[:, own].T))
        gone = cost.argsort()[:chunk]
        order += left[gone].tolist()
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[gone] = False
        columns = keep.repeat_interleave(width)
        S = (~columns).nonzero().flatten()
        # Those of a chunk that stand in for each other look free alone: what the chunk costs together is shared out among them.
        together = torch.trace(C @ W[:, S] @ torch.linalg.solve(inverse[S][:, S], W[:, S].T))
        costs += (0.5 * cost[gone] * together / cost[gone].sum().clamp_min(1e-300)).tolist()
        correction = torch.linalg.solve(inverse[S][:, S], inverse[S])
        W, inverse = W - W[:, S] @ correction, inverse - inverse[:, S] @ correction
        W, inverse, left = W[:, columns], inverse[columns][:, columns], left[keep]
    return _rising(order, costs)


def _rising(order: list[int], costs: list[float]) -> Tensor:
    """The costs by number of group, each above the one before: an order of elimination that sorting gives back.

    What a group adds can fall as others go. Groups that cost nothing stay at zero.
    """
    result = torch.zeros(len(order), dtype=torch.float64)
    highest = 0.0
    for i, cost in zip(order, costs, strict=True):
        highest = max(highest * (1 + 1e-9), cost)
        result[i] = highest
    return result
