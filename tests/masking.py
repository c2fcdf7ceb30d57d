"""What a cut has to be equal to: the same model with what goes multiplied by zero, or stepped over."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from penjing.model.building import blueprint_of
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.selection import Selection


def zeroing(kept: list[int]) -> Any:
    """A forward pre-hook that sets every input feature but `kept` to zero."""

    def hook(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        mask = torch.zeros(inputs[0].shape[-1])
        mask[kept] = 1
        return (inputs[0] * mask,)

    return hook


def norm_of_kept(kept: list[int]) -> Any:
    """A forward hook on a norm: it is taken over the features `kept` alone, and zero elsewhere."""

    def hook(norm: Any, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        output = torch.zeros_like(inputs[0])
        output[..., kept] = F.layer_norm(inputs[0][..., kept], (len(kept),), norm.weight[kept], norm.bias[kept], norm.eps)
        return output

    return hook


def mask_hidden(model: PenjingPreTrainedModel, kept: list[int]) -> None:
    """Take the hidden units but `kept` out of the residual stream: norms see the others, what leaves the embedding is zero."""
    blueprint, encoder = blueprint_of(model), model.base_model
    norms = [norm for layer in encoder.layers for norm in (layer.attention.norm, layer.feed_forward.norm)]
    if blueprint.embedding == blueprint.hidden:
        norms.append(encoder.embeddings.norm)
        if blueprint.head.name == "masked":
            norms.append(model.head.norm)
    else:
        encoder.embeddings.register_forward_hook(lambda _, __, x: zeroing(kept)(None, (x,))[0])
    for norm in norms:
        norm.register_forward_hook(norm_of_kept(kept))


def mask(model: PenjingPreTrainedModel, selection: Selection) -> None:
    """Multiply what `selection` drops by zero inside `model`, and let dropped layers pass their input on."""
    blueprint, encoder = blueprint_of(model), model.base_model
    if selection.hidden is not None:
        mask_hidden(model, list(selection.hidden))
    kept = {layer.layer: layer for layer in selection.layers}
    for i, layer in enumerate(encoder.layers):
        if i not in kept:
            layer.register_forward_hook(lambda _, inputs, __: inputs[0])
            continue
        width = blueprint.head_width
        features = [head * width + j for head in kept[i].heads for j in range(width)]
        layer.attention.output.register_forward_pre_hook(zeroing(features))
        layer.feed_forward.down.register_forward_pre_hook(zeroing(list(kept[i].neurons)))
