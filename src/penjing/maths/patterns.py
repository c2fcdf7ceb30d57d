"""Fixed attention patterns, fitted to the average map of the heads that they replace.

Letters: A (S, S) the map of a head over a text of S tokens, each row a distribution; P the pattern's, the softmax of logits by the clipped
offset j - i, with one more logit for the first token and one for the last.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from penjing.model.attending import pattern_logits

STEPS = 100
"""Of L-BFGS at most: the divergence is convex in the logits."""


def features_of(A: Float[Tensor, "B h S S"], span: int) -> Float[Tensor, "h features"]:
    """The sum over texts and rows of what a map gives to each clipped offset, to the first token and to the last: (h, 2·span + 3).

    The KL divergence of a pattern from the map depends on the map by these sums alone, and a constant.
    """
    length = A.shape[-1]
    total = A.sum(0)  # (h, S, S)
    places = torch.arange(length)
    offsets = ((places - places[:, None]).clamp(-span, span) + span).flatten()  # (S · S,)
    by_offset = total.new_zeros(len(total), 2 * span + 1).index_add_(1, offsets, total.flatten(1))
    return torch.cat([by_offset, total[..., 0].sum(1, keepdim=True), total[..., -1].sum(1, keepdim=True)], 1)


def fit_pattern(features: Float[Tensor, "h features"], texts: Mapping[int, int]) -> Float[Tensor, "h features"]:
    """The logits (h, 2·span + 3) that minimise Σ KL(A ‖ P) over all rows of all texts, for each head.

    features: `features_of` all texts, summed. texts: how many texts there are of each length.
    """
    pattern = torch.zeros_like(features, requires_grad=True)
    rows = sum(length * count for length, count in texts.items())
    optimizer = torch.optim.LBFGS([pattern], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            normaliser = sum(count * pattern_logits(pattern, length, None).logsumexp(-1).sum() for length, count in texts.items())
            loss = (normaliser - (features * pattern).sum()) / rows  # the cross-entropy of a mean row
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    return pattern.detach()
