"""Second derivatives of a loss without the Hessian itself: its products, its trace, its largest eigenvalue.

Letters: w the parameters, g = ∂L/∂w, H = ∂²L/∂w², and v a direction in w. A block of H belongs to some of the entries of w,
a matrix or some of its rows; what lies between blocks is left out (Dong et al. 2020, HAWQ-V2, section 3).

The Gauss-Newton part of H is Σ Jᵀ(diag(p) - ppᵀ)J over what is labelled, J = ∂z/∂w, z the logits (C,) and p = softmax(z):
for cross-entropy the Fisher information, never negative (Kunstner et al. 2019, section 2; Schraudolph 2002).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Sequence[Tensor]], list[Tensor]]
"""v → H·v, both as tensors of the parameters' shapes."""


def product_of(loss: Float[Tensor, ""], w: Sequence[Float[Tensor, "..."]]) -> Product:
    """v → H·v = ∂(gᵀv)/∂w (Pearlmutter 1994, section 2, by a second backward pass) of a loss that depends on w.

    The graph is kept, so that many products share it, until the function is dropped. Every operation must have a second
    derivative: fused attention has none.
    """
    g = torch.autograd.grad(loss, w, create_graph=True, materialize_grads=True)

    def product(v: Sequence[Tensor]) -> list[Tensor]:
        along = sum(((gradient * part).sum() for gradient, part in zip(g, v, strict=True)), torch.zeros(()))
        if not along.requires_grad:  # the loss is linear in w
            return [torch.zeros_like(part) for part in v]
        return list(torch.autograd.grad(along, w, retain_graph=True, materialize_grads=True))

    return product


def row_traces(
    product: Product, w: Sequence[Float[Tensor, "..."]], probes: int, generator: torch.Generator
) -> list[Float[Tensor, " _"]]:  # fmt: skip
    """Estimates of the trace of H over each row (all axes but the first) of each parameter: (rows,) per parameter.

    The mean over `probes` of v ⊙ H·v, v of random signs in all parameters at once (Hutchinson 1990; Yao et al. 2020,
    PyHessian, section 3): E[vᵢ·(H·v)ᵢ] = Hᵢᵢ, so one product serves every block, and a block's trace is the sum of its
    rows'. It is exact where H is diagonal; elsewhere the variance of an entry is Σ_{j≠i} Hᵢⱼ² / probes.
    """
    totals = [torch.zeros(len(part)) for part in w]
    for _ in range(probes):
        v = [torch.randint(0, 2, part.shape, generator=generator, dtype=part.dtype).mul_(2).sub_(1) for part in w]
        for total, part, Hv in zip(totals, v, product(v), strict=True):
            total += (part * Hv).flatten(1).sum(1)
    return [total / probes for total in totals]


def top_eigenvalue(
    product: Callable[[Tensor], Tensor], v: Float[Tensor, "..."], iterations: int = 50, tolerance: float = 1e-2
) -> float:  # fmt: skip
    """The eigenvalue λ of largest magnitude, with its sign, of the block of H where the start `v` is not zero.

    Power iteration v ← H·v / ‖H·v‖ (Q-BERT, Shen et al. 2020, section 3.1) with λ = vᵀH·v, until ‖H·v - λ·v‖ ≤ `tolerance`·|λ|:
    then an eigenvalue lies as near. Before that, |λ| is at most that of the top one.
    """
    block = (v != 0).to(v.dtype)
    value = 0.0
    for _ in range(iterations):
        v = v / v.norm()
        Hv = block * product(v)
        value = float((v * Hv).sum())
        if not Hv.any() or float((Hv - value * v).norm()) <= tolerance * abs(value):
            break
        v = Hv
    return value


def output_directions(logits: Float[Tensor, "*labelled C"], generator: torch.Generator) -> Float[Tensor, "*labelled C"]:
    """u = A·r with AAᵀ = diag(p) - ppᵀ, A = (I - p·1ᵀ)·diag(√p), and r random signs: E[(Jᵀu)(Jᵀu)ᵀ] is the Gauss-Newton part.

    logits (..., C) → the same shape: the gradient of Σ u·z by w is Jᵀu, summed over all that is labelled.
    """
    p = logits.detach().softmax(-1)
    signed = p.sqrt() * (torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1)
    return signed - p * signed.sum(-1, keepdim=True)


def row_squares(K: Float[Tensor, "B S S"], delta: Float[Tensor, "B S R"]) -> Float[Tensor, "B R"]:
    """‖row of ∂L/∂W‖² for each text, (B, rows), from what the layer y = W·x sees: K (B, S, S) = xᵀx of the tokens, δ = ∂L/∂y (B, S, rows).

    The gradient of a text is Σ δ·xᵀ over its tokens; it is never made.
    """
    return ((K @ delta) * delta).sum(1)
