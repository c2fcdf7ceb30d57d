"""The encoder: one post-norm Transformer whose layers may all differ, with a head per task.

This file imports torch, transformers and, of Penjing, packing.py and attending.py alone, because it travels with every model that is saved: there
`AutoModelFor….from_pretrained(folder, trust_remote_code=True)` runs it, and Penjing need not be installed.

Shapes: B texts, S tokens, H hidden, E embedding, R rank of the word table (E where it is whole), h heads of width w, n neurons,
V vocabulary, C outputs.
A layer without heads, or without neurons, keeps the bias and the norm of that block: that is what masking all of
them to zero computes, so cutting is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.hub import cached_file

from .attending import mask_left, pattern_logits, places_left, pooled, spread_evenly, within
from .packing import PACKED, load_packed


class PenjingConfig(PreTrainedConfig):
    """Sizes of the encoder, and how it computes.

    `layers` is a list of `[heads, neurons]`, or of `[heads, neurons, {…}]` where a layer computes anything unusual: its `activation` in
    place of `hidden_act`; the number of the layer whose weights it `shares`; its form of `attention` with its `span`; the percent of the
    `tokens` that go on. `exits` are the numbers of layers, from 1, behind which one more head answers the
    text.
    """

    model_type = "penjing"

    def __init__(
        self,
        vocab_size: int = 30522,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        embedding_size: int = 384,
        hidden_size: int = 384,
        head_width: int = 32,
        layers: list[list[Any]] | None = None,
        hidden_act: str = "gelu",
        head_act: str = "tanh",
        layer_norm_eps: float = 1e-12,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        initializer_range: float = 0.02,
        pooled_size: int = 0,
        embedding_rank: int = 0,
        exits: list[int] | None = None,
        position_rank: int = 0,
        pad_token_id: int | None = 0,
        origin: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.head_width = head_width
        self.layers = [list(layer) for layer in layers or []]
        self.num_hidden_layers = len(self.layers)
        self.hidden_act = hidden_act
        self.head_act = head_act
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.pooled_size = pooled_size
        self.embedding_rank = embedding_rank
        self.exits = list(exits or [])
        self.position_rank = position_rank
        self.origin = origin or {}
        kwargs.pop("num_hidden_layers", None)
        super().__init__(**{"pad_token_id": pad_token_id, **kwargs})


class Embeddings(nn.Module):
    """Words + positions + token types, normalised, and mapped to the encoder's width where that differs.

    Where the word table has a rank, it is `word` (V, R) times `word_map` (R, E), and never multiplied out; likewise the positions'.
    """

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__()
        width = config.embedding_size
        rank = config.embedding_rank
        self.word = nn.Embedding(config.vocab_size, rank or width)
        self.word_map = nn.Linear(rank, width, bias=False) if rank else None
        self.position = nn.Embedding(config.max_position_embeddings, config.position_rank or width)
        self.position_map = nn.Parameter(torch.zeros(width, config.position_rank)) if config.position_rank else None
        self.token_type = nn.Embedding(config.type_vocab_size, width) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(self, words: Tensor, token_types: Tensor | None) -> Tensor:
        """Embeddings of words (B, S, R) and token_types (B, S) → (B, S, H)."""
        x = words if self.word_map is None else self.word_map(words)
        position = self.position.weight[: words.shape[1]]
        x = x + (position if self.position_map is None else F.linear(position, self.position_map))
        if self.token_type is not None:
            # A tokenizer may tell two texts apart for a model that does not (RoBERTa with a vocabulary of BERT's kind).
            one = token_types is None or self.token_type.num_embeddings == 1
            x = x + (self.token_type.weight[0] if one else self.token_type(token_types))
        x = self.dropout(self.norm(x))
        return x if self.projection is None else self.projection(x)

    def unembed(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, S, E) times the whole word table transposed, plus bias (V,) → (B, S, V)."""
        x = x if self.word_map is None else x @ self.word_map.weight
        return F.linear(x, self.word.weight, bias)


class Attention(nn.Module):
    """Multi-head self-attention with its residual and norm (Vaswani et al. 2017, section 3.2), in one of the forms of attending.py.

    Where `tokens` is below 100, that percent of a text's tokens goes on: those that the first token attends to most.
    """

    def __init__(self, config: PenjingConfig, heads: int, attention: str = "full", span: int = 0, tokens: int = 100) -> None:
        super().__init__()
        self.heads = heads
        self.width = config.head_width
        self.form = attention
        self.span = span
        self.tokens = tokens if heads else 100
        self.dropout = config.attention_probs_dropout_prob
        inner = heads * config.head_width
        if heads:
            if attention != "fixed":
                self.query = nn.Linear(config.hidden_size, inner)
                self.key = nn.Linear(config.hidden_size, inner)
            self.value = nn.Linear(config.hidden_size, inner)
        self.pooling = nn.Parameter(spread_evenly(span, config.max_position_embeddings)) if heads and attention == "low-rank" else None
        self.pattern = nn.Parameter(torch.zeros(heads, 2 * span + 3)) if heads and attention == "fixed" else None
        self.output = Output(inner, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def closing(self) -> "Output":
        """The linear layer that closes the block; its inputs are the heads' contexts side by side."""
        return self.output

    @property
    def projections(self) -> dict[str, nn.Linear]:
        """The linear layers that read the block's input, by name: all three, the value's alone where heads are fixed, or none."""
        names = ("query", "key", "value") if self.form != "fixed" else ("value",)
        return {name: getattr(self, name) for name in names if self.heads}

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, S, H), mask (B, 1, 1, S) with True where there is a token → (B, S, H), or (B, K, H) of the tokens that go on."""
        if not self.heads:
            return self.norm(x + self.output_dropout(self.output(x.new_empty(*x.shape[:2], 0))))
        seen, dropout = x, self.dropout if self.training else 0.0
        if self.form == "window":
            mask = within(mask, x.shape[1], self.span, x.device)
        if self.pooling is not None:
            seen, mask = pooled(x, self.pooling, mask)
        v = self._split(self.value, seen)
        if self.pattern is not None:
            context = F.dropout(pattern_logits(self.pattern, x.shape[1], mask).softmax(-1), dropout) @ v
        else:
            k = self._split(self.key, seen)
            if self.tokens < 100:
                places = places_left(self.significance(x, k, mask), mask, self.tokens)  # (B, K)
                x = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
            q = self._split(self.query, x)
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)  # (B, heads, S or K, width)
        context = context.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.width)
        return self.norm(x + self.output_dropout(self.output(context)))

    def _split(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """What a projection gives of x (B, S, H), by head: (B, heads, S, width)."""
        y: Tensor = linear(x)
        return y.view(*x.shape[:2], self.heads, self.width).transpose(1, 2)

    def map(self, x: Tensor) -> Tensor:
        """The weights of full attention from token to token of texts without padding, x (B, S, H) → (B, heads, S, S)."""
        return (self._split(self.query, x) @ self._split(self.key, x).transpose(2, 3) / self.width**0.5).softmax(-1)

    def significance(self, x: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """The attention that each token gets from the first, the mean over heads: (B, S); k: keys (B, heads, S, width)."""
        scores = self._split(self.query, x[:, :1]) @ k.transpose(2, 3) / self.width**0.5  # (B, heads, 1, S)
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).mean(1)[:, 0]


class FeedForward(nn.Module):
    """Two linear layers with an activation between, residual and norm (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, config: PenjingConfig, neurons: int, activation: str = "") -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, neurons) if neurons else None
        self.activation: Callable[[Tensor], Tensor] = ACT2FN[activation or config.hidden_act]
        self.down = Output(neurons, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def closing(self) -> "Output":
        """The linear layer that closes the block; its inputs are the neurons' activations."""
        return self.down

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) → (B, S, H)."""
        neurons = x.new_empty(*x.shape[:-1], 0) if self.up is None else self.activation(self.up(x))  # (B, S, neurons)
        return self.norm(x + self.dropout(self.down(neurons)))


class Output(nn.Linear):
    """The linear layer that closes a block; with no input features left it is its bias alone."""

    def reset_parameters(self) -> None:
        if self.in_features:
            super().reset_parameters()
        else:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if self.in_features:
            return super().forward(input)
        return self.bias.expand(*input.shape[:-1], -1)


class Layer(nn.Module):
    """One encoder layer. With `owner` it runs that layer's blocks again, which are no modules of its own: they are stored once."""

    attention: Attention
    feed_forward: FeedForward

    def __init__(
        self, config: PenjingConfig, heads: int, neurons: int, activation: str = "", owner: "Layer | None" = None, **attention: Any
    ) -> None:
        super().__init__()
        if owner is None:
            self.attention = Attention(config, heads, **attention)
            self.feed_forward = FeedForward(config, neurons, activation)
        else:
            self.__dict__.update(attention=owner.attention, feed_forward=owner.feed_forward)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, H) → (B, S, H), or (B, K, H) where tokens are dropped."""
        return self.feed_forward(self.attention(x, mask))

    def mask_left(self, mask: Tensor | None) -> Tensor | None:
        """The mask of what this layer gives, of that of what it reads."""
        percent = self.attention.tokens
        return mask if mask is None or percent == 100 else mask_left(mask, percent)


def _packed_file(model: Any, arguments: dict[str, Any]) -> str | None:
    """The packed weights of a folder or repository; None where it has dense ones, which come first, or neither."""
    where = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    hub = {name: arguments[name] for name in where if name in arguments}
    for name in ("model.safetensors", "model.safetensors.index.json", PACKED):
        file = cached_file(model, name, _raise_exceptions_for_missing_entries=False, **hub)
        if file is not None:
            return file if name == PACKED else None
    return None


class PenjingPreTrainedModel(PreTrainedModel):
    """The base class of the encoder and of models with a head."""

    config: PenjingConfig
    config_class = PenjingConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012  (the base class declares it so)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any = None, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """As in transformers; a folder or repository with packed weights in place of dense ones is read as well."""
        model = pretrained_model_name_or_path
        packed = None if model is None else _packed_file(model, kwargs)
        if packed is None:
            return super().from_pretrained(model, *args, config=config, **kwargs)
        if not isinstance(config, PreTrainedConfig):
            dtype: dict[str, Any] = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
            config, kwargs = PenjingConfig.from_pretrained(config or model, return_unused_kwargs=True, **kwargs)
            kwargs |= dtype
        state = {name: torch.from_numpy(value) for name, value in load_packed(packed).items()}
        result = super().from_pretrained(None, *args, config=config, state_dict=state, **kwargs)
        loaded = result[0] if isinstance(result, tuple) else result
        loaded.name_or_path = loaded.config.name_or_path = str(model)
        return result

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            if module.weight.numel():
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, MaskedHead):
            nn.init.zeros_(module.bias)
        elif isinstance(module, Embeddings) and module.position_map is not None:
            nn.init.normal_(module.position_map, std=self.config.initializer_range)
        elif isinstance(module, Attention):
            if module.pooling is not None:
                module.pooling.copy_(spread_evenly(*module.pooling.shape))
            if module.pattern is not None:
                nn.init.zeros_(module.pattern)

    def get_input_embeddings(self) -> nn.Module:
        encoder: Any = self.base_model
        return encoder.embeddings.word

    def set_input_embeddings(self, value: nn.Module) -> None:
        encoder: Any = self.base_model
        encoder.embeddings.word = value


class PenjingModel(PenjingPreTrainedModel):
    """The bare encoder: `last_hidden_state` (B, S, H)."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        layers: list[Layer] = []
        for heads, neurons, *more in config.layers:
            how = dict(*more)
            shares = how.pop("shares", None)
            layers.append(Layer(config, heads, neurons, **how, owner=None if shares is None else layers[shares]))
        self.layers = nn.ModuleList(layers)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """input_ids, attention_mask, token_type_ids: (B, S), or inputs_embeds (B, S, R) → `BaseModelOutput`.

        hidden_states has layers + 1 entries.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of the two")
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word(input_ids)
        length = inputs_embeds.shape[1]
        positions = self.config.max_position_embeddings
        if length > positions:
            raise ValueError(f"the text has {length} tokens and the model {positions} positions; truncate it")
        mask = None if attention_mask is None else attention_mask.to(torch.bool)[:, None, None, :]  # (B, 1, 1, S)
        x = self.embeddings(inputs_embeds, token_type_ids)  # (B, S, H)
        states = [x]
        for layer in cast("list[Layer]", self.layers):
            x = layer(x, mask)
            mask = layer.mask_left(mask)
            states.append(x)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = BaseModelOutput(last_hidden_state=x, hidden_states=tuple(states) if wanted else None)
        return output if return_dict is not False else output.to_tuple()


class SequenceHead(nn.Module):
    """A dense layer on the first token, an activation, and a linear layer: the pooler and classifier of BERT,
    and the classification heads of RoBERTa, ELECTRA and DistilBERT, which differ in the activation alone."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__()
        width = config.pooled_size or config.hidden_size
        self.dense = nn.Linear(config.hidden_size, width)
        self.activation = nn.Tanh() if config.head_act == "tanh" else ACT2FN[config.head_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out = nn.Linear(width, config.num_labels or 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) → (B, C)."""
        return self.out(self.dropout(self.activation(self.dense(x[:, 0]))))


class TokenHead(nn.Module):
    """One linear layer on every token."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out = nn.Linear(config.hidden_size, config.num_labels or 0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, H) → (B, S, C)."""
        return self.out(self.dropout(x))


class MaskedHead(nn.Module):
    """Dense, activation, norm, and the word embedding transposed (Devlin et al. 2019, section 3.1)."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ACT2FN[config.head_act]
        self.norm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, embeddings: Embeddings) -> Tensor:
        """x (B, S, H) → (B, S, V)."""
        return embeddings.unembed(self.norm(self.activation(self.dense(x))), self.bias)


@dataclass
class ExitsOutput(SequenceClassifierOutput):
    """The answers of the last head, and where they were asked for those of each exit: `exit_logits`, (B, C) each."""

    exit_logits: tuple[Tensor, ...] | None = None


class PenjingForSequenceClassification(PenjingPreTrainedModel):
    """One answer per text: `logits` (B, C); with one output, regression. Behind each layer of `config.exits` stands a head of its own."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.encoder = PenjingModel(config)
        self.head = SequenceHead(config)
        self.exits = nn.ModuleList(SequenceHead(config) for _ in config.exits)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_exit_logits: bool = False,
        **inputs: Any,
    ) -> Any:
        """labels: (B,) class numbers, (B, C) for several labels at once, or (B,) values in regression."""
        return_dict = inputs.pop("return_dict", None)
        output = self.encoder(input_ids, output_hidden_states=output_exit_logits or output_hidden_states, **inputs)
        logits = self.head(output.last_hidden_state)
        loss = None if labels is None else self._loss(logits, labels)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        result = ExitsOutput(loss=loss, logits=logits, hidden_states=output.hidden_states if wanted else None)
        if output_exit_logits:
            states = [output.hidden_states[layer] for layer in self.config.exits]
            result.exit_logits = tuple(head(x) for head, x in zip(self.exits, states, strict=True))
        return result if return_dict is not False else result.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        if self.config.num_labels == 1:
            return F.mse_loss(logits.squeeze(-1), labels.float())
        return F.cross_entropy(logits, labels)


class PenjingForTokenClassification(PenjingPreTrainedModel):
    """One answer per token: `logits` (B, S, C)."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.encoder = PenjingModel(config)
        self.head = TokenHead(config)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **inputs: Any) -> Any:
        """labels: (B, S) class numbers, -100 where there is none."""
        return_dict = inputs.pop("return_dict", None)
        output = self.encoder(input_ids, **inputs)
        logits = self.head(output.last_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        result = TokenClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return result if return_dict is not False else result.to_tuple()


class PenjingForQuestionAnswering(PenjingPreTrainedModel):
    """A span of the text: `start_logits` and `end_logits` (B, S)."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.encoder = PenjingModel(config)
        self.head = TokenHead(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """start_positions, end_positions: (B,) token numbers."""
        return_dict = inputs.pop("return_dict", None)
        output = self.encoder(input_ids, **inputs)
        start, end = self.head(output.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (F.cross_entropy(start, start_positions) + F.cross_entropy(end, end_positions)) / 2
        result = QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end, hidden_states=output.hidden_states)
        return result if return_dict is not False else result.to_tuple()


class PenjingForMaskedLM(PenjingPreTrainedModel):
    """The word behind each mask: `logits` (B, S, V)."""

    def __init__(self, config: PenjingConfig) -> None:
        super().__init__(config)
        self.encoder = PenjingModel(config)
        self.head = MaskedHead(config)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, **inputs: Any) -> Any:
        """labels: (B, S) token numbers, -100 where there is none."""
        return_dict = inputs.pop("return_dict", None)
        output = self.encoder(input_ids, **inputs)
        logits = self.head(output.last_hidden_state, self.encoder.embeddings)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        result = MaskedLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return result if return_dict is not False else result.to_tuple()


PenjingConfig.register_for_auto_class()
PenjingModel.register_for_auto_class("AutoModel")
PenjingForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
PenjingForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
PenjingForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")
PenjingForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
