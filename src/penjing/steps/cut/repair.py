"""Reconstruction after a cut, without training: each block is refitted by least squares on calibration texts."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from penjing.errors import InputError
from penjing.maths.repair import RIDGE, best_scales, best_update
from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.run import Block, embedded, run_block
from penjing.model.surgery import copy_of
from penjing.model.watch import layers_of, watching_inputs
from penjing.selection import Selection
from penjing.text.encoded import Encoded

Repair = Literal["none", "scales", "weights"]
BATCH = 64
"""Texts that go through a block at a time."""


@dataclass(frozen=True)
class Reconstruction:
    """Relative squared errors of the blocks' outputs on the calibration texts: (before, after) of each block."""

    errors: list[tuple[float, float]]


@torch.no_grad()
def repair(
    model: PenjingPreTrainedModel, teacher: PenjingPreTrainedModel, selection: Selection, encoded: Encoded, method: Repair = "weights"
) -> tuple[PenjingPreTrainedModel, Reconstruction]:
    """A new model whose blocks are refitted to the teacher's outputs (layer-wise reconstruction, as in ZipLM, Kurtić et al. 2023).

    Blocks are fitted in order, on the cut model's own states, so a block also makes up for errors of those before it. The sum
    before a block's norm is fitted to the teacher's; where layers were cut behind it, to that of the last of these, whose
    norm it takes over. The first kept layer also makes up for layers that were cut before it. Where the head reads the first
    token alone, the last layer is fitted on that. Weights that several layers share are left as they are.

    Args:
        model: `cut(teacher, selection)`.
        method: "weights" refits the matrix and bias that close a block (the update of ZipLM, Kurtić et al. 2023);
            "scales" one factor per head and neuron (Kwon et al. 2022, section 4.3); "none" nothing.
    """
    result = copy_of(model)
    if method == "none":
        return result, Reconstruction([])
    layers = layers_of(result)
    teacher_layers = layers_of(teacher)
    blueprint = blueprint_of(model)
    if any(layer.tokens < 100 for layer in blueprint_of(teacher).layers):
        raise InputError("repair: the model drops tokens, and blocks are fitted token by token; give none, or drop tokens after the cut")
    hidden = None if selection.hidden is None else torch.tensor(selection.hidden)
    states = embedded(result, encoded, BATCH)  # one (B, S, H) per batch, as everything below
    targets = embedded(teacher, encoded, BATCH)
    for removed in teacher_layers[: min((kept.layer for kept in selection.layers), default=0)]:
        targets = [removed(x, None) for x in targets]
    errors = []
    for j, kept in enumerate(selection.layers):
        until = selection.layers[j + 1].layer if j + 1 < len(selection.layers) else len(teacher_layers)
        layer = layers[j]
        last = j + 1 == len(layers)
        alone = len(blueprint.sharing(blueprint.owner(j))) == 1
        whole = teacher_layers[kept.layer]
        pairs: list[tuple[Block, Block]] = [(layer.attention, whole.attention), (layer.feed_forward, whole.feed_forward)]
        for block, target in pairs:
            sums = []
            for i, x in enumerate(targets):
                _, targets[i], total = run_watched(target, x)
                sums.append(total)
            if block is layer.feed_forward and until > kept.layer + 1:
                for i, x in enumerate(targets):
                    for between in teacher_layers[kept.layer + 1 : until]:
                        _, x, sums[i] = run_watched(between.feed_forward, between.attention(x, None))
                    targets[i] = x
                norm = teacher_layers[until - 1].feed_forward.norm.state_dict()
                if alone:
                    layer.feed_forward.norm.load_state_dict(norm if hidden is None else {name: v[hidden] for name, v in norm.items()})
            group = blueprint.head_width if block is layer.attention else 1
            errors.append(
                _fit(
                    block,
                    states,
                    [s if hidden is None else s[..., hidden] for s in sums],
                    group,
                    method if alone else "none",
                    blueprint.head.first_only and last,
                )
            )
            for i, x in enumerate(states):
                states[i] = run_block(block, x)
    return result, Reconstruction(errors)


class BlockRun(NamedTuple):
    """Activations of a block: the inputs of its closing layer (B, S, K), its output and the sum before its norm, both (B, S, H)."""

    features: Tensor
    output: Tensor
    total: Tensor


def run_watched(block: Block, x: Tensor) -> BlockRun:
    """The activations of a block on the states x (B, S, H)."""
    seen: dict[str, Tensor] = {}
    with watching_inputs((("features", block.closing), ("total", block.norm)), seen.__setitem__):
        output = run_block(block, x)
    return BlockRun(output=output, **seen)


def _fit(block: Block, states: list[Tensor], targets: list[Tensor], width: int, method: Repair, first_only: bool) -> tuple[float, float]:
    """Refit the closing layer of `block` in place, where there is a method; returns its relative squared error before and after."""
    closing = block.closing
    K, H = closing.in_features, closing.out_features
    A = torch.zeros(K + 1, K + 1)
    B = torch.zeros(H, K + 1)
    missing = 0.0
    total = 0.0
    for x, target in zip(states, targets, strict=True):
        features, _, given = run_watched(block, x)
        a, s, t = ((y[:, 0] if first_only else y.flatten(0, 1)) for y in (features, given, target))  # (N, K), (N, H), (N, H)
        a = torch.cat([a, a.new_ones(len(a), 1)], 1)  # (N, K + 1): the last column is the bias's
        R = t - s  # (N, H)
        A += a.T @ a
        B += R.T @ a
        missing += float(R.square().sum())
        total += float(t.square().sum())
    if method == "none":
        return missing / total, missing / total
    W = torch.cat([closing.weight, closing.bias[:, None]], 1)  # (H, K + 1), as D below
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
