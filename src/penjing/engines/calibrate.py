"""Ranges of activations for static int8: what the input of each linear layer spans on real texts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from penjing.arrays import Encoded
from penjing.engines.graph import Ranges
from penjing.modeling_penjing import PenjingPreTrainedModel


@torch.inference_mode()
def calibrate(model: PenjingPreTrainedModel, encoded: Encoded, batch: int = 16) -> Ranges:
    """[low, high] of the input of every linear layer, over batches of `encoded`.

    Each batch gives its minimum and maximum, and these are averaged over the batches (Krishnamoorthi 2018, section 3.1).
    """
    seen: dict[str, list[tuple[float, float]]] = {}

    def look(name: str, x: Tensor) -> None:
        values = x.detach().flatten()
        if not values.numel():
            return
        low, high = values.min().item(), values.max().item()
        seen.setdefault(name, []).append((float(low), float(high)))

    with _watched(model, look):
        for rows in encoded.exact_batches(batch):
            feeds = {name: torch.from_numpy(value) for name, value in encoded.feeds(rows).items()}
            model(**feeds)
    return {name: (float(np.mean([low for low, _ in ends])), float(np.mean([high for _, high in ends]))) for name, ends in seen.items()}


@contextmanager
def _watched(model: PenjingPreTrainedModel, look: Callable[[str, Tensor], None]) -> Iterator[None]:
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            short = name.removeprefix("encoder.")
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=short: look(name, inputs[0])))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
