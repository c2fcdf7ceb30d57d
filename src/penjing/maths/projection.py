"""Random projections of a table, and the map that lifts the projected rows back.

Letters: W (V, E) a table, a row for each token; λ (V,) ≥ 0 how much the error of each row counts; r ≤ E the rank; P (E, r) the
projection, drawn at random and independent of W.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from penjing.maths.lowrank import second_moments

Kind = Literal["gaussian", "sparse"]
KINDS = get_args(Kind)


def projection(width: int, rank: int, kind: Kind, generator: torch.Generator) -> Float64[Tensor, "E r"]:
    """P (E, r), E[P·Pᵀ] = I: lengths and inner products are kept on average (Johnson & Lindenstrauss 1984).

    gaussian: independent N(0, 1/r). sparse: ±√(3/r) with a probability of 1/6 each, else 0 (Achlioptas 2003, theorem 1.1).
    """
    if kind == "gaussian":
        return torch.randn(width, rank, generator=generator, dtype=torch.float64) / rank**0.5
    draw = torch.randint(6, (width, rank), generator=generator)
    return ((draw == 0).double() - (draw == 1).double()) * (3 / rank) ** 0.5


def lifted(
    W: Float[Tensor, "V E"], importance: Float[Tensor, " V"], P: Float64[Tensor, "E r"]
) -> tuple[Float[Tensor, "V r"], Float[Tensor, "r E"]]:
    """A = W·P (V, r) and the B (r, E) of the least Σᵢ λᵢ·‖wᵢ - aᵢ·B‖²; at r = E with a P of full rank A·B is W.

    B = (Pᵀ·M·P)⁺·Pᵀ·M with M = Wᵀ·diag(λ)·W, so that W is read once.
    """
    M = second_moments(W, importance)
    B = torch.linalg.lstsq(P.T @ M @ P, P.T @ M, driver="gelsd").solution
    return W @ P.to(W.dtype), B.to(W.dtype)
