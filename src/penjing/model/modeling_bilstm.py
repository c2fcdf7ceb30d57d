"""A single-layer BiLSTM (Tang et al. 2019, section 3.1): answers per text, per pair of texts, or per token.

This file imports torch and transformers alone, because it travels with every model that is saved: there
`AutoModelFor….from_pretrained(folder, trust_remote_code=True)` runs it, and Penjing need not be installed.

Shapes: B texts, S tokens, E embedding, H hidden units of each direction, C outputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput


class BilstmConfig(PreTrainedConfig):
    """Sizes; `pairs` whether texts come in two."""

    model_type = "penjing-bilstm"

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_size: int = 300,
        hidden_size: int = 150,
        dense_size: int = 200,
        pairs: bool = False,
        dropout: float = 0.1,
        pad_token_id: int | None = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.dense_size = dense_size
        self.pairs = pairs
        self.dropout = dropout
        super().__init__(**{"pad_token_id": pad_token_id, **kwargs})


class BilstmPreTrainedModel(PreTrainedModel):
    """Words and the LSTM over them, which both heads share."""

    config_class = BilstmConfig

    def __init__(self, config: BilstmConfig) -> None:
        super().__init__(config)
        self.word = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True, bidirectional=True)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.LSTM | nn.Embedding):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        return self.word

    def set_input_embeddings(self, value: Any) -> None:
        self.word = value

    def read(self, input_ids: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """input_ids (B, S), lengths (B,) or all of S → the states of every token (B, S, 2·H), the last of both directions (B, 2·H).

        Not packed: step by step, as PyTorch computes a packed batch on a CPU, takes three times as long as the whole batch in oneDNN.
        """
        x = self.dropout(self.word(input_ids))  # (B, S, E)
        if lengths is None:
            states, (last, _) = self.lstm(x)
            return states, torch.cat([last[0], last[1]], dim=-1)
        place = torch.arange(x.shape[1], device=x.device)
        rows = torch.arange(len(x), device=x.device)
        end = (lengths - 1).clamp(min=0)
        inside = place < lengths[:, None]  # (B, S)
        turned = torch.where(inside, lengths[:, None] - 1 - place, place)
        forwards, backwards = self.direction(x, ""), self.direction(x[rows[:, None], turned], "_reverse")
        states = torch.cat([forwards, backwards[rows[:, None], turned]], dim=-1) * inside[:, :, None]
        return states, torch.cat([forwards[rows, end], backwards[rows, end]], dim=-1)

    def direction(self, x: Tensor, suffix: str) -> Tensor:
        """One direction over words (B, S, E), from the first on: its states (B, S, H)."""
        weights = [getattr(self.lstm, f"{part}_l0{suffix}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        zero = x.new_zeros(1, len(x), self.lstm.hidden_size)
        return torch.lstm(x, (zero, zero), weights, True, 1, 0.0, self.training, False, True)[0]


class BilstmForSequenceClassification(BilstmPreTrainedModel):
    """One answer per text or pair: `logits` (B, C)."""

    def __init__(self, config: BilstmConfig) -> None:
        super().__init__(config)
        self.dense = nn.Linear((8 if config.pairs else 2) * config.hidden_size, config.dense_size)
        self.out = nn.Linear(config.dense_size, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask, token_type_ids: (B, S), padded on the right; labels: (B,).

        Of single texts hidden_states holds one: the states of both directions (B, S, 2·H).
        """
        lengths = None if attention_mask is None else attention_mask.sum(dim=1)
        states = None
        if self.config.pairs:
            features = self.compare(input_ids, lengths, token_type_ids)
        else:
            states, features = self.read(input_ids, lengths)
        logits = self.out(self.dropout(torch.relu(self.dense(features))))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        hidden_states = (states,) if output_hidden_states and states is not None else None
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)

    def compare(self, input_ids: Tensor, lengths: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """[h₁, h₂, h₁·h₂, |h₁ - h₂|] of the two texts of each pair: (B, 8·H).

        The second are the last tokens, those of type 1; each has one token at least.
        """
        if lengths is None:
            lengths = torch.full_like(input_ids[:, 0], input_ids.shape[1])
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        second = torch.minimum((types * (place < lengths[:, None])).sum(dim=1).clamp(min=1), lengths - 1)
        moved = torch.minimum((lengths - second)[:, None] + place, lengths[:, None] - 1)
        both = torch.cat([input_ids, input_ids.gather(1, moved)])
        _, last = self.read(both, torch.cat([lengths - second, second]).clamp(min=1))
        u, v = last.chunk(2)
        return torch.cat([u, v, u * v, (u - v).abs()], dim=-1)


class BilstmForTokenClassification(BilstmPreTrainedModel):
    """One answer per token: `logits` (B, S, C)."""

    def __init__(self, config: BilstmConfig) -> None:
        super().__init__(config)
        self.out = nn.Linear(2 * config.hidden_size, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        labels: Tensor | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """input_ids, attention_mask: (B, S), padded on the right; labels: (B, S), -100 where there is none.

        hidden_states holds one: the states of both directions (B, S, 2·H).
        """
        states, _last = self.read(input_ids, None if attention_mask is None else attention_mask.sum(dim=1))
        logits = self.out(self.dropout(states))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=(states,) if output_hidden_states else None)


BilstmConfig.register_for_auto_class()
BilstmForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
BilstmForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
