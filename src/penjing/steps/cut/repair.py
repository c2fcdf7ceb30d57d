"""Repair without training: what is left of each block takes over what was cut, by least squares on calibration texts."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from penjing.maths.repair import RIDGE, best_scales, best_update
from penjing.model.checkpoint import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.surgery import copy_of
from penjing.selection import Selection
from penjing.text.encoded import Encoded

Repair = Literal["none", "scales", "weights"]


@dataclass(frozen=True)
class Reconstruction:
    """Squared error at the output of each block on the calibration texts, as a part of the target's: [before, after] of each."""

    errors: list[tuple[float, float]]


@torch.no_grad()
def repair(
    model: PenjingPreTrainedModel, teacher: PenjingPreTrainedModel, selection: Selection, encoded: Encoded, method: Repair = "weights"
) -> tuple[PenjingPreTrainedModel, Reconstruction]:
    """A new model whose blocks give what the teacher's gave: `model` is `cut(teacher, selection)`.

    Block after block, on the cut model's own states: so a block also makes up for what those before it lost. The sum
    before a block's norm is fitted to the teacher's; where layers were cut behind it, to that of the last of these, whose
    norm it takes over. What layers before the first kept one gave, that one makes up for. Where the head reads the first
    token alone, the last layer is fitted on that.

    Args:
        method: "weights" refits the matrix and bias that close a block (the update of ZipLM, Kurtić et al. 2023);
            "scales" one factor per head and neuron (Kwon et al. 2022, section 4.3); "none" nothing.
    """
    result = copy_of(model)
    if method == "none":
        return result, Reconstruction([])
    layers, theirs = cast(Any, result.base_model).layers, cast(Any, teacher.base_model).layers
    sequence, width = blueprint_of(model).head == "sequence", blueprint_of(model).head_width
    hidden = None if selection.hidden is None else torch.tensor(selection.hidden)
    inputs = [encoded.feeds(rows) for rows in encoded.exact_batches(64)]
    ours, targets = ([_embed(network, feeds) for feeds in inputs] for network in (result, teacher))
    for gone in theirs[: min((kept.layer for kept in selection.layers), default=0)]:
        targets = [gone(x, None) for x in targets]
    errors = []
    for j, kept in enumerate(selection.layers):
        until = selection.layers[j + 1].layer if j + 1 < len(selection.layers) else len(theirs)
        layer, last = layers[j], j + 1 == len(layers)
        for block in ("attention", "feed_forward"):
            sums = []
            for i, x in enumerate(targets):
                targets[i], total = _run(getattr(theirs[kept.layer], block), x)[1:]
                sums.append(total)
            if block == "feed_forward" and until > kept.layer + 1:
                for i, x in enumerate(targets):
                    for between in theirs[kept.layer + 1 : until]:
                        targets[i], sums[i] = _run(between.feed_forward, between.attention(x, None))[1:]
                        x = targets[i]
                norm = theirs[until - 1].feed_forward.norm.state_dict()
                layer.feed_forward.norm.load_state_dict(norm if hidden is None else {name: value[hidden] for name, value in norm.items()})
            module, group = getattr(layer, block), width if block == "attention" else 1
            errors.append(_fit(module, ours, [s if hidden is None else s[..., hidden] for s in sums], group, method, sequence and last))
            for i, x in enumerate(ours):
                ours[i] = _run(module, x)[1]
    return result, Reconstruction(errors)


def _embed(model: PenjingPreTrainedModel, feeds: dict[str, Any]) -> Tensor:
    embeddings = cast(Any, model.base_model).embeddings
    return cast(Tensor, embeddings(embeddings.word(torch.from_numpy(feeds["input_ids"])), torch.from_numpy(feeds["token_type_ids"])))


def _closing(block: nn.Module) -> Any:
    """The linear layer that closes a block."""
    return block.output if hasattr(block, "output") else block.down


def _run(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a block's closing layer reads (B, S, K), the block's output, and the sum before its norm, both (B, S, H)."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for module in (_closing(block), cast(Any, block).norm)
    ]
    try:
        output = block(x, None) if hasattr(block, "output") else block(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0], output, seen[1]


def _fit(
    block: nn.Module, states: list[Tensor], targets: list[Tensor], width: int, method: Repair, first_only: bool
) -> tuple[float, float]:
    """Refit the closing layer of `block` in place; the relative squared error before and after."""
    closing = _closing(block)
    K, H = closing.in_features, closing.out_features
    A, B, missing, total = torch.zeros(K + 1, K + 1), torch.zeros(H, K + 1), 0.0, 0.0
    for x, target in zip(states, targets, strict=True):
        features, _, given = _run(block, x)
        a, s, t = ((y[:, 0] if first_only else y.flatten(0, 1)) for y in (features, given, target))
        a, R = torch.cat([a, a.new_ones(len(a), 1)], 1), t - s
        A += a.T @ a
        B += R.T @ a
        missing += float(R.square().sum())
        total += float(t.square().sum())
    W = torch.cat([closing.weight, closing.bias[:, None]], 1)
    if method == "scales":
        if not K:
            return missing / total, missing / total
        scales = best_scales(closing.weight, A[:-1, :-1], B[:, :-1], width, RIDGE)
        D = torch.cat([closing.weight * (scales.repeat_interleave(width) - 1), torch.zeros(H, 1)], 1)
    else:
        D = best_update(A.double(), B.double(), RIDGE).float()
    closing.weight.copy_(W[:, :-1] + D[:, :-1])
    closing.bias.copy_(W[:, -1] + D[:, -1])
    after = missing - 2 * float((D * B).sum()) + float(((D @ A) * D).sum())
    return missing / total, max(after, 0.0) / total
