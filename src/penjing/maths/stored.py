"""Rounding weights to few bits for storage: grids, powers of two, codebooks, three values and two.

What is rounded is decoded to the same float32 numbers when a model is loaded (`penjing.model.packing`). Scales, and the tables of
codebooks, are rounded to the 11 bits of a float16 before any code is chosen: that halves them on disk, and makes every step of a
grid exact in float32, so that rounding what is rounded changes nothing.

Shapes: a tensor is taken as rows of its last axis, a row as groups of g neighbours, and the formulas see all groups, (N, g).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.clustering import assign, cluster
from penjing.model.coded import Coded, powers

Kind = Literal["linear", "affine", "log", "kmeans", "ternary", "binary", "dorefa"]
Clip = Literal["none", "percentile", "mse"]
BITS: dict[Kind, tuple[int, ...]] = {
    "linear": (2, 3, 4, 5, 6, 7, 8),
    "affine": (2, 3, 4, 5, 6, 7, 8),
    "log": (2, 3, 4, 5, 6, 7, 8),
    "kmeans": (1, 2, 3, 4, 5, 6, 7, 8),
    "ternary": (2,),
    "binary": (1,),
    "dorefa": (1, 2, 3, 4, 5, 6, 7, 8),
}
"""The bits of a code that each kind has."""
PERCENTILE = 0.999
"""The part of a group that lies in the range with the clip `percentile`."""
_COARSE = tuple(0.75**i for i in range(12))
_FINE = tuple(0.75 ** (i / 4) for i in (-3, -2, -1, 1, 2, 3))
"""What the clip `mse` multiplies the range by first, and then the best of these."""
_AT_ONCE = 2**16
"""Weights whose error is taken at a time."""
SIGNIFICANT = 11
"""Bits of a scale's mantissa: what float16 has."""

Rounded = tuple[Tensor, dict[str, Tensor]]
"""Codes (N, g), uint8, and by name what the codes of a group share, (N, 1) or (N, k)."""


@dataclass(frozen=True)
class Scheme:
    """How weights are rounded for storage.

    kind: `linear` equal steps on both sides of zero, `affine` equal steps and a zero point (Jacob et al. 2018, section 2.1), `log`
        powers of two (Miyashita et al. 2016, section 3), `kmeans` a codebook (Han et al. 2016, section 3), `ternary` (Li et al.
        2016), `binary` (Rastegari et al. 2016, section 3.1), `dorefa` equal steps with as many levels above zero as below, and none
        at zero; of 1 bit binary (Zhou et al. 2016, section 2.3).
    bits: of a code. Ternary has 2, which are stored in 1.6; binary 1.
    group: neighbours in a row that share a scale or a table: the row's length, or more, for one per row; 0 for one in all.
    clip: the range of linear, affine and log (the other kinds have none): `none` all of it, `percentile` all but the outermost, `mse`
        the part of it that has the least squared error.
    """

    kind: Kind = "linear"
    bits: int = 8
    group: int = 0
    clip: Clip = "none"

    def __post_init__(self) -> None:
        for name, allowed in (("kind", get_args(Kind)), ("clip", get_args(Clip))):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name}: {getattr(self, name)!r} is none; allowed are {', '.join(allowed)}")
        if type(self.bits) is not int or self.bits not in BITS[self.kind]:
            raise InputError(f"bits: {self.kind} has no {self.bits!r}; allowed are {', '.join(map(str, BITS[self.kind]))}")
        if type(self.group) is not int or self.group < 0:
            raise InputError(f"group: {self.group!r} is out of range; give how many weights share a scale, or 0 for all of them")


@torch.no_grad()
def quantize(w: Float[Tensor, "..."], scheme: Scheme, seed: int = 0) -> Coded:
    """The codes of a tensor of any shape, taken as float32. A weight that is not finite is an `InputError`.

    seed: draws one of the starts of k-means; nothing else is drawn.
    """
    w = w.detach().float().cpu().contiguous()
    if not torch.isfinite(w).all():
        raise InputError("weights: some are infinite or no number; take a checkpoint from before the training diverged")
    shape = tuple(w.shape)
    if not w.numel():
        one = quantize(torch.zeros(1), scheme)
        parameters = {name: p[: 0 if scheme.group else 1] for name, p in one.parameters.items()}
        return replace(one, shape=shape, codes=np.empty(shape, np.uint8), parameters=parameters)
    blocks = _blocks(w, scheme.group)
    rounded = _codebooks(blocks, 2**scheme.bits, seed) if scheme.kind == "kmeans" else [_round(block, scheme) for block in blocks]
    codes = _joined([codes for codes, _ in rounded], shape, scheme.group)
    count = math.prod(shape[:-1]) if scheme.group else 1
    joined = {
        name: torch.cat([shared[name].view(count, -1, shared[name].shape[1]) for _, shared in rounded], 1).flatten(0, 1)
        for name in rounded[0][1]
    }
    parameters = {name: (p if name == "table" else p[:, 0]).numpy() for name, p in joined.items()}
    if scheme.kind in ("linear", "ternary", "binary", "dorefa"):
        parameters["zero"] = parameters["zero"][:1]
    return Coded(_CODECS[scheme.kind], scheme.bits, shape, scheme.group, codes.numpy(), parameters)


def _blocks(w: Tensor, group: int) -> list[Tensor]:
    """The groups of a tensor that is not empty, (N, g): those of full length, and the shorter ones at the ends of rows where there are any."""
    rows = w.reshape(-1, w.shape[-1]) if group and w.ndim else w.reshape(1, -1)
    size = min(group or rows.shape[1], rows.shape[1])
    whole = rows.shape[1] // size * size
    return [rows[:, :whole].reshape(-1, size), *([rows[:, whole:].contiguous()] if whole < rows.shape[1] else [])]


def _joined(blocks: list[Tensor], shape: tuple[int, ...], group: int) -> Tensor:
    """The tensor of this shape whose groups `_blocks` gave."""
    count = math.prod(shape[:-1]) if group else 1
    return torch.cat([block.reshape(count, -1) for block in blocks], 1).view(shape)


_CODECS = {kind: {"log": "power", "kmeans": "codebook"}.get(kind, "grid") for kind in BITS}


def _round(w: Tensor, scheme: Scheme) -> Rounded:
    if scheme.kind == "ternary":
        return _ternary(w)
    if scheme.kind == "binary" or (scheme.kind == "dorefa" and scheme.bits == 1):
        return _binary(w)
    if scheme.kind == "dorefa":
        return _even(w, scheme.bits)
    to_range = {"linear": _linear, "affine": _affine, "log": _log}[scheme.kind]
    low, high = _range(w, PERCENTILE if scheme.clip == "percentile" else 1.0)
    if scheme.clip == "mse":
        ratio = _best_ratios(w, low, high, lambda w, low, high: _values(to_range(w, low, high, scheme.bits), scheme.bits))
        low, high = ratio * low, ratio * high
    return to_range(w, low, high, scheme.bits)


# -- ranges ------------------------------------------------------------------------------------------------------


def _range(w: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Low ≤ 0 and high ≥ 0, (N, 1), such that ⌈part·g⌉ of the values (N, g) are at most high, and as many at least low."""
    if part == 1:
        low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    else:
        size = w.shape[1]
        last = math.ceil(part * size) - 1
        parts = torch.from_numpy(np.partition(w.numpy(), (size - 1 - last, last), axis=1))
        low, high = parts[:, size - 1 - last, None], parts[:, last, None]
    return low.clamp(max=0), high.clamp(min=0)


def _best_ratios(w: Tensor, low: Tensor, high: Tensor, values: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The part (N, 1) of each range that leaves the least Σ(w - ŵ)², of `_COARSE` and of `_FINE` around the best of these.

    values: the ŵ of some of w (N, g) for a low and a high. The groups are taken a few at a time, since a processor's cache is small.
    """
    few = max(1, _AT_ONCE // w.shape[1])
    return torch.cat([_best(w[i : i + few], low[i : i + few], high[i : i + few], values) for i in range(0, len(w), few)])


def _best(w: Tensor, low: Tensor, high: Tensor, values: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    best, least = torch.ones_like(low), torch.full_like(low, torch.inf)
    for factors in (_COARSE, _FINE):
        start = best
        for factor in factors:
            ratio = (start * factor).clamp(max=1)
            error = sum((values(x, ratio * low, ratio * high) - x).square_().sum(1, keepdim=True) for x in w.split(_AT_ONCE, 1))
            best, least = torch.where(error < least, ratio, best), torch.minimum(error, least)
    return best


def _short(x: Tensor, to_integer: Callable[[Any], Any] = np.rint) -> Tensor:
    """Numbers rounded to `SIGNIFICANT` bits, to the nearest or as `to_integer` does."""
    mantissa, exponent = np.frexp(x.numpy())
    return torch.from_numpy(np.ldexp(to_integer(mantissa * 2**SIGNIFICANT), exponent - SIGNIFICANT).astype(np.float32))


def _scale(x: Tensor, to_integer: Callable[[Any], Any] = np.rint) -> Tensor:
    """`_short`, and 1 for zero, where any scale does."""
    short = _short(x, to_integer)
    return torch.where(short > 0, short, 1.0)


# -- values (N, g) to codes --------------------------------------------------------------------------------------


def _linear(w: Tensor, low: Tensor, high: Tensor, bits: int) -> Rounded:
    """q = round(w/S) within ±m, S = max(-low, high)/m, m = 2^(bits-1) - 1 (Jacob et al. 2018, with zero point 0); codes are q + m."""
    m = 2 ** (bits - 1) - 1
    scale = _scale(torch.maximum(-low, high) / m)
    q = (w / scale).round_().clamp_(-m, m)
    return q.add_(m).to(torch.uint8), {"scale": scale, "zero": torch.full_like(scale, m)}


def _affine(w: Tensor, low: Tensor, high: Tensor, bits: int) -> Rounded:
    """q = round(w/S) + Z within 0 … t, S = (high - low)/t, Z = -round(low/S), t = 2^bits - 1 (Jacob et al. 2018, equation 1).

    S is rounded down and halves up, so that the lowest weight has the code 0 and the highest t, and no code is left over.
    """
    t = 2**bits - 1
    scale = _scale((high - low) / t, np.floor)
    zero = (low / scale + 0.5).floor_().neg_().clamp_(0, t)
    q = (w / scale).add_(0.5).floor_().add_(zero).clamp_(0, t)
    return q.to(torch.uint8), {"scale": scale, "zero": zero}


def _log(w: Tensor, low: Tensor, high: Tensor, bits: int) -> Rounded:
    """sign(w)·S·2^e, e = round(log₂(|w|/S)) within 1 - m … 0, S = max(-low, high), m = 2^(bits-1) - 1; zero stays zero.

    As Miyashita et al. 2016, equation 1, with a sign and a scale. Codes are m ± (e + m). No product is below the least normal number.
    """
    m = 2 ** (bits - 1) - 1
    scale = _scale(torch.maximum(-low, high))
    least = (-126 - scale.log2().floor()).clamp_(1 - m, 0)
    k = (w.abs() / scale).log2_().round_().clamp_(max=0).maximum(least).add_(m)
    return k.mul_(w.sign()).add_(m).to(torch.uint8), {"scale": scale}


def _ternary(w: Tensor) -> Rounded:
    """α·sign(w) where |w| > Δ = 0.7·mean|w|, else 0; α = mean of those |w| (Li et al. 2016, equations 3, 5 and 6)."""
    size = w.abs()
    above = size > 0.7 * size.mean(1, keepdim=True, dtype=torch.float64)
    alpha = _scale((size * above).sum(1, keepdim=True, dtype=torch.float64) / above.sum(1, keepdim=True).clamp(min=1))
    return (1 + w.sign() * above).to(torch.uint8), {"scale": alpha, "zero": torch.ones_like(alpha)}


def _binary(w: Tensor) -> Rounded:
    """α·sign(w), α = mean|w|, sign(0) = 1 (Rastegari et al. 2016, equation 6), as 2α·(code - 1/2)."""
    mean = w.abs().mean(1, keepdim=True, dtype=torch.float64)
    alpha = _short(mean)
    return (w >= 0).to(torch.uint8), {"scale": 2 * alpha, "zero": torch.full_like(alpha, 0.5)}


def _even(w: Tensor, bits: int) -> Rounded:
    """L·(2·quantize_k(w/2L + 1/2) - 1), L = max|w|, quantize_k(u) = round(t·u)/t, t = 2^bits - 1 (Zhou et al. 2016, equation 9).

    As S·(code - t/2), S = 2L/t. There the tanh of w takes the place of w, and L is 1 (`penjing.maths.fake.squashed`).
    """
    t = 2**bits - 1
    scale = _short(2 * w.abs().amax(1, keepdim=True) / t)
    codes = (w / torch.where(scale > 0, scale, 1.0)).add_(t / 2).round_().clamp_(0, t)
    return codes.to(torch.uint8), {"scale": scale, "zero": torch.full_like(scale, t / 2)}


def _values(rounded: Rounded, bits: int) -> Tensor:
    """What codes of `_linear`, `_affine` and `_log` stand for."""
    codes, shared = rounded
    if "zero" in shared:
        return (codes - shared["zero"]).mul_(shared["scale"])
    return torch.from_numpy(powers(bits))[codes.int()].mul_(shared["scale"])


def _codebooks(blocks: list[Tensor], k: int, seed: int) -> list[Rounded]:
    """The entry of its group's table that is nearest to each weight; a table that is not exact has `SIGNIFICANT` bits."""
    tables, exact = zip(*(cluster(block, k, seed) for block in blocks), strict=True)
    if not all(exact):
        tables = tuple(_short(table) for table in tables)
    codes = [assign(block, table) for block, table in zip(blocks, tables, strict=True)]
    levels = 1 + max(int(c.max()) for c in codes)
    return [(c, {"table": _filled(table)[:, :levels]}) for c, table in zip(codes, tables, strict=True)]


def _filled(table: Tensor) -> Tensor:
    """A table (N, k) with its largest number in the place of +inf."""
    return table.minimum(table.masked_fill(table == torch.inf, -torch.inf).amax(1, keepdim=True))


# -- ternary to binary -------------------------------------------------------------------------------------------


@torch.no_grad()
def split_ternary(
    w: Float[Tensor, "*shape"], ternary: Float[Tensor, "*shape"], group: int = 0
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:  # fmt: skip
    """Two latent tensors with the sum `w`, whose binary values have the sum `ternary` (Bai et al. 2021, section 3.2).

    w₁ = a·w and w₂ = (1 - a)·w where the ternary value is not zero; else b + w and -b where w > 0, and b and -b + w where not.
    With I, J, K the places of each of the three, a = (Σ_I|w| - Σ_J|w| + Σ_K|w|) / 2Σ_I|w| gives both the same α, and
    b = (n·α - Σ|w|) / 2(|J| + |K|) half of the ternary one.

    Args:
        w: latent weights, of any shape.
        ternary: what they are rounded to, the values of `quantize`.
        group: of the ternary scheme, and of the binary one that follows.

    The law holds while 0 < a < 1: where the weights between -Δ and Δ lie far more on one side of zero, one of the signs turns.
    """
    if not w.numel():
        return w.clone(), w.clone()
    halves = [_split(*block) for block in zip(_blocks(w, group), _blocks(ternary, group), strict=True)]
    first, second = (_joined(list(blocks), tuple(w.shape), group) for blocks in zip(*halves, strict=True))
    return first, second


def _split(w: Tensor, ternary: Tensor) -> tuple[Tensor, Tensor]:
    size = w.abs().double()
    kept = ternary != 0
    on, up, down = (torch.where(places, size, 0.0).sum(1, keepdim=True) for places in (kept, ~kept & (w > 0), ~kept & (w <= 0)))
    a = torch.where(on > 0, (on - up + down) / (2 * on), 0.5)
    zeros = (~kept).sum(1, keepdim=True).clamp(min=1)
    alpha = ternary.abs().amax(1, keepdim=True).double()
    b = (w.shape[1] * alpha - (on + up + down)) / (2 * zeros)
    first = torch.where(kept, a * w, torch.where(w > 0, b + w, b)).to(w.dtype)
    return first, torch.where(kept, (1 - a) * w, torch.where(w > 0, -b, w - b)).to(w.dtype)
