"""A network with a head of one's own, as somebody writes it beside Penjing: one file that takes nothing else of it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from penjing.model.modeling_penjing import PenjingConfig, PenjingModel, PenjingPreTrainedModel


class MeanHead(nn.Module):
    """The mean state of a text's tokens, and a linear layer."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, S, H), mask (B, S) → (B, C)."""
        weights = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        return self.out((x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))


class MeanForSequenceClassification(PenjingPreTrainedModel):
    """One answer per text, from the mean of all tokens: `logits` (B, C)."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.encoder = PenjingModel(config)
        self.head = MeanHead(config)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, labels: Tensor | None = None, **inputs: Any
    ) -> Any:
        return_dict = inputs.pop("return_dict", None)
        output = self.encoder(input_ids, attention_mask=attention_mask, **inputs)
        logits = self.head(output.last_hidden_state, attention_mask)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        result = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return result if return_dict is not False else result.to_tuple()


class ScaledHead(MeanHead):
    """The same with a matrix without a bias, and one number that all outputs are multiplied by."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.out = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, S, H), mask (B, S) → (B, C)."""
        return self.scale * super().forward(x, mask)


class ScaledForSequenceClassification(MeanForSequenceClassification):
    """One answer per text, from such a head."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.head = ScaledHead(config)
        self.post_init()
