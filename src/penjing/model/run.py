"""Inference over texts: batches on the model's device, and its blocks one after another.

Shapes: B texts, S tokens, H hidden.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from penjing.model.modeling_penjing import Attention, FeedForward, PenjingPreTrainedModel
from penjing.model.watch import encoder_of, layers_of
from penjing.text.encoded import BATCH_TOKENS, Encoded, Feeds

Rows = NDArray[np.int64]
"""Numbers of texts (B,)."""
Block = Attention | FeedForward
"""One half of an encoder layer, with its residual and norm."""
GRADIENT_TOKENS = 4096
"""Tokens of a batch at most where gradients are taken: what they need of memory does not grow with the length of the texts."""
CURVATURE_TOKENS = GRADIENT_TOKENS // 2
"""Tokens of a batch at most where second derivatives are taken: two backward passes keep about twice what one does."""
MASK = "attention_mask"


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter."""
    return next(model.parameters()).device


def tensors(feeds: Feeds, device: torch.device) -> dict[str, Tensor]:
    """The inputs of a model as tensors (B, S) on a device, by name."""
    return {name: torch.from_numpy(value).to(device) for name, value in feeds.items()}


def batches(
    model: nn.Module, encoded: Encoded, size: int, tokens: int = BATCH_TOKENS, *, masked: bool = False
) -> Iterator[tuple[Rows, dict[str, Tensor]]]:
    """Batches of texts of exactly equal lengths, shortest first, each text once: row numbers, and inputs on the model's device.

    Args:
        size: texts of a batch at most. tokens: tokens of a batch at most.
        masked: whether the inputs hold an attention mask; it is all ones, but attention then takes another path, whose last bits differ.
    """
    device = device_of(model)
    for rows in encoded.exact_batches(size, tokens):
        feeds = tensors(encoded.feeds(rows), device)
        if not masked:
            del feeds[MASK]
        yield rows, feeds


def padded_batches(model: nn.Module, encoded: Encoded, order: Iterable[Rows], pad: int | None) -> Iterator[tuple[Rows, dict[str, Tensor]]]:
    """Batches of the texts that `order` names, padded with the token `pad`: row numbers, and inputs with a mask on the model's device."""
    device = device_of(model)
    for rows in order:
        yield rows, tensors(encoded.padded(rows, pad or 0), device)


# -- block by block ------------------------------------------------------------------------------------------------


def blocks_of(model: nn.Module) -> list[Block]:
    """Attention and feed-forward of every layer, in the order in which they run."""
    return [block for layer in layers_of(model) for block in (layer.attention, layer.feed_forward)]


def embedded(model: PenjingPreTrainedModel, encoded: Encoded, size: int) -> list[Tensor]:
    """The embedding outputs, (B, S, H) of each batch of at most `size` texts of equal lengths."""
    embeddings = encoder_of(model).embeddings
    return [embeddings(embeddings.word(feeds["input_ids"]), feeds["token_type_ids"]) for _, feeds in batches(model, encoded, size)]


def run_block(block: nn.Module, x: Tensor) -> Tensor:
    """The output of a block, or of a head, for the states x (B, S, H) of texts of equal lengths."""
    output: Tensor = block(x, None) if isinstance(block, Attention) else block(x)
    return output
