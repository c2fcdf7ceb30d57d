"""Rounding in training: the forward pass sees rounded values, the gradient goes straight through to the float ones.

The arithmetic is that of `maths.rounding`, value for value, on tensors of float32; other dtypes are made float32 first.
Source of the estimator: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", section 2.
"""

import math
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def straight_through(x: Float[Tensor, "*shape"], rounded: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values of `rounded`, with ∂/∂x = 1."""
    return cast(Tensor, _StraightThrough.apply(x, rounded))


def symmetric_rows(w: Float[Tensor, "*rows K"], bits: int = 8) -> Float[Tensor, "*rows K"]:
    """S·q of each row, q = round(w/S), S = max|w| / (2^(bits-1) - 1): what `rounding.symmetric` leaves. No gradient."""
    w = w.detach().float()
    levels = 2 ** (bits - 1) - 1
    if not w.numel():
        return w
    scale = w.abs().amax(-1, keepdim=True).div_(levels)
    scale = torch.where(scale > 0, scale, 1.0)
    return (w / scale).round_().clamp_(-levels, levels).mul_(scale)


def affine(x: Float[Tensor, "*shape"], scale: float, zero: int, bits: int = 8) -> Float[Tensor, "*shape"]:
    """S·(q - Z), q = round(x/S) + Z clipped to 0 … 2^bits - 1; ∂/∂x = 1 where nothing is clipped, else 0 (Jacob et al. 2018, section 3)."""
    return cast(Tensor, _Affine.apply(x.float(), scale, -zero, 2**bits - 1 - zero))


def affine_texts(x: Float[Tensor, "B *S W"], mask: Bool[Tensor, "B _"] | None = None, bits: int = 8) -> Float[Tensor, "B *S W"]:
    """S·(q - Z), S and Z from the extremes of each text by itself, as engines round activations as they come; ∂/∂x = 1.

    Args:
        x: (B, S, W), or (B, W).
        mask: (B, S), True where there is a token; the others do not count. None: all do.
    """
    r = x.detach().float()
    low, high = r.amin(-1), r.amax(-1)
    if mask is not None and mask.shape == low.shape:
        low, high = low.masked_fill(~mask, 0.0), high.masked_fill(~mask, 0.0)  # zero is always in the range
    ends = (-1, *(1 for _ in x.shape[1:]))
    least, most = low.view(len(x), -1).amin(1).view(ends), high.view(len(x), -1).amax(1).view(ends)
    return straight_through(x, affine_rounded(r, least, most, bits))


def affine_rounded(
    x: Float[Tensor, "..."], low: Float[Tensor, "*ends"], high: Float[Tensor, "*ends"], bits: int = 8
) -> Float[Tensor, "..."]:  # fmt: skip
    """`maths.rounding.affine_round` in torch; low, high: any shape that broadcasts against x. No gradient of its own."""
    low = low.clamp(max=0)
    high = high.clamp(min=0)
    levels = 2**bits - 1
    scale = torch.where(high > low, (high - low) / levels, 1.0)
    zero = (-low / scale).round().clamp(0, levels)
    return scale * ((x / scale).round().add(zero).clamp(0, levels) - zero)


def sign(x: Float[Tensor, "*shape"], alpha: Float[Tensor, ""], beta: Float[Tensor, ""]) -> Float[Tensor, "*shape"]:
    """α·sign(x - β), sign(0) = 1, with the gradient of α·clip(u, -1, 1) in x and β, u = (x - β)/α (Qin et al. 2022, section 3.1).

    ∂/∂α = sign(u) - u·1{|u| ≤ 1}, as for a learned step (Esser et al. 2020, section 2.1; Liu et al. 2022, BiT, section 3.2); the
    gradients of α and β are divided by √N, N the entries of x, as a learned step's are. α > 0 and β are scalars.
    """
    return cast(Tensor, _Sign.apply(x.float(), alpha, beta))


def grid_codes(
    w: Float[Tensor, "*weights"], scale: Float[Tensor, "..."], zero: Float[Tensor, "..."], top: int
) -> Float[Tensor, "*weights"]:  # fmt: skip
    """q = round(w/S + Z) within 0 … top, as floats: the nearest of the values S·(q - Z). What is given broadcasts."""
    return (w / torch.where(scale > 0, scale, 1.0)).add_(zero).round_().clamp_(0, top)  # zeros alone have a scale of zero


def power_codes(w: Float[Tensor, "*weights"], scale: Float[Tensor, "..."], m: int) -> Float[Tensor, "*weights"]:
    """m + sign(w)·(e + m), as floats: of the values ±S·2^e, e in 1 - m … 0, the nearest in its logarithm; m for zero alone."""
    e = (w.abs() / scale).log2_().round_().clamp_(1 - m, 0)
    return e.add_(m).mul_(w.sign()).add_(m)


def tanh_normalised(w: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max|w| · tanh(w) / max|tanh(w)|: DoReFa's squashing before rounding (Zhou et al. 2016, equation 9), in the range of w.

    Both maxima count as constants.
    """
    largest = w.detach().abs().max()
    return torch.tanh(w) * (largest / torch.tanh(largest)) if largest > 0 else w


def looked_up(table: Float[Tensor, " entries"], index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """table[index] for a flat table and int32 index of any shape; ∂/∂table sums over a cluster (Han et al. 2016, section 3.3)."""
    return cast(Tensor, _LookedUp.apply(table, index))


@final
class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


@final
class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: int, high: int) -> Tensor:
        q = (x / scale).round_()
        clipped = q.clamp(low, high)
        if x.requires_grad:
            ctx.save_for_backward(q == clipped)
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


@final
class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha, beta)
        return torch.where(x >= beta, alpha, -alpha)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,), (x, alpha, beta) = gradients, ctx.saved_tensors
        u = (x - beta) / alpha
        inside = u.abs() <= 1
        through = g * inside
        root = math.sqrt(x.numel())
        by_alpha = (g * torch.where(u >= 0, 1.0, -1.0) - through * u).sum() / root
        return through, by_alpha, -through.sum() / root


@final
class _LookedUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.entries = len(table)
        return table.index_select(0, index.flatten()).view(index.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (index,) = ctx.saved_tensors
        g = gradients[0]
        return g.new_zeros(ctx.entries).index_add_(0, index.flatten(), g.flatten()), None
