"""How many weights are zero at each step of a training, and which."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

SCOPES = ("global", "layer", "row")
"""What shares one threshold: all matrices, each matrix, or each row of a matrix (the weights of one output)."""


def cubic_sparsity(step: float, total: float, start: float, end: float, initial: float, final: float) -> float:
    """s_f + (s_i - s_f)(1 - (t - t₀)/(t₁ - t₀))³ (Zhu & Gupta 2017, equation 1): steep at first, flat at the end.

    It is `initial` up to step t₀ = start·total and `final` from t₁ = end·total on; start and end are parts of the training.
    """
    if step >= end * total:
        return final
    if step <= start * total:
        return initial
    return final + (initial - final) * (1 - (step - start * total) / ((end - start) * total)) ** 3


def iterative_sparsity(step: float, total: float, start: float, end: float, rounds: int, final: float) -> float:
    """1 - (1 - s_f)^(r/R) after round r of R = rounds: each removes the same part of what is left (Frankle & Carbin 2019, section 1).

    The rounds divide start·total … end·total equally, and weights go at the end of each.
    """
    if step >= end * total:
        return final
    if step <= start * total:
        return 0.0
    done = math.floor(rounds * (step - start * total) / ((end - start) * total))
    return 1 - (1 - final) ** (done / rounds)


def cosine_decay(step: float, last: float, initial: float) -> float:
    """α/2·(1 + cos(π·t/T)) with α = initial, T = last, and 0 from T on (Evci et al. 2020, section 3)."""
    return initial / 2 * (1 + math.cos(math.pi * step / last)) if step < last else 0.0


def keep_mask(scores: Sequence[Float[Tensor, "_ _"]], sparsity: float, scope: str) -> list[Bool[Tensor, "_ _"]]:
    """Which entries of each matrix are kept: all but the round(sparsity·n) lowest of the n in each scope (see `SCOPES`).

    scores: (rows, columns), no NaN → masks of the same shapes, True where kept. Of equal scores the first are kept, in row-major
    order, so for the same scores a higher sparsity keeps a part of what a lower one does.
    """
    if scope == "global" and scores:
        mask = _keep_in_rows(torch.cat([s.flatten() for s in scores])[None], sparsity)[0]
        return [m.view_as(s) for m, s in zip(mask.split([s.numel() for s in scores]), scores, strict=True)]
    if scope == "layer":
        return [_keep_in_rows(s.reshape(1, -1), sparsity).view_as(s) for s in scores]
    return [_keep_in_rows(s, sparsity) for s in scores]


def _keep_in_rows(scores: Tensor, sparsity: float) -> Tensor:
    """The mask (R, n) of scores (R, n), each row by itself: above a threshold that is selected in linear time, or the first at it."""
    n = scores.shape[1]
    pruned = round(sparsity * n)
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # numpy selects several times as fast as Tensor.kthvalue does on a processor.
    parts = np.partition(scores.detach().cpu().numpy(), pruned - 1, axis=1)
    threshold = parts[:, pruned - 1 : pruned]
    room = torch.from_numpy(np.count_nonzero(parts[:, pruned:] == threshold, axis=1, keepdims=True)).to(scores.device)
    limit = torch.from_numpy(threshold).to(scores.device)
    kept = scores > limit
    if room.any():
        row, column = (scores == limit).nonzero(as_tuple=True)
        rank = torch.arange(len(row), device=scores.device) - torch.searchsorted(row, row)
        kept[row, column] = rank < room[row, 0]
    return kept
