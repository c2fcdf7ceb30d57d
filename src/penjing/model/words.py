"""The two sides of a masked language model's product: the states behind the masks, and the table of words they are multiplied with.

Shapes: B texts, S tokens, n masks, V words, W width of the word table that is stored (its rank, where it has one).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from penjing.errors import InputError
from penjing.model.modeling_penjing import PenjingForMaskedLM, PenjingPreTrainedModel

Floats = NDArray[np.float32]


def word_table(model: PenjingPreTrainedModel) -> tuple[Floats, Floats]:
    """The matrix (V, W) and the bias (V,) of the words: the logits of `head_states` (n, W) are states · matrixᵀ + bias."""
    masked = _masked(model)
    table, bias = masked.encoder.embeddings.word.weight, masked.head.bias
    return table.detach().float().cpu().numpy(), bias.detach().float().cpu().numpy()


@torch.inference_mode()
def head_states(model: PenjingPreTrainedModel, inputs: dict[str, Tensor], places: Tensor) -> Floats:
    """What the head multiplies with the words, of the tokens at these `places` (B, S), flags: (n, W), text after text."""
    masked = _masked(model)
    head, word_map = masked.head, masked.encoder.embeddings.word_map
    states: Tensor = head.norm(head.activation(head.dense(masked.encoder(**inputs).last_hidden_state[places])))
    return (states if word_map is None else states @ word_map.weight).float().cpu().numpy()


def _masked(model: PenjingPreTrainedModel) -> PenjingForMaskedLM:
    if not isinstance(model, PenjingForMaskedLM):
        raise InputError(f"model: {type(model).__name__} has no language model's head; give a masked language model")
    return model
