"""Rounding in training: the forward pass sees rounded values, the gradient goes straight through to the float ones.

The arithmetic is that of `maths.rounding`, value for value, on tensors of float32; other dtypes are made float32 first.
Source of the estimator: Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons", section 2.
"""

import math
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penjing.maths import rounding


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


def learned_affine(
    x: Float[Tensor, "*shape"], low: Float[Tensor, ""], high: Float[Tensor, ""], bits: int = 8
) -> Float[Tensor, "*shape"]:  # fmt: skip
    """The values of `affine` over the range [low, high], low ≤ 0 ≤ high, with a gradient in both ends.

    With n = 2^bits - 1 steps of S = (high - low)/n: where nothing is clipped ∂/∂S is that of a learned step, round(x/S) - x/S (Esser et
    al. 2020, LSQ, equation 3), so ∂/∂high = (round(x/S) - x/S)/n = -∂/∂low; above the range ∂/∂high = 1, below it ∂/∂low = 1 (as the
    clip of Choi et al. 2018, PACT, equation 3). The zero point's own rounding goes straight through. Both gradients are divided by
    √(N·n), N the entries of x (LSQ, section 2.2). ∂/∂x is that of `affine`.
    """
    scale, zero = rounding.affine(low.item(), high.item(), bits)
    return cast(Tensor, _LearnedAffine.apply(x.float(), low, high, float(scale), int(zero), 2**bits - 1))


def clipped_even(x: Float[Tensor, "*shape"], low: float, high: float, bits: int) -> Float[Tensor, "*shape"]:
    """`rounding.even_round` in torch: 2^bits levels from low to high; ∂/∂x = 1 within the range, else 0 (Zhou et al. 2016, section 2.4)."""
    t = 2**bits - 1
    step = (high - low) / t or 1.0
    clipped = x.float().clamp(low, high)
    return straight_through(clipped, ((clipped.detach() - low) / step).round_().mul_(step).add_(low))


def rounded_gradient(x: Float[Tensor, "B ..."], bits: int) -> Float[Tensor, "B ..."]:
    """x itself, whose gradient g is rounded to `bits` bits at random, text by text (Zhou et al. 2016, section 2.5, equation 12).

    2m·(quantize_k(g/2m + 1/2 + N) - 1/2), m = max|g| over all axes but the first, quantize_k(u) = round(t·u)/t, t = 2^bits - 1, and N
    uniform within ±1/2t: its mean over N is g.
    """
    return cast(Tensor, _RoundedGradient.apply(x, bits))


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


def row_signs(x: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows K"]:
    """K·sign(x), sign(0) = 1, K = mean|x| of each row (Rastegari et al. 2016, section 3.2); ∂/∂x = 1 where |x| ≤ K, else 0.

    The paper's estimator is 1 where |x| ≤ 1 (section 3.1), on inputs that a batch norm has scaled. BERT has none there, so K is the unit.
    It counts as a constant.
    """
    r = x.float()
    size = r.detach().abs()
    K = size.mean(-1, keepdim=True)
    return straight_through(r.clamp(-K, K), torch.where(r.detach() >= 0, K, -K))


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


def squash_scales(w: Float[Tensor, "*shape"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Unit and gain of `squashed`: the root mean square of w, and the gain with the least Σ(w - squashed(w))². Of zeros both are 1."""
    w = w.detach().float()
    unit = w.square().mean().sqrt() if w.numel() else w.new_zeros(())
    if unit == 0:
        return torch.ones_like(unit), torch.ones_like(unit)
    r = torch.tanh(w / unit)
    return unit, (w * r).sum() / r.square().sum()


def squashed(w: Float[Tensor, "*shape"], unit: Float[Tensor, ""], gain: Float[Tensor, ""]) -> Float[Tensor, "*shape"]:
    """gain·tanh(w/unit): DoReFa's squashing of weights before they are rounded (Zhou et al. 2016, equation 9, its tanh).

    The paper's unit is 1, and batch norms make up for the size of the result. A fine-tuned BERT has neither batch norms nor weights near
    1: tanh would hardly bend most of them. So the unit is the weights' own (`squash_scales`), and the gain keeps their size.
    """
    return torch.tanh(w / unit) * gain


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
class _LearnedAffine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor, scale: float, zero: int, top: int) -> Tensor:
        v = x / scale
        q = v.round()
        clipped = q.clamp(-zero, top - zero)
        ctx.save_for_backward(q - v, q == clipped, q > clipped)
        ctx.top = top
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (g,), (error, inside, above) = gradients, ctx.saved_tensors
        through = g * inside
        by_step = (through * error).sum() / ctx.top
        by_high = (g * above).sum() + by_step
        by_low = (g * ~(inside | above)).sum() - by_step
        root = math.sqrt(g.numel() * ctx.top)
        return through, by_low / root, by_high / root, None, None, None


@final
class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:
        ctx.top = 2**bits - 1
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        g, t = gradients[0].float(), ctx.top
        m = g.abs().amax(tuple(range(1, g.ndim)), keepdim=True) if g.ndim > 1 and g.numel() else g.abs()
        u = g / torch.where(m > 0, 2 * m, 1.0) + 0.5
        q = (t * u + torch.rand_like(u) - 0.5).round().clamp(0, t) / t
        return (2 * m * (q - 0.5)).to(gradients[0].dtype), None


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
