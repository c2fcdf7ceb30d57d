"""Importance of gates from the gradients that reach them."""

import torch
from torch import Tensor


def gate_gradients(a: Tensor, g: Tensor, width: int) -> Tensor:
    """∂L/∂m of a gate m on each group of `width` features, for each text: Σ over its tokens and the group of a·g.

    a: activations, g: their gradients, both (B, S, groups·width) → (B, groups) (Michel et al. 2019, equation 3).
    """
    product = (a * g).sum(1)
    return product.view(product.shape[0], -1, width).sum(-1)


def fisher(gradients: Tensor) -> Tensor:
    """Diagonal of the empirical Fisher information: mean over texts of the squared gate gradients.

    (N, groups) → (groups,) (Kwon et al. 2022, equation 8).
    """
    return torch.mean(gradients.square(), dim=0)
