"""Forms of attention that a layer may have in place of all-to-all, and the choice of the tokens that go on.

This file imports torch alone, because it travels with every model that is saved.

Shapes: B texts, S tokens, K of them kept, H hidden, h heads, L rows that a low-rank layer pools the tokens to, P positions.
A mask is (B, 1, 1, S), True where there is a token, the padding behind them; None: every token is one.
"""

import torch
from torch import Tensor

EMPTY = 1e-9
"""What an empty row of a low-rank layer counts, in tokens: its logarithm must be finite."""


def within(mask: Tensor | None, length: int, span: int, device: torch.device) -> Tensor:
    """The mask (1 or B, 1, S, S) of a window: True where |i - j| <= span, and for the first token in either place.

    Beltagy et al. 2020, Longformer, section 3.1.
    """
    places = torch.arange(length, device=device)
    window = ((places[:, None] - places).abs() <= span) | (places == 0) | (places[:, None] == 0)  # (S, S)
    return window[None, None] if mask is None else window & mask


def pooled(x: Tensor, weights: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states x (B, S, H) pooled to L rows by weights (L, P): (B, L, H), and what is added to the logits of a row, (1 or B, 1, 1, L).

    Wang et al. 2020, Linformer, section 4, with one matrix for keys and values: projecting the length commutes with projecting the width,
    so it is done first. Here a row is a mean, and its logit is raised by the logarithm of the weight that it holds, as if its tokens were
    each there: padding and rows without tokens count nothing, and where every row holds one token at most this is full attention.
    """
    E = weights[:, : x.shape[1]]  # (L, S)
    E = E[None] if mask is None else E * mask[:, 0]  # (1 or B, L, S)
    held = E.abs().sum(2, keepdim=True).clamp_min(EMPTY)  # (1 or B, L, 1)
    return (E / held) @ x, held.log()[:, None].transpose(2, 3)


def spread_evenly(rows: int, positions: int) -> Tensor:
    """Pooling weights (L, P) to start from: token j goes to row j mod L, so that texts of at most L tokens are not pooled at all."""
    return (torch.arange(positions) % rows == torch.arange(rows)[:, None]).float()


def pattern_logits(pattern: Tensor, length: int, mask: Tensor | None) -> Tensor:
    """Logits (1 or B, h, S, S) of a fixed head by the clipped offset j - i, and by whether j is a text's first or last token.

    pattern: (h, 2·span + 3): a logit per offset from -span to span, then the first token's and the last token's.
    """
    span = (pattern.shape[1] - 3) // 2
    places = torch.arange(length, device=pattern.device)
    offsets = (places - places[:, None]).clamp(-span, span) + span  # (S, S)
    ends = torch.tensor(length, device=pattern.device) if mask is None else mask.sum(3, keepdim=True)  # () or (B, 1, 1, 1)
    first, last = ((pattern[:, i, None, None] * place) for i, place in ((-2, places == 0), (-1, places == ends - 1)))
    logits = pattern[:, offsets] + first + last
    return logits if mask is None else logits.masked_fill(~mask, -torch.inf)


# -- tokens that go on -----------------------------------------------------------------------------------------------


def left_of(length: Tensor | int, percent: int) -> Tensor | int:
    """How many of so many tokens go on: ceil(percent · length / 100), in integers."""
    return (length * percent + 99) // 100


def mask_left(mask: Tensor, percent: int) -> Tensor:
    """The mask (B, 1, 1, K) of the tokens that went on."""
    most = int(left_of(mask.shape[3], percent))
    return torch.arange(most, device=mask.device) < left_of(mask.sum(3, keepdim=True), percent)


def places_left(significance: Tensor, mask: Tensor | None, percent: int) -> Tensor:
    """The places (B, K), ascending, of the most significant tokens of each text, the first token among them; padding stays behind.

    significance: (B, S), zero or more, and zero at padding. How many are kept goes by a text's own length, so padding changes nothing.
    """
    length = significance.shape[1]
    most = int(left_of(length, percent))
    places = torch.arange(length, device=significance.device)
    order = significance.masked_fill(places == 0, torch.inf).argsort(dim=1, descending=True, stable=True)[:, :most]
    if mask is not None:
        order = order.masked_fill(~mask_left(mask, percent)[:, 0, 0], length)
    return order.sort(1).values.clamp_max(length - 1)
