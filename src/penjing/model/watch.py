"""Listening to parts of an encoder while it runs.

Parts by name: `states-0` the embeddings, `states-i` what layer i gives (B, S, H), `first-i` the first token's of it (B, H); `queries-i`,
`keys-i`, `values-i` those of layer i, its heads side by side (B, S, heads·width). Layers count from 1.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import InputError
from penjing.model.modeling_penjing import PenjingModel

STATES, FIRST = "states", "first"
PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}


def encoder_of(model: nn.Module) -> PenjingModel:
    """The encoder inside a model of ours, or inside a module around one."""
    return next(module for module in model.modules() if isinstance(module, PenjingModel))


def width_of(encoder: PenjingModel, part: str) -> int:
    """Numbers of one token (or text) in a part."""
    kind, layer = split(part)
    if kind not in PROJECTIONS:
        return int(encoder.config.hidden_size)
    return int(encoder.config.layers[layer - 1][0] * encoder.config.head_width)


def split(part: str) -> tuple[str, int]:
    """A part's kind, and its layer."""
    kind, layer = part.rsplit("-", 1)
    return kind, int(layer)


@contextmanager
def tapped(model: nn.Module, parts: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Within this context, whatever `model` computes is in the dictionary that it gives."""
    caught: dict[str, Tensor] = {}

    def listen(part: str) -> Any:
        kind, layer = split(part)
        encoder = encoder_of(model)
        place: nn.Module = encoder.embeddings if layer == 0 else encoder.layers[layer - 1]
        if kind in PROJECTIONS:
            if not encoder.config.layers[layer - 1][0]:
                raise InputError(f"distill: layer {layer} has no attention heads left, and the loss reads its {kind}; leave that loss out")
            place = getattr(encoder.layers[layer - 1].attention, PROJECTIONS[kind])

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            caught[part] = output[:, 0] if kind == FIRST else output

        return place.register_forward_hook(keep)

    hooks = [listen(part) for part in parts]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def perturbed(model: nn.Module, noise: float, generator: torch.Generator | None = None) -> Iterator[None]:
    """Within this context, normal noise is added to every word's embedding: `noise` of the table's own standard deviation."""

    def add(module: Any, inputs: Any, output: Tensor) -> Tensor:
        random = torch.randn(output.shape, generator=generator, dtype=torch.float32).to(output.device)
        return output + noise * module.weight.detach().std() * random

    hook = encoder_of(model).embeddings.word.register_forward_hook(add) if noise else None
    try:
        yield
    finally:
        if hook:
            hook.remove()
